//! Starting a guardian.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::{Child, ChildStderr, Stdio},
    sync::{Arc, Mutex},
};

use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, env, environment},
    process::Pidfd,
};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{Guardian, Lease, Life, Tasks, actor, os};
use crate::{
    cgroups::RunCgroup,
    containment::GuardianError,
    embedded,
    link::{self, Link, Packet, Received},
    settings::ExecSettings,
    steps::{Failure, words},
    wire::{Event, Level, Message, Request, Step, VERSION},
};

/// A process that is not spoken with yet. Dropping it kills and reaps it.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) child: Option<Child>,
    pub(super) socket: Option<OwnedFd>,
    pub(super) cgroup: Option<RunCgroup>,
}

/// The longest last words that are passed on.
const LAST_WORDS: usize = 4096;

impl Fresh {
    /// What it has written to its standard error. Whoever ends has written before.
    fn said(&mut self) -> String {
        let mut bytes = vec![0; LAST_WORDS];
        let pipe = self.child.as_mut().and_then(|child| child.stderr.as_mut());
        let read = |pipe: &mut ChildStderr| {
            rustix::fs::fcntl_setfl(&*pipe, rustix::fs::OFlags::NONBLOCK).ok()?;
            pipe.read(&mut bytes).ok()
        };
        let len = pipe.and_then(read).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned()
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It is not reaped, so that the number is its own. What it may have started dies with it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a guardian for one level, or says why there is none; nothing of it is left then.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
/// Dropping the future leaves no guardian.
pub(crate) async fn start(
    level: Level,
    settings: &ExecSettings,
    run_id: RunId,
) -> Result<Arc<Lease>, GuardianError> {
    let parent = settings.cgroup_parent.clone();
    // Writing the program into memory and waiting for its execution.
    let create = move || create(level, parent, run_id);
    let fresh = tokio::task::spawn_blocking(create).await;
    let fresh = fresh.map_err(|error| GuardianError::Os {
        step: "run the thread that starts the guardian",
        source: error.into(),
    })??;
    greet(fresh, level, settings).await
}

fn create(level: Level, parent: Option<PathBuf>, run_id: RunId) -> Result<Fresh, GuardianError> {
    let cgroup = match level {
        Level::Cgroup => Some(RunCgroup::create(parent, run_id)?),
        Level::Subreaper | Level::Namespace | Level::SharedNamespace => None,
    };
    let (ours, theirs) = link::pair().map_err(os("create the socket to the guardian"))?;
    let variables = variables(run_id).map_err(os("read the identity of this process"))?;
    let child = embedded::spawn(|command| {
        // No hook: it would make the start a fork of the whole host.
        command.env_clear().envs(variables.iter().cloned());
        command.stdin(theirs.try_clone()?);
        // Our end of the pipe closes when we die, whereupon the kernel continues a guardian that is stopped.
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(())
    })
    .map_err(os("execute the guardian"))?;
    Ok(Fresh {
        child: Some(child),
        socket: Some(ours),
        cgroup,
    })
}

/// By which a guardian that was left over is found: it belongs to the run, and to no worker.
fn variables(run_id: RunId) -> io::Result<Vec<(&'static str, OsString)>> {
    let all = environment(&LaunchSpec {
        run_id,
        worker_id: WorkerId(0),
        program: PathBuf::new(),
        args: Vec::new(),
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    })?;
    let kept = [env::RUN_ID, env::HOST, env::OUTER_RUN_IDS];
    let variable = |name| Some((name, all.get(OsStr::new(name))?.clone()));
    Ok(kept.into_iter().filter_map(variable).collect())
}

/// Says hello, and hands the guardian to the task that listens to it.
pub(super) async fn greet(
    mut fresh: Fresh,
    level: Level,
    settings: &ExecSettings,
) -> Result<Arc<Lease>, GuardianError> {
    let socket = fresh.socket.take().ok_or(GuardianError::Protocol)?;
    let link = Link::new(socket).map_err(os("watch the socket to the guardian"))?;
    let pid = fresh.child.as_ref().map_or(0, Child::id);
    let pidfd = Pidfd::open(pid).map_err(os("open a pidfd of the guardian"))?;
    let host = Pidfd::open(std::process::id()).map_err(os("open a pidfd of this process"))?;
    let host = host.as_fd().try_clone_to_owned();
    let mut fds = vec![Arc::new(host.map_err(os("open a pidfd of this process"))?)];
    if let Some(cgroup) = &fresh.cgroup {
        fds.push(Arc::new(cgroup.directory().map_err(os("open a cgroup"))?));
    }
    let grace = i64::try_from(settings.host_death_grace.as_millis()).unwrap_or(i64::MAX);
    link.post(Packet {
        message: Message::new(Request::Hello, 0).with(i64::from(VERSION), level as i64, grace),
        fds,
    });
    let answer = async {
        tokio::select! {
            answer = link.receive() => answer,
            error = link.flush() => Err(error),
        }
    };
    let answer = timeout(settings.request_deadline, answer).await;
    let answer = answer.map_err(|_| GuardianError::Silent(settings.request_deadline))?;
    match answer.map_err(os("hear the guardian"))? {
        Received::Event(welcome, _) if welcome.kind == Event::Welcome => {
            if (welcome.a, welcome.b) != (i64::from(VERSION), level as i64) {
                return Err(GuardianError::Protocol);
            }
        }
        Received::Event(refused, _) if refused.kind == Event::Refused => {
            let failure = Failure::from_numbers(refused.a, refused.b);
            return Err(match failure.step {
                Step::Protocol => GuardianError::Protocol,
                step => GuardianError::Refused {
                    step: words(step),
                    source: failure.source(),
                },
            });
        }
        Received::End => return Err(GuardianError::Ended { said: fresh.said() }),
        Received::Event(..) | Received::Nonsense => return Err(GuardianError::Protocol),
    }
    let guardian = Arc::new(Guardian {
        level,
        user_namespace: has_another_user_namespace(pid),
        cgroup: Mutex::new(fresh.cgroup.take().map(Arc::new)),
        link,
        pidfd: Arc::new(pidfd),
        tasks: Mutex::new(Tasks::default()),
        heard: watch::Sender::new(0),
        life: watch::Sender::new(Life::Alive),
        fewer: Notify::new(),
    });
    let owned = actor::Owned {
        guardian: Arc::clone(&guardian),
        child: fresh.child.take(),
        patience: actor::patience(settings),
    };
    tokio::spawn(actor::run(owned, settings.clone()));
    Ok(Arc::new(Lease { guardian }))
}

/// Whether a process of ours is in a user namespace of its own.
fn has_another_user_namespace(pid: u32) -> bool {
    let namespace = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
    namespace(&pid.to_string()) != namespace("self")
}
