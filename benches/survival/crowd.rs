//! The processes of an experiment, and their end.
//!
//! This program is a subreaper, prctl(2): whatever gets away from a dead host becomes a child of it. So everything
//! that an experiment has started is below this process, and only one experiment is under way at a time.

use std::{collections::HashMap, fs, os::fd::AsFd as _, sync::Arc, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{WaitId, WaitIdOptions, WaitOptions, getpid, set_child_subreaper, wait, waitid},
};
use snakepit_core::process::{Pidfd, Stat};
use tokio::time::Instant;

use crate::Result;

/// How often those are tried to reap that have ended and did not belong to this process yet.
const REAP: Duration = Duration::from_millis(10);

/// How long an experiment may take to get into place.
const PATIENCE: Duration = Duration::from_secs(60);

/// The name of the process that becomes the next worker of a guardian.
pub(crate) const MADE_AHEAD: &str = "snakepit-worker";

/// Processes, each held by a pidfd that was taken while it lived.
#[derive(Debug)]
pub(crate) struct Crowd(Vec<One>);

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct One {
    pub(crate) pidfd: Arc<Pidfd>,
    pub(crate) parent: u32,
    /// Its `comm`.
    pub(crate) name: String,
    stopped: bool,
}

impl One {
    /// The one that was seen, unless it has ended.
    fn held(seen: &Stat) -> Option<Self> {
        let pidfd = Pidfd::open(seen.pid).ok()?;
        let stat = Stat::read(seen.pid).ok()?;
        let name = fs::read_to_string(format!("/proc/{}/comm", seen.pid)).ok()?;
        let is_it = stat.start_ticks == seen.start_ticks && !stat.is_dead();
        is_it.then(|| Self {
            pidfd: Arc::new(pidfd),
            parent: stat.ppid,
            name: name.trim_end().to_owned(),
            stopped: stat.state == b'T',
        })
    }

    /// Reaps it if it has come to this process. A namespace ends only when all its zombies are reaped, also those whose
    /// parent is outside. A process that was our child from the start belongs to whoever started it.
    fn reap(&self) {
        if self.parent != std::process::id() {
            // It may have another parent than this process, which reaps it.
            let _ = waitid(
                WaitId::PidFd(self.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            );
        }
    }

    /// Whether it is one of the five that are hard to end.
    pub(crate) fn is_hard_to_end(&self) -> bool {
        self.name.starts_with("t-")
    }
}

impl Crowd {
    /// Has orphans come to this process.
    pub(crate) fn adopt() -> Result<()> {
        Ok(set_child_subreaper(Some(getpid()))?)
    }

    /// Everything below this process, once it is what the experiment needs.
    pub(crate) fn gather(what: &str, complete: impl Fn(&Self) -> bool) -> Result<Self> {
        let began = Instant::now();
        loop {
            let crowd = Self::now()?;
            if complete(&crowd) {
                return Ok(crowd);
            }
            if began.elapsed() > PATIENCE {
                let names: Vec<_> = crowd.0.iter().map(|one| one.name.as_str()).collect();
                return Err(format!("{what} did not get into place: {names:?}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks at `stat` alone: what was read below `/proc/PID/task` would have to be forgotten by the kernel when the process is
    /// reaped, which takes a tenth of the time in which a hundred workers end.
    fn now() -> Result<Self> {
        let mut children: HashMap<u32, Vec<Stat>> = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let pid = entry?.file_name().to_str().and_then(|name| name.parse().ok());
            if let Some(stat) = pid.and_then(|pid| Stat::read(pid).ok()) {
                children.entry(stat.ppid).or_default().push(stat);
            }
        }
        let mut crowd = Vec::new();
        let mut parents = vec![std::process::id()];
        while let Some(parent) = parents.pop() {
            for stat in children.remove(&parent).unwrap_or_default() {
                parents.push(stat.pid);
                crowd.extend(One::held(&stat));
            }
        }
        Ok(Self(crowd))
    }

    /// How many have this name.
    pub(crate) fn named(&self, name: &str) -> usize {
        self.0.iter().filter(|one| one.name == name).count()
    }

    /// The one that has this name.
    pub(crate) fn one_named(&self, name: &str) -> Option<&One> {
        self.0.iter().find(|one| one.name == name)
    }

    /// Whether the five that are hard to end are there, the stopped one stopped.
    pub(crate) fn has_tree(&self) -> bool {
        let five = self.0.iter().filter(|one| one.is_hard_to_end()).count();
        five == 5 && self.0.iter().any(|one| one.name == "t-stopped" && one.stopped)
    }

    /// Those with this parent.
    pub(crate) fn children_of(&self, parent: u32) -> Vec<One> {
        let children = self.0.iter().filter(|one| one.parent == parent);
        children.cloned().collect()
    }

    /// Those that match.
    pub(crate) fn only(self, wanted: impl Fn(&One) -> bool) -> Self {
        Self(self.0.into_iter().filter(wanted).collect())
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nobody.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Blocks until all have ended and says how long after `since` that was; `None` when it takes longer than `bound`.
    pub(crate) fn gone(&self, since: Instant, bound: Duration) -> Option<Duration> {
        let (left, last) = self.watch(since, bound);
        left.is_empty().then_some(last)
    }

    /// The names of those that live after `bound`, and when the last of the others was seen to end.
    pub(crate) fn left(&self, since: Instant, bound: Duration) -> (Vec<String>, Duration) {
        let (left, last) = self.watch(since, bound);
        let mut names: Vec<_> = left.iter().map(|one| one.name.clone()).collect();
        names.sort_unstable();
        (names, last)
    }

    fn watch(&self, since: Instant, bound: Duration) -> (Vec<&One>, Duration) {
        let mut alive: Vec<&One> = self.0.iter().collect();
        // Who has ended comes to this process a little later, when whoever was its parent has ended as well.
        let mut ended: Vec<&One> = Vec::new();
        let mut last = Duration::ZERO;
        while !alive.is_empty() {
            let left = bound.saturating_sub(since.elapsed());
            let pause = if ended.is_empty() { left } else { left.min(REAP) };
            let mut polls: Vec<_> = alive
                .iter()
                .map(|one| PollFd::new(&*one.pidfd, PollFlags::IN))
                .collect();
            match poll(&mut polls, Timespec::try_from(pause).ok().as_ref()) {
                Ok(0) if left.is_zero() => break,
                Ok(0) => {
                    ended.iter().for_each(|one| one.reap());
                    continue;
                }
                Ok(_) => last = since.elapsed(),
                // Interrupted: the next look knows.
                Err(_) => continue,
            }
            let has_ended: Vec<_> = polls.iter().map(|poll| !poll.revents().is_empty()).collect();
            let mut has_ended = has_ended.into_iter();
            alive.retain(|&one| {
                let has_ended = has_ended.next().unwrap_or(false);
                if has_ended {
                    one.reap();
                    ended.push(one);
                }
                !has_ended
            });
        }
        (alive, last)
    }
}

/// Ends everything below this process and reaps what came to it.
pub(crate) fn leave_nothing() -> Result<()> {
    let began = Instant::now();
    loop {
        let crowd = Crowd::now()?;
        for one in &crowd.0 {
            // It may be through with its end meanwhile.
            let _ = one.pidfd.signal(libc::SIGKILL);
        }
        // Without children, or with none that has ended, there is no more to reap.
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        if crowd.is_empty() {
            return Ok(());
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("these cannot be ended: {crowd:?}").into());
        }
        crowd.gone(Instant::now(), Duration::from_millis(20));
    }
}
