//! What becomes of a worker, and of what it started, when something dies.

use std::{io, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    evidence::Evidence,
    ground::{Ground, eventually},
    host::{Host, is_frozen},
    marks::FAMILY,
    report::Verdict,
};
use crate::{
    launch::Launcher,
    process::{Pidfd, cgroup::Cgroup},
};

/// What is there after this long stays.
const BOUND: Duration = Duration::from_secs(5);

/// How long a cgroup may be busy with the end of what has been killed.
const REMOVE_BOUND: Duration = Duration::from_secs(5);

/// The worker itself, in reports.
pub(super) const WORKER: &str = "the worker";

/// Something that dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    WorkerEnded,
    WorkerKilled,
    HostKilled,
    HostExits,
    HostPanics,
    HostAndWorkerKilled,
    GuardianKilled,
    HostAndGuardianKilled,
    AllButWorkerKilled,
}

impl Death {
    pub(super) const ALL: [Self; 9] = [
        Self::WorkerEnded,
        Self::WorkerKilled,
        Self::HostKilled,
        Self::HostExits,
        Self::HostPanics,
        Self::HostAndWorkerKilled,
        Self::GuardianKilled,
        Self::HostAndGuardianKilled,
        Self::AllButWorkerKilled,
    ];

    /// As a report says it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::WorkerEnded => "the worker is ended",
            Self::WorkerKilled => "the worker is killed",
            Self::HostKilled => "the host is killed",
            Self::HostExits => "the host exits without a shutdown",
            Self::HostPanics => "the host panics",
            Self::HostAndWorkerKilled => "host and worker are killed at one instant",
            Self::GuardianKilled => "the guardian is killed",
            Self::HostAndGuardianKilled => "host and guardian are killed at one instant",
            Self::AllButWorkerKilled => "host, guardian and keepers are killed at one instant",
        }
    }

    /// Whom SIGKILL hits, or `None` where the launcher has no such process.
    fn victims(self, host: &Host) -> Option<Vec<&Arc<Pidfd>>> {
        let guardian = host.helpers.first();
        Some(match self {
            Self::WorkerEnded | Self::HostExits | Self::HostPanics => Vec::new(),
            Self::WorkerKilled => vec![&host.worker],
            Self::HostKilled => vec![&host.pidfd],
            Self::HostAndWorkerKilled => vec![&host.worker, &host.pidfd],
            Self::GuardianKilled => vec![guardian?],
            Self::HostAndGuardianKilled => vec![&host.pidfd, guardian?],
            Self::AllButWorkerKilled if host.helpers.len() > 1 => {
                host.helpers.iter().chain([&host.pidfd]).collect()
            }
            Self::AllButWorkerKilled => return None,
        })
    }
}

/// The cgroup of a worker, which whoever would have removed it may have left when it was killed. Removed when dropped.
#[derive(Debug, Default)]
struct LeftCgroup(Option<Cgroup>);

impl LeftCgroup {
    fn watch(&mut self, worker: u32) -> io::Result<()> {
        let own = Cgroup::own()?;
        self.0 = Cgroup::of(worker)?.filter(|cgroup| own.is_some_and(|own| own.path() != cgroup.path()));
        Ok(())
    }
}

impl Drop for LeftCgroup {
    fn drop(&mut self) {
        let Some(cgroup) = &self.0 else { return };
        if let Err(error) = cgroup.remove(REMOVE_BOUND) {
            tracing::warn!(path = %cgroup.path().display(), %error, "cannot remove a cgroup of a dead host");
        }
        // The host's own, where each worker has one below it. It is not empty if it is anything else.
        let _ = cgroup.path().parent().map(std::fs::remove_dir);
    }
}

/// Lets it come to a death in a host of its own, and says what became of the worker and of each of its family.
pub(super) async fn die(
    candidate: &str,
    launcher: Arc<dyn Launcher>,
    death: Death,
) -> Result<Vec<(&'static str, Verdict)>, Evidence> {
    // Dropped last: a cgroup can be removed when the ground is cleared.
    let mut cgroup = LeftCgroup::default();
    let ground = Ground::new(launcher)?;
    let mut host = Host::start(candidate, &ground.marks).await?;
    cgroup.watch(host.worker.pid())?;
    let mut family = ground.family().await?;
    let mut watched = vec![(WORKER, Arc::clone(&host.worker), None)];
    for (role, who) in FAMILY {
        let at = family.iter().position(|member| member.role == role);
        let at = at.ok_or_else(|| Evidence(format!("there is no `{role}`")))?;
        watched.push((who, Arc::new(family.swap_remove(at).pidfd), None));
    }
    let Some(victims) = death.victims(&host) else {
        let nothing = || Verdict::NotApplicable("there is no such process".into());
        return Ok(watched.into_iter().map(|(who, ..)| (who, nothing())).collect());
    };
    if victims.len() > 1 {
        // None of them sees another one die.
        for victim in &victims {
            victim.signal(libc::SIGSTOP)?;
        }
        let are_frozen = || Ok(victims.iter().all(|victim| is_frozen(victim)));
        eventually("the victims do not stop", are_frozen).await?;
    }
    let began = Instant::now();
    for victim in victims {
        match victim.signal(libc::SIGKILL) {
            // The first of a PID namespace takes the others in it along.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            killed => killed?,
        }
    }
    match death {
        Death::WorkerEnded => host.order("end")?,
        Death::HostExits => host.order("exit")?,
        Death::HostPanics => host.order("panic")?,
        _ => {}
    }
    while began.elapsed() < BOUND && watched.iter().any(|(.., gone)| gone.is_none()) {
        for (_, pidfd, gone) in &mut watched {
            if gone.is_none() && pidfd.has_exited() {
                *gone = Some(began.elapsed());
            }
        }
        sleep(Duration::from_millis(1)).await;
    }
    let verdict = |gone: Option<Duration>| match gone {
        Some(after) => Verdict::Passed(format!("gone after {:.1} ms", after.as_secs_f64() * 1000.0)),
        None => Verdict::NotPromised(format!("left after {} s", BOUND.as_secs())),
    };
    Ok(watched
        .into_iter()
        .map(|(who, _, gone)| (who, verdict(gone)))
        .collect())
}
