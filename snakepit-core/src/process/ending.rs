//! Ending a process and everything it started.

mod deadline;

use std::{io, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use self::deadline::Deadline;
use super::{
    EndStep, Member, Pidfd, ProcessGroup, ProcessIdentity, descendants, identity,
    sweep::{SweepQuery, SweepTarget, sweep},
};

/// How long SIGKILL may take before an ending is reported incomplete. A process in state D dies when its
/// system call returns, which may be never.
const KILL_BOUND: Duration = Duration::from_secs(5);
/// SIGKILL is sent again this often, to members that were forked or found meanwhile.
const KILL_AGAIN: Duration = Duration::from_millis(100);
/// After SIGTERM the tree is looked at again when this has passed, then at doubling intervals.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// The longest of these intervals.
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// The pause after a look that failed, as for want of descriptors.
const FAILED_LOOK: Duration = Duration::from_millis(10);
/// Rounds of stopping what a sweep finds before killing it; each is one scan of all processes.
const FREEZE_ROUNDS: u32 = 50;

/// A process that was started as a group leader, and all that came of it: its group, its descendants, and
/// what carries its tags in the environment.
#[derive(Debug)]
pub struct Tree {
    leader: Arc<Pidfd>,
    leader_start: u64,
    group: ProcessGroup,
    target: SweepTarget,
    /// Known members other than the leader, those that have ended taken out now and then.
    members: Vec<Member>,
    swept: u32,
}

/// What it took to end a [`Tree`].
#[derive(Clone, Debug)]
pub struct TreeEnd {
    /// The last step that was needed.
    pub step: EndStep,
    /// Members found outside the leader's group.
    pub swept: u32,
    /// What is still there; empty unless `step` is [`EndStep::Incomplete`]. An incomplete end with nothing
    /// remaining means that emptiness could not be confirmed.
    pub remaining: Vec<ProcessIdentity>,
}

/// What looking at every process has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// Nobody that was not known.
    Clean,
    /// New members.
    New,
    /// Only members that ended while they were looked at, and may have forked before.
    Fleeting,
}

impl Tree {
    /// The tree of a process that was started as leader of its own group. `target` names what its descendants
    /// carry in their environment.
    pub fn new(leader: Arc<Pidfd>, identity: &ProcessIdentity, target: SweepTarget) -> Self {
        Self {
            group: ProcessGroup::led_by(Arc::clone(&leader)),
            leader,
            leader_start: identity.start_ticks,
            target,
            members: Vec::new(),
            swept: 0,
        }
    }

    /// Whether the leader must stay unreaped until the tree has ended; see [`ProcessGroup`].
    pub fn needs_unreaped_leader(&self) -> bool {
        self.group.needs_unreaped_leader()
    }

    /// Kills what can be reached at once: the leader, its group, and the descendants it has now. Does not
    /// wait, needs no runtime, and confirms nothing.
    pub fn kill_now(&mut self) {
        self.walk();
        self.kill_each();
    }

    /// Ends the tree: SIGTERM and SIGCONT, up to the deadline for the tree to become empty, then SIGKILL, then
    /// confirmation. A deadline that has passed skips SIGTERM; one that is moved is followed; `None` is none.
    ///
    /// `leader_gone` resolves when the leader has ended and has been reaped by whoever reaps it (on kernels
    /// where [`needs_unreaped_leader`](Self::needs_unreaped_leader) says so: has only ended).
    ///
    /// # Cancel safety
    /// Signals that were sent stay sent; calling it again goes on.
    pub async fn end<F: Future<Output = ()>>(
        &mut self,
        deadline: watch::Receiver<Option<Instant>>,
        leader_gone: impl Fn() -> F,
    ) -> TreeEnd {
        let mut deadline = Deadline::new(deadline);
        let mut step = EndStep::AlreadyGone;
        self.walk();
        let empty = self.ask(&mut deadline, &leader_gone, &mut step).await
            || self.force(&leader_gone, &mut step).await;
        if !empty {
            step = EndStep::Incomplete;
        }
        TreeEnd {
            step,
            swept: self.swept,
            remaining: self.remaining(),
        }
    }

