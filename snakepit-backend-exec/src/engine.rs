//! What both faces of the backend stand on: a guardian when there is need of one, and processes below it.

use std::{
    fmt, io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use snakepit_core::{
    RunId,
    launch::{LaunchError, LaunchLimits},
    process::{ContainmentLevel, ProcessIdentity, sweep::SweepTarget},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    cgroups::{self, RunCgroup, WorkerCgroup},
    containment::{ContainmentError, ContainmentReport, LevelRefused, in_full, level_of},
    guardian::{self, Lease},
    link::Packet,
    proc::Proc,
    request::{Program, Standard, os},
    settings::ExecSettings,
    task::{Life, Task},
    wire::{Level, Message, Request, SPAWN_CGROUP},
};

/// Processes that are being started at a time. Each needs up to seven descriptors in the host and as many on their way
/// to the guardian, which starts them one after the other anyway; a hundred fit into the usual limit of 1024.
const STARTS_AT_A_TIME: usize = 64;

/// Numbers what guardians are asked for; 0 is nobody.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

pub(crate) fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// Settings, and the guardian of the moment.
pub(crate) struct Engine {
    settings: ExecSettings,
    run_id: RunId,
    current: Mutex<Option<Current>>,
    /// Held by whoever starts a guardian.
    starting: tokio::sync::Mutex<()>,
    starts: Semaphore,
}

#[derive(Clone)]
struct Current {
    lease: Arc<Lease>,
    report: ContainmentReport,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("settings", &self.settings)
            .field("containment", &self.report())
            .finish_non_exhaustive()
    }
}

impl Engine {
    pub(crate) fn new(settings: ExecSettings) -> Self {
        Self {
            settings,
            run_id: RunId::current(),
            current: Mutex::new(None),
            starting: tokio::sync::Mutex::new(()),
            starts: Semaphore::new(STARTS_AT_A_TIME),
        }
    }

    /// One that has a guardian already.
    #[cfg(test)]
    pub(crate) fn with_guardian(settings: ExecSettings, lease: Arc<Lease>) -> Self {
        let report = ContainmentReport {
            level: level_of(lease.level),
            shared_namespace: false,
            user_namespace: false,
            refused: Vec::new(),
        };
        Self {
            current: Mutex::new(Some(Current { lease, report })),
            ..Self::new(settings)
        }
    }

    pub(crate) fn settings(&self) -> &ExecSettings {
        &self.settings
    }

