//! The launcher.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    launch::{
        ChannelForm, ChildProcess, LaunchError, LaunchSpec, LaunchedProcess, Launcher, ProcessIo, check_cwd,
        environment, resolve_program,
    },
    ledger::Ledger,
};
use tokio::{sync::watch, time::timeout};

use crate::{
    ZygoteSettings,
    error::{NAME, TemplateError, launch_error},
    leaf::Leaf,
    nest::Nest,
    process::{ForkedProcess, Gate, Kept},
    template::{self, Forked, Means, Template},
    wire::Fork,
};

/// Templates that a launch tries that end as soon as they are ready.
const STARTS: usize = 3;
/// How long [`close`](Launcher::close) waits for the end of a template.
const CLOSES: Duration = Duration::from_secs(10);

/// Forks workers from a warmed interpreter; see the [crate's documentation](crate) for what that promises.
///
/// The template is started with the first launch, and again with the next one after it has ended.
#[derive(Debug)]
pub struct ZygoteLauncher {
    name: String,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    means: Means,
    current: Mutex<Current>,
}

/// What has come of a start, once that is known. The template itself is in [`Current`], so that nobody else holds it.
type Started = Option<Result<(), Arc<TemplateError>>>;

/// The template, as far as it is there.
#[derive(Debug)]
enum Current {
    None,
    /// All who want it wait for the same start.
    Starting(watch::Receiver<Started>),
    Ready(Arc<Template>),
}

impl ZygoteLauncher {
    /// A launcher whose template is started by `launcher`: what that promises of a process and its tree holds for the
    /// template and all that is forked from it.
    pub fn new(launcher: Arc<dyn Launcher>, settings: ZygoteSettings) -> Self {
        Self::with(Means {
            settings: Arc::new(settings),
            launcher,
            ledger: None,
        })
    }

    /// Records templates in this ledger, as workers are recorded by the pool.
    #[must_use]
    pub fn with_ledger(self, ledger: Arc<dyn Ledger>) -> Self {
        Self::with(Means {
            ledger: Some(ledger),
            ..self.state.means.clone()
        })
    }

    fn with(means: Means) -> Self {
        Self {
            name: format!("{NAME}+{}", means.launcher.name()),
            state: Arc::new(State {
                means,
                current: Mutex::new(Current::None),
            }),
        }
    }

    /// Starts the template if there is none, and returns when it has imported everything.
    ///
    /// # Errors
    /// Why there is none.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    ///
    /// # Cancel safety
    /// The start goes on for the next who asks.
    pub async fn warm(&self) -> Result<(), Arc<TemplateError>> {
        self.state.template().await.map(drop)
    }
}

impl State {
    fn current(&self) -> MutexGuard<'_, Current> {
        // Only ever assigned as a whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn template(self: &Arc<Self>) -> Result<Arc<Template>, Arc<TemplateError>> {
        for _ in 0..STARTS {
            let mut started = match self.now() {
                Ok(template) => return Ok(template),
                Err(started) => started,
            };
            match started.wait_for(Option::is_some).await.as_deref() {
                // It is looked at anew: it may have ended meanwhile.
                Ok(Some(Ok(()))) => {}
                Ok(Some(Err(error))) => return Err(Arc::clone(error)),
                Ok(None) | Err(_) => {
                    let error = io::Error::other("its start was cut off: the runtime is shutting down");
                    return Err(Arc::new(TemplateError::Socket(error)));
                }
            }
        }
        let error = io::Error::other(format!("it has ended {STARTS} times as soon as it was ready"));
        Err(Arc::new(TemplateError::Socket(error)))
    }

    /// The template, if no process that was forked from it lives.
    fn take_unused(&self) -> Option<Arc<Template>> {
        let mut current = self.current();
        let Current::Ready(template) = &*current else {
            return None;
        };
        if Arc::strong_count(template) > 1 {
            return None;
        }
        match std::mem::replace(&mut *current, Current::None) {
            Current::Ready(template) => Some(template),
            Current::None | Current::Starting(_) => None,
        }
    }

    /// The template, or the start of one.
    fn now(self: &Arc<Self>) -> Result<Arc<Template>, watch::Receiver<Started>> {
        let mut current = self.current();
        match &*current {
            Current::Ready(template) if template.is_alive() => {
                if !template.has_grown() {
                    return Ok(Arc::clone(template));
                }
                tracing::warn!("the template has grown much since it was ready: starting a new one");
            }
            Current::Starting(started) => return Err(started.clone()),
            Current::Ready(_) | Current::None => {}
        }
        let (done, started) = watch::channel(None);
        // An old one is dropped outside of the lock, where it may end.
        let old = std::mem::replace(&mut *current, Current::Starting(started.clone()));
        drop(current);
        drop(old);
        tokio::spawn(start(Arc::downgrade(self), self.means.clone(), done));
        Err(started)
    }
}

async fn start(state: Weak<State>, means: Means, done: watch::Sender<Started>) {
    let (next, told) = match template::start(&means).await {
        Ok(template) => (Current::Ready(Arc::new(template)), Ok(())),
        Err(error) => (Current::None, Err(Arc::new(error))),
    };
    // A launcher that is gone wants no template.
    if let Some(state) = state.upgrade() {
        *state.current() = next;
    }
    done.send_replace(Some(told));
}

#[async_trait]
impl Launcher for ZygoteLauncher {
    /// `zygote+`, and the name of the launcher of the template.
    fn name(&self) -> &str {
        &self.name
    }