    /// SIGTERM, and waiting until the deadline. `true` when the tree is confirmed to be empty.
    async fn ask<F: Future<Output = ()>>(
        &mut self,
        deadline: &mut Deadline,
        leader_gone: &impl Fn() -> F,
        step: &mut EndStep,
    ) -> bool {
        if !deadline.has_passed() && !self.is_quiet() {
            *step = EndStep::Term;
            self.ask_group();
            self.ask_strays(0);
        }
        let mut look = FIRST_LOOK;
        let mut looked_everywhere = false;
        while !deadline.has_passed() {
            let next_look = Instant::now() + look;
            let known_gone = tokio::select! {
                () = self.all_gone(leader_gone) => true,
                () = deadline.passed_or(next_look) => false,
            };
            if deadline.has_passed() {
                break;
            }
            self.forget_the_dead();
            let known = self.members.len();
            // A look that hangs must not outlast a deadline that is moved forward meanwhile by much.
            let bound = deadline.at().min(Instant::now() + LONGEST_LOOK);
            if known_gone {
                match self.discover(bound, None).await {
                    Ok(Look::Clean) => return true,
                    Ok(Look::New) => {}
                    Ok(Look::Fleeting) => sleep(FAILED_LOOK).await,
                    Err(error) => {
                        tracing::debug!(%error, "cannot look for what a process has left; trying again");
                        sleep(FAILED_LOOK).await;
                    }
                }
            } else {
                look = (look * 2).min(LONGEST_LOOK);
                self.walk();
                // What was orphaned before we looked gets its SIGTERM too, and not only SIGKILL in the end.
                if !looked_everywhere {
                    looked_everywhere = self.discover(bound, None).await.is_ok();
                }
            }
            if *step == EndStep::AlreadyGone && self.members.len() > known {
                self.ask_group();
            }
            if self.members.len() > known {
                *step = EndStep::Term;
                self.ask_strays(known);
            }
        }
        false
    }

    /// SIGKILL until nothing is found any more. `true` when the tree is confirmed to be empty.
    async fn force<F: Future<Output = ()>>(
        &mut self,
        leader_gone: &impl Fn() -> F,
        step: &mut EndStep,
    ) -> bool {
        let bound = Instant::now() + KILL_BOUND;
        let mut clean_looks_needed = 1;
        while Instant::now() < bound {
            self.forget_the_dead();
            if !self.is_quiet() {
                *step = EndStep::Kill;
                // Before its parent dies a child is found by the link to it, afterwards only by a sweep.
                self.walk();
                self.kill_each();
                let again = bound.min(Instant::now() + KILL_AGAIN);
                // Whether all are gone is asked anew below.
                let _ = timeout_at(again, self.all_gone(leader_gone)).await;
                self.forget_the_dead();
                if !self.is_quiet() {
                    continue;
                }
            }
            match self.discover(bound, Some(libc::SIGSTOP)).await {
                Ok(Look::Clean) => {
                    clean_looks_needed -= 1;
                    if clean_looks_needed == 0 {
                        return true;
                    }
                }
                Ok(Look::New | Look::Fleeting) => {
                    // A chain of forks can slip through one scan; two in a row are far less likely.
                    clean_looks_needed = 2;
                    self.freeze(bound).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot look for what a process has left; trying again");
                    sleep(FAILED_LOOK).await;
                }
            }
        }
        // Nothing that was stopped may stay so.
        self.kill_each();
        false
    }

    /// Stops what is found until nothing new is found: a stopped process forks no more, and keeps its place in
    /// the table of processes, so that a fork bomb cannot refill it.
    async fn freeze(&mut self, bound: Instant) {
        for _ in 0..FREEZE_ROUNDS {
            let look = self.discover(bound, Some(libc::SIGSTOP)).await;
            if !matches!(look, Ok(Look::New | Look::Fleeting)) {
                return;
            }
        }
    }

    /// Waits until all known members have ended.
    async fn all_gone<F: Future<Output = ()>>(&self, leader_gone: &impl Fn() -> F) {
        leader_gone().await;
        // All have to end, so that waiting for one after the other takes as long as the last takes.
        for member in &self.members {
            gone(&member.pidfd).await;
        }
    }