    /// The guardian of the moment, where there is one.
    fn alive(&self) -> Option<Current> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.clone().filter(|current| current.lease.is_alive())
    }

    /// The report of the last guardian there was.
    pub(crate) fn report(&self) -> Option<ContainmentReport> {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|current| current.report.clone())
    }

    pub(crate) fn alive_guardian(&self) -> Option<Arc<Lease>> {
        self.alive().map(|current| current.lease)
    }

    /// Starts a guardian, if there is none.
    pub(crate) async fn ready(&self) -> Result<ContainmentReport, ContainmentError> {
        self.current().await.map(|current| current.report)
    }

    /// The guardian of the moment, or a new one; whoever comes while one is being started waits for that one.
    pub(crate) async fn guardian(&self) -> Result<Arc<Lease>, ContainmentError> {
        self.current().await.map(|current| current.lease)
    }

    async fn current(&self) -> Result<Current, ContainmentError> {
        if let Some(current) = self.alive() {
            return Ok(current);
        }
        let _single_flight = self.starting.lock().await;
        if let Some(current) = self.alive() {
            return Ok(current);
        }
        let (lease, refused) = self.strongest().await?;
        let report = ContainmentReport {
            level: level_of(lease.level),
            shared_namespace: lease.level == Level::SharedNamespace,
            user_namespace: lease.user_namespace,
            refused,
        };
        tracing::info!(guardian = lease.pidfd().pid(), containment = %report, "the guardian is ready");
        let current = Current { lease, report };
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(current.clone());
        Ok(current)
    }

    /// A guardian for the level that was asked for, or for the strongest there is, and what was refused.
    async fn strongest(&self) -> Result<(Arc<Lease>, Vec<LevelRefused>), ContainmentError> {
        let namespace = if self.settings.shared_namespace {
            Level::SharedNamespace
        } else {
            Level::Namespace
        };
        let levels: &[Level] = match self.settings.containment {
            None => &[namespace, Level::Cgroup, Level::Subreaper],
            Some(ContainmentLevel::Namespace) => &[namespace],
            Some(level) if self.settings.shared_namespace => {
                return Err(ContainmentError::NothingToShare(level));
            }
            Some(ContainmentLevel::Cgroup) => &[Level::Cgroup],
            Some(ContainmentLevel::Subreaper) => &[Level::Subreaper],
            Some(level) => return Err(ContainmentError::NoSuchLevel(level)),
        };
        let mut refused = Vec::new();
        for level in levels {
            let error = match guardian::start(*level, &self.settings, self.run_id).await {
                Ok(lease) => return Ok((lease, refused)),
                Err(error) => error,
            };
            let level = level_of(*level);
            if self.settings.containment.is_some() {
                return Err(ContainmentError::Unavailable { level, source: error });
            }
            tracing::debug!(%level, error = in_full(&error), "a containment level is not available");
            refused.push(LevelRefused {
                level,
                reason: in_full(&error),
                is_definite: error.is_definite(),
            });
        }
        Err(ContainmentError::NoneAvailable { refused })
    }

    /// Starts a program up to its gate.
    ///
    /// # Cancel safety
    /// Dropping the future leaves no process.
    pub(crate) async fn spawn(&self, program: Program, standard: Standard) -> Result<Proc, LaunchError> {
        let permit = self.starts.acquire().await;
        let _permit = permit.map_err(|error| os("start another process")(io::Error::other(error)))?;
        let spec = Arc::new(program.to_memory_file()?);
        let program = Arc::new(program);
        let mut last_try = false;
        loop {
            let lease = self
                .guardian()
                .await
                .map_err(ContainmentError::into_launch_error)?;
            match self.try_spawn(lease, &program, &spec, &standard).await {
                Ok(proc) => return Ok(proc),
                Err(Spawn::Failed(error)) => return Err(error),
                // Nothing was executed. The guardian was about to die, or hung, and there is another one by now.
                Err(Spawn::Lost) if !last_try => last_try = true,
                Err(Spawn::Lost) => {
                    return Err(os("create the process")(io::Error::other(
                        "the guardian died meanwhile",
                    )));
                }
            }
        }
    }

    async fn try_spawn(
        &self,
        lease: Arc<Lease>,
        program: &Arc<Program>,
        spec: &Arc<OwnedFd>,
        standard: &Standard,
    ) -> Result<Proc, Spawn> {
        let id = next_id();
        let cgroup = self.cgroup_for(&lease, id, &program.limits)?;
        let target = SweepTarget::Worker {
            run_id: program.run_id,
            worker_id: program.worker_id,
        };
        let mut fds = vec![Arc::clone(spec)];
        fds.extend(standard.iter().cloned());
        let (path, flags) = match cgroup {
            Some(made) => {
                fds.push(Arc::new(made.directory));
                (Some(made.cgroup), SPAWN_CGROUP)
            }
            None => (None, 0),
        };
        let task = Arc::new(Task::new(id, target, path));
        let mut launching = Launching {
            lease,
            task,
            kept: false,
        };
        let (lease, task) = (&launching.lease, &launching.task);
        if !lease.add(Arc::clone(task)) {
            // Nobody looks after it who would do so in the end. It is empty, so that this takes no time.
            task.cgroup.iter().for_each(cgroups::remove);
            return Err(Spawn::Lost);
        }
        let mut status = task.status();
        lease.post(Packet {
            message: Message::new(Request::Spawn, id).with(flags, 0, 0),
            fds,
        });
        let answer = async {
            tokio::select! {
                // What it said before it died is still true.
                biased;
                status = status.wait_for(|status| status.life != Life::Asked) => status.ok().map(|status| status.life),
                () = lease.dead() => None,
            }
        };
        let life = match timeout(self.settings.request_deadline, answer).await {
            Ok(Some(life)) => life,
            Ok(None) => return Err(Spawn::Lost),
            Err(_) if lease.confirm_alive().await => {
                return Err(Spawn::Failed(os("create the process")(
                    io::ErrorKind::TimedOut.into(),
                )));
            }
            Err(_) => return Err(Spawn::Lost),
        };
        if let Life::Refused(failure) = life {
            return Err(Spawn::Failed(failure.launch_error(program, lease.user_namespace)));
        }
        if let Err(error) = task.hold() {
            return Err(Spawn::Failed(os("read the identity of the new process")(error)));
        }
        launching.kept = true;
        Ok(Proc::new(
            Arc::clone(lease),
            Arc::clone(task),
            Arc::clone(program),
            self.settings.request_deadline,
        ))
    }

    fn cgroup_for(
        &self,
        lease: &Lease,
        id: u64,
        limits: &LaunchLimits,
    ) -> Result<Option<WorkerCgroup>, Spawn> {
        if lease.level != Level::Cgroup && !limits.needs_cgroup() {
            return Ok(None);
        }
        let make = || RunCgroup::create(self.settings.cgroup_parent.clone(), self.run_id);
        let run = lease.run_cgroup(make).map_err(|error| {
            Spawn::Failed(LaunchError::Unavailable {
                setting: first_limit(limits),
                reason: in_full(&error),
                source: None,
            })
        })?;
        run.worker(id, limits).map(Some).map_err(Spawn::Failed)
    }

    /// Ends everything, and waits until the guardian has left.
    pub(crate) async fn shutdown(&self, grace: Duration) -> Shutdown {
        let begun = Instant::now();
        let taken = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.take()
        };
        let mut remaining = Vec::new();
        if let Some(Current { lease, .. }) = taken {
            let tasks = lease.all_tasks();
            let ending: Vec<_> = tasks
                .into_iter()
                .map(|task| {
                    let lease = Arc::clone(&lease);
                    tokio::spawn(async move { crate::proc::end(&lease, &task, grace, false).await })
                })
                .collect();
            for one in ending {
                // A task that panicked has left its process to the guardian's end.
                if let Ok(report) = one.await {
                    remaining.extend(report.remaining);
                }
            }
            lease.dismiss(self.settings.request_deadline).await;
            lease.dead().await;
        }
        Shutdown {
            took: begun.elapsed(),
            remaining,
        }
    }
}

/// The setting that made a cgroup necessary.
fn first_limit(limits: &LaunchLimits) -> &'static str {
    limits
        .named()
        .find(|name| matches!(*name, "memory_bytes" | "pids" | "cpu_cores"))
        .unwrap_or("cgroup")
}

/// What shutting down took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shutdown {
    /// From the request until the guardian had left.
    pub took: Duration,
    /// What no signal could end.
    pub remaining: Vec<ProcessIdentity>,
}

/// Why there is no process.
enum Spawn {
    Failed(LaunchError),
    /// The guardian is dead, and nothing was executed.
    Lost,
}

/// A process that was asked for. Dropping it before it is kept ends it.
struct Launching {
    lease: Arc<Lease>,
    task: Arc<Task>,
    kept: bool,
}

impl Drop for Launching {
    fn drop(&mut self) {
        if !self.kept && self.task.ask(Duration::ZERO).is_some() {
            self.lease.post(Message::new(Request::Stop, self.task.id));
        }
    }
}