    /// They are: a fork costs little before its gate opens.
    fn holds(&self) -> bool {
        true
    }

    /// With a template of its own, which the first launch starts.
    fn renewed(&self) -> Option<Arc<dyn Launcher>> {
        Some(Arc::new(Self::with(self.state.means.clone())))
    }

    /// A template that processes live of is left to them: another pool may have this launcher, too.
    async fn close(&self) {
        let starting = match &*self.state.current() {
            Current::Starting(started) => Some(started.clone()),
            Current::None | Current::Ready(_) => None,
        };
        if let Some(mut started) = starting {
            // Whether it comes to anything is seen below.
            let _ = started.wait_for(Option::is_some).await;
        }
        let Some(template) = self.state.take_unused() else {
            return;
        };
        let mut ended = template.end_seen();
        drop(template);
        if timeout(CLOSES, ended.wait_for(|ended| *ended)).await.is_err() {
            tracing::warn!("a template does not end");
        }
    }

    /// # Errors
    /// [`LaunchError::Unsupported`] for limits that are not those of the settings, [`LaunchError::Cwd`] and
    /// [`LaunchError::Exec`] for what they name, [`LaunchError::Backend`] when the template cannot import what it is to have
    /// or runs threads, [`LaunchError::Os`] when there is no template, no process or no descriptor for another reason.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        self.check_limits(spec)?;
        if let Some(path) = &spec.cwd {
            check_cwd(path).map_err(|source| LaunchError::Cwd {
                path: path.clone(),
                source,
            })?;
        }
        let of_worker = self.state.means.settings.of_worker(&spec.program, &spec.args);
        let program = match of_worker {
            Some(_) => None,
            None => Some(resolve_program(&spec.program).map_err(exec(spec))?),
        };
        let args: Vec<&OsStr> = match of_worker {
            Some(args) => args.iter().map(AsRef::as_ref).collect(),
            None => [spec.program.as_os_str()]
                .into_iter()
                .chain(spec.args.iter().map(AsRef::as_ref))
                .collect(),
        };
        if let Some(arg) = args.iter().find(|arg| arg.as_encoded_bytes().contains(&0)) {
            let reason = format!("the argument `{}` has a NUL byte", arg.display());
            return Err(exec(spec)(io::Error::new(io::ErrorKind::InvalidInput, reason)));
        }
        let env = environment(spec)
            .map_err(os("set the environment"))?
            .into_iter()
            .collect();
        let template = self.state.template().await.map_err(launch_error)?;
        let (io, mut fds) = descriptors(spec)?;
        let gate = match &program {
            None => None,
            Some(_) => {
                let (socket, theirs) = UnixStream::pair().map_err(os("create the gate"))?;
                fds.push(theirs.into());
                Some(Gate::new(spec.program.clone(), socket))
            }
        };
        let leaf = Leaf::new(&template.containment()).map_err(os("create a cgroup for it"))?;
        let leaf = leaf.map(|(leaf, entrance)| {
            fds.push(entrance);
            Arc::new(leaf)
        });
        let fork = Fork {
            cwd: spec.cwd.as_deref(),
            program: program.as_deref(),
            args,
            env,
        };
        let Forked { pidfd, first, exited } = template.fork(&fork, fds).await?;
        let pidfd = Arc::new(pidfd);
        let outcome = template::outcome(Arc::clone(&pidfd), exited);
        let process = ChildProcess::reaped_by_another(spec, pidfd, io, outcome)?;
        let nest = first
            .map(Nest::new)
            .transpose()
            .map_err(os("look at the first process of its namespace"))?;
        Ok(Arc::new(ForkedProcess::new(
            process,
            Kept { nest, leaf },
            gate,
            template,
        )))
    }
}

impl ZygoteLauncher {
    fn check_limits(&self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        let template = &self.state.means.settings.limits;
        let shared = template.needs_cgroup();
        if (spec.limits == *template && !shared) || spec.limits == Default::default() {
            return Ok(());
        }
        let cgroup = ["memory_bytes", "pids", "cpu_cores"];
        let mut named = spec.limits.named();
        let setting = named.find(|name| !shared || cgroup.contains(name));
        Err(LaunchError::Unsupported {
            launcher: self.name.clone(),
            setting: setting.unwrap_or("limits that differ from those of the template"),
        })
    }
}

/// The host's descriptors, and those of the process.
fn descriptors(spec: &LaunchSpec) -> Result<(ProcessIo, Vec<OwnedFd>), LaunchError> {
    let mut io = ProcessIo::default();
    let mut theirs = Vec::new();
    if spec.channel == ChannelForm::Inherited {
        let (ours, end) = UnixStream::pair().map_err(os("create the channel"))?;
        io.channel = Some(ours);
        theirs.push(end.into());
    } else {
        theirs.push(File::open("/dev/null").map_err(os("open /dev/null"))?.into());
    }
    for ours in [&mut io.stdout, &mut io.stderr] {
        let (reading, writing) = io::pipe().map_err(os("create a pipe for its output"))?;
        *ours = Some(reading.into());
        theirs.push(writing.into());
    }
    Ok((io, theirs))
}

fn os(step: &'static str) -> impl Fn(io::Error) -> LaunchError {
    move |source| LaunchError::Os { step, source }
}

fn exec(spec: &LaunchSpec) -> impl Fn(io::Error) -> LaunchError {
    let program = spec.program.clone();
    move |source| LaunchError::Exec {
        program: program.clone(),
        source,
    }
}