    fn is_quiet(&self) -> bool {
        self.leader.has_exited() && self.members.is_empty()
    }

    fn forget_the_dead(&mut self) {
        self.members.retain(|member| !member.pidfd.has_exited());
    }

    /// Sends SIGTERM to the group, then SIGCONT: a stopped process gets its SIGTERM only when it goes on.
    fn ask_group(&self) {
        for signal in [libc::SIGTERM, libc::SIGCONT] {
            if let Err(error) = self.group.signal(signal) {
                log_refusal(self.leader.pid(), signal, &error);
            }
        }
        if !self.leader.has_exited() && !self.is_in_group(&self.leader) {
            send(&self.leader, libc::SIGTERM);
            send(&self.leader, libc::SIGCONT);
        }
    }

    /// The same for members from index `from` on that are outside the group. Those inside had theirs with the
    /// group; one that was started since then may be what a member needs to clean up.
    fn ask_strays(&self, from: usize) {
        for member in &self.members[from..] {
            if !self.is_in_group(&member.pidfd) {
                send(&member.pidfd, libc::SIGTERM);
                send(&member.pidfd, libc::SIGCONT);
            }
        }
    }

    fn kill_each(&self) {
        if let Err(error) = self.group.signal(libc::SIGKILL) {
            log_refusal(self.leader.pid(), libc::SIGKILL, &error);
        }
        send(&self.leader, libc::SIGKILL);
        for member in &self.members {
            send(&member.pidfd, libc::SIGKILL);
        }
    }

    fn is_in_group(&self, pidfd: &Pidfd) -> bool {
        let stat = identity::stat_of(pidfd).ok().flatten();
        stat.is_some_and(|stat| stat.pgrp == self.group.pgid())
    }

    /// Adds the descendants that the links from parent to child lead to now.
    fn walk(&mut self) {
        let mut roots = vec![Arc::clone(&self.leader)];
        roots.extend(self.members.iter().map(|member| Arc::clone(&member.pidfd)));
        for root in roots {
            match descendants(&root) {
                Ok(found) => found.into_iter().for_each(|member| self.add(member)),
                Err(error) => tracing::debug!(pid = root.pid(), %error, "cannot list descendants"),
            }
        }
    }

    /// Looks at every process for members that are not known, and sends them a signal as they are found.
    async fn discover(&mut self, bound: Instant, signal: Option<i32>) -> io::Result<Look> {
        let query = SweepQuery {
            target: self.target,
            // A group without members cannot get new ones, and asking for it costs a look at every process.
            group: self.group.holds_number().then(|| self.group.clone()),
            signal,
        };
        let found = timeout_at(bound, sweep(query)).await??;
        let hidden = found.unreadable.iter();
        let hidden = hidden
            .filter(|stat| stat.start_ticks >= self.leader_start)
            .count();
        if hidden > 0 {
            tracing::debug!(
                pid = self.leader.pid(),
                hidden,
                "processes that started later cannot be looked into; one of them might belong to this one"
            );
        }
        let known = self.members.len();
        let mut fleeting = found.fleeting > 0;
        for member in found.members {
            fleeting |= member.pidfd.has_exited();
            self.add(member);
        }
        Ok(if self.members.len() > known {
            Look::New
        } else if fleeting {
            Look::Fleeting
        } else {
            Look::Clean
        })
    }

    fn add(&mut self, member: Member) {
        let is_leader = member.stat.pid == self.leader.pid() && member.stat.start_ticks == self.leader_start;
        if is_leader || member.pidfd.has_exited() || self.members.iter().any(|known| is_same(known, &member))
        {
            return;
        }
        if member.stat.pgrp != self.group.pgid() {
            self.swept += 1;
        }
        self.members.push(member);
    }

    fn remaining(&self) -> Vec<ProcessIdentity> {
        let leader = (!self.leader.has_exited()).then(|| ProcessIdentity::of(&self.leader));
        let members = self.members.iter().filter(|member| !member.pidfd.has_exited());
        leader
            .into_iter()
            .chain(members.map(Member::identity))
            .filter_map(Result::ok)
            .collect()
    }
}

fn is_same(one: &Member, other: &Member) -> bool {
    one.stat.pid == other.stat.pid && one.stat.start_ticks == other.stat.start_ticks
}

/// Waits for an exit, by looking if it cannot be watched.
async fn gone(pidfd: &Pidfd) {
    if let Err(error) = pidfd.exited().await {
        tracing::debug!(pid = pidfd.pid(), %error, "cannot watch for an exit; looking for it instead");
        while !pidfd.has_exited() {
            sleep(FAILED_LOOK).await;
        }
    }
}

fn send(pidfd: &Pidfd, signal: i32) {
    if let Err(error) = pidfd.signal(signal) {
        log_refusal(pidfd.pid(), signal, &error);
    }
}

/// A refused signal is no failure yet: what it was meant for is looked for again, and reported if it stays.
fn log_refusal(pid: u32, signal: i32, error: &io::Error) {
    if error.raw_os_error() != Some(libc::ESRCH) {
        tracing::debug!(pid, signal, %error, "signal refused");
    }
}

#[cfg(test)]
mod tests {
    use snakepit_proto::env;

    use super::{super::testing::Child, *};
    use crate::id::{RunId, WorkerId};

    struct Started {
        child: Child,
        tree: Tree,
        leader: Arc<Pidfd>,
    }

    /// A leader with a member in its group, both of which ignore SIGTERM if the first word says so.
    fn start(trap: &str) -> Started {
        let (run_id, worker_id) = (RunId::random(), WorkerId(1));
        let vars = [
            (env::RUN_ID, run_id.to_string()),
            (env::WORKER_ID, worker_id.0.to_string()),
        ];
        let script = format!("{trap} exec 3<&0; (read line <&3) & read line <&3");
        let child = Child::start_with_env(&script, &vars);
        let leader = Arc::new(Pidfd::open(child.pid()).unwrap());
        super::super::testing::eventually("the member is there", || {
            descendants(&leader).is_ok_and(|found| found.len() == 1)
        });
        let identity = ProcessIdentity::of(&leader).unwrap();
        let tree = Tree::new(
            Arc::clone(&leader),
            &identity,
            SweepTarget::Worker { run_id, worker_id },
        );
        Started { child, tree, leader }
    }

    async fn end(started: &mut Started, grace: Duration) -> TreeEnd {
        let deadline = watch::channel(Some(Instant::now() + grace)).1;
        let leader = Arc::clone(&started.leader);
        let gone = || {
            let leader = Arc::clone(&leader);
            async move { gone(&leader).await }
        };
        started.tree.end(deadline, gone).await
    }

    /// The leader stays a zombie, as it must on kernels that signal groups by number only.
    #[tokio::test]
    async fn ends_a_tree_whose_leader_stays_unreaped() {
        for (trap, grace, step) in [
            ("", Duration::from_secs(60), EndStep::Term),
            ("trap '' TERM;", Duration::from_millis(100), EndStep::Kill),
            ("", Duration::ZERO, EndStep::Kill),
        ] {
            for by_number in [false, true] {
                let mut started = start(trap);
                if by_number {
                    started.tree.group = ProcessGroup::led_by_number(Arc::clone(&started.leader));
                    assert!(started.tree.needs_unreaped_leader());
                }
                let ended = end(&mut started, grace).await;
                assert_eq!((ended.step, ended.swept), (step, 0), "{trap} {grace:?} {ended:?}");
                assert!(ended.remaining.is_empty(), "{ended:?}");
                let again = end(&mut started, Duration::from_secs(60)).await;
                assert_eq!(again.step, EndStep::AlreadyGone);
                assert_eq!(started.child.pid(), started.leader.pid());
            }
        }
    }

    #[tokio::test]
    async fn the_end_is_seen_also_if_the_reaper_is_silent() {
        let mut started = start("");
        let deadline = watch::channel(Some(Instant::now())).1;
        // Whoever reaps the leader never says so.
        let ending = started.tree.end(deadline, std::future::pending::<()>);
        let ended = tokio::time::timeout(KILL_BOUND * 2, ending).await.unwrap();
        // Its exit is seen all the same.
        assert_eq!(ended.step, EndStep::Kill);
        assert!(ended.remaining.is_empty());
    }
}
