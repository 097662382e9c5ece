//! Ending what one dead run has left behind.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;
use snakepit_core::{
    RunId, WorkerId,
    ledger::Row,
    process::{
        ContainmentLevel, IdentifyError, Pidfd, ProcessIdentity, Stat, Tree,
        cgroup::Cgroup,
        ourselves_and_ancestors,
        sweep::{Found, SweepQuery, SweepTarget, Tagged, sweep},
    },
};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::report::{FoundBy, FoundProcess, ProcessEnd};

/// How often in a row everything has to be looked at without finding anything.
const CLEAN_LOOKS: u32 = 2;
/// How long what was sent SIGKILL may take to go before it is looked for again.
const KILL_AGAIN: Duration = Duration::from_millis(200);
/// The pause after a look that failed, as for want of descriptors.
const FAILED_LOOK: Duration = Duration::from_millis(20);
/// How long a process that was killed may be about to end. More than some milliseconds means that it, or something in the
/// namespace it holds, is in state D.
const DYING: Duration = Duration::from_secs(2);

const NO_TIME: &str = "the time for it ran out";

fn cannot_look(error: &io::Error) -> String {
    format!("cannot look at all processes: {error}")
}

/// What must never be ended: this process and its ancestors.
#[derive(Clone, Debug)]
pub(super) struct Ourselves {
    pids: HashSet<u32>,
    groups: HashSet<u32>,
}

impl Ourselves {
    pub(super) fn look() -> io::Result<Self> {
        let pids: HashSet<u32> = ourselves_and_ancestors()?.into_iter().collect();
        let stats = pids.iter().filter_map(|pid| Stat::read(*pid).ok());
        Ok(Self {
            groups: stats.map(|stat| stat.pgrp).collect(),
            pids,
        })
    }
}

/// One dead run, and how to end what is left of it.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    pub(super) run_id: RunId,
    /// When its host started; nothing of the run is older. In the kernel's clock ticks since the boot.
    pub(super) since: Option<u64>,
    pub(super) rows: &'a [Row],
    /// Processes that carried a run in their environment when all were looked at.
    pub(super) tagged: &'a [Tagged],
    pub(super) ours: &'a Ourselves,
    pub(super) grace: Duration,
    pub(super) deadline: Instant,
}

/// A process that was found, and what is known of it.
struct Known {
    identity: ProcessIdentity,
    worker: Option<WorkerId>,
    program: String,
    by: FoundBy,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) found: Vec<FoundProcess>,
    pub(super) notes: Vec<String>,
    /// Processes that may not be looked into, and are young enough to belong to the run.
    pub(super) unseen: usize,
    /// Why it is not known that nothing is left.
    pub(super) problem: Option<String>,
}

impl Ending<'_> {
    /// What there is to end, without ending it.
    pub(super) async fn look(&self) -> Ended {
        let mut ended = Ended::default();
        let known = self.known(&mut ended.notes);
        let query = SweepQuery::new(SweepTarget::Run(self.run_id));
        match timeout_at(self.deadline, sweep(query)).await {
            Ok(Ok(found)) => ended.unseen = self.unseen(&found),
            Ok(Err(error)) => ended.problem = Some(cannot_look(&error)),
            Err(_) => ended.problem = Some(NO_TIME.to_owned()),
        }
        ended.found = known.iter().map(|known| self.judge(known)).collect();
        ended
    }

    /// Ends everything that is left of the run.
    pub(super) async fn run(&self) -> Ended {
        let mut ended = Ended::default();
        let mut known = self.known(&mut ended.notes);
        if self.grace.is_zero() {
            self.kill_containers();
        }
        self.end_trees().await;
        self.kill_containers();
        match self.sweep(&mut known).await {
            Ok(unseen) => ended.unseen = unseen,
            Err(problem) => ended.problem = Some(problem),
        }
        self.await_ends(&known).await;
        self.remove_cgroups();
        ended.found = known.iter().map(|known| self.judge(known)).collect();
        ended
    }

    /// Who lives of those that are on record, in a cgroup of the run, or carry the run.
    fn known(&self, notes: &mut Vec<String>) -> Vec<Known> {
        let mut known: Vec<Known> = Vec::new();
        let (mut elsewhere, mut errors) = (0, BTreeSet::new());
        for row in self.rows {
            let keeper = row.containment.keeper.as_ref();
            let recorded = [
                (row.identity.as_ref(), FoundBy::Record),
                (keeper, FoundBy::Keeper),
            ];
            for (identity, by) in recorded {
                let Some(identity) = identity else { continue };
                match identity.is_alive() {
                    Ok(true) => add(&mut known, identity.clone(), Some(row.worker_id), by),
                    Ok(false) => {}
                    Err(IdentifyError::Namespace { .. }) => elsewhere += 1,
                    Err(error) => {
                        errors.insert(snakepit_core::rpc::error_chain(&error));
                    }
                }
            }
        }
        if elsewhere > 0 {
            notes.push(format!(
                "{elsewhere} recorded processes belong to another PID namespace and cannot be identified from here; what can be seen of \
                 them was looked for by environment and cgroup"
            ));
        }
        notes.extend(errors);
        for cgroup in self.cgroups() {
            for pid in cgroup.processes().unwrap_or_default() {
                // It is still in there once it is identified, so it is the one that was listed.
                if let Ok(identity) = ProcessIdentity::of_pid(pid)
                    && cgroup.processes().is_ok_and(|pids| pids.contains(&pid))
                {
                    add(&mut known, identity, None, FoundBy::Cgroup);
                }
            }
        }
        for tagged in self.tagged {
            if carries(tagged, self.run_id) {
                let worker = tagged.tags.worker_id;
                let worker = worker.filter(|_| tagged.tags.run_id == Some(self.run_id));
                add(&mut known, tagged.identity.clone(), worker, FoundBy::Environment);
            }
        }
        known
    }

    /// Ends the trees of all recorded workers at a time.
    async fn end_trees(&self) {
        let mut ends = JoinSet::new();
        for row in self.rows {
            let Some(identity) = &row.identity else { continue };
            let Ok(Some(pidfd)) = identity.open() else {
                continue;
            };
            if self.ours.pids.contains(&identity.pid) {
                continue;
            }
            if self.ours.groups.contains(&identity.pid) {
                // Its group is ours. What it left is found one by one, and we are left out.
                kill(&pidfd);
                continue;
            }
            let target = SweepTarget::Worker {
                run_id: self.run_id,
                worker_id: row.worker_id,
            };
            let leader = Arc::new(pidfd);
            let mut tree = Tree::new(Arc::clone(&leader), identity, target);
            let by = (Instant::now() + self.grace).min(self.deadline);
            let deadline = self.deadline;
            ends.spawn(async move {
                let by = watch::channel(Some(by)).1;
                let gone = || {
                    let leader = Arc::clone(&leader);
                    async move {
                        while leader.exited().await.is_err() && !leader.has_exited() {
                            sleep(FAILED_LOOK).await;
                        }
                    }
                };
                // What is left is found by looking for it afterwards.
                let _ = timeout_at(deadline, tree.end(by, gone)).await;
            });
        }
        while ends.join_next().await.is_some() {}
    }

    /// Kills cgroups of the run as a whole, and PID namespaces by their first process.
    fn kill_containers(&self) {
        for cgroup in self.cgroups() {
            if let Err(error) = cgroup.kill() {
                tracing::debug!(path = %cgroup.path().display(), %error, "cannot kill a cgroup");
            }
        }
        for row in self.rows {
            let keeper = row.containment.keeper.as_ref();
            let keeper = keeper.filter(|keeper| {
                row.containment.level == ContainmentLevel::Namespace && !self.ours.pids.contains(&keeper.pid)
            });
            if let Some(Ok(Some(pidfd))) = keeper.map(ProcessIdentity::open) {
                kill(&pidfd);
            }
        }
    }

    /// The cgroups that are killed: those of the run where rows tell them, else those of its workers. One that we are in is
    /// left out.
    fn cgroups(&self) -> Vec<Cgroup> {
        let recorded = self
            .rows
            .iter()
            .filter_map(|row| row.containment.cgroup.as_deref());
        let paths: BTreeSet<&Path> = recorded.collect();
        let runs: BTreeSet<PathBuf> = paths
            .iter()
            .filter_map(|path| run_level(path, self.run_id))
            .collect();
        let free_of_us = |cgroup: &Cgroup| {
            cgroup.exists()
                && cgroup
                    .processes()
                    .is_ok_and(|pids| pids.iter().all(|pid| !self.ours.pids.contains(pid)))
        };
        let mut cgroups = Vec::new();
        for run in runs {
            let whole = Cgroup::at(&run);
            if free_of_us(&whole) {
                cgroups.push(whole);
            } else {
                let workers = paths
                    .iter()
                    .filter(|path| path.starts_with(&run) && **path != run);
                cgroups.extend(workers.map(|path| Cgroup::at(*path)).filter(free_of_us));
            }
        }
        cgroups
    }

    fn remove_cgroups(&self) {
        for cgroup in self.cgroups() {
            if let Err(error) = cgroup.remove(KILL_AGAIN) {
                tracing::debug!(path = %cgroup.path().display(), %error, "cannot remove a cgroup");
            }
        }
    }

    /// How many processes may not be looked into that could belong to the run. The kernel's own threads cannot.
    fn unseen(&self, found: &Found) -> usize {
        let is_kernel_thread = |stat: &Stat| stat.ppid <= 2 && (stat.pgrp, stat.session) == (0, 0);
        let could_be = |stat: &&Stat| stat.start_ticks >= self.since.unwrap_or(0) && !is_kernel_thread(stat);
        found.unreadable.iter().filter(could_be).count()
    }

    /// Stops and kills what carries the run, until nothing of it is found twice in a row. Tells how many processes may not
    /// be looked into.
    async fn sweep(&self, known: &mut Vec<Known>) -> Result<usize, String> {
        let query = SweepQuery {
            // What is stopped forks no more while the others are looked for.
            signal: Some(Signal::STOP.as_raw()),
            ..SweepQuery::new(SweepTarget::Run(self.run_id))
        };
        let (mut clean, mut unseen) = (0, 0);
        while clean < CLEAN_LOOKS {
            let found = match timeout_at(self.deadline, sweep(query.clone())).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) if Instant::now() < self.deadline => {
                    tracing::debug!(%error, "cannot look for what a run has left; trying again");
                    sleep(FAILED_LOOK).await;
                    continue;
                }
                Ok(Err(error)) => return Err(cannot_look(&error)),
                Err(_) => return Err(NO_TIME.to_owned()),
            };
            unseen = self.unseen(&found);
            if found.members.is_empty() && found.fleeting == 0 {
                clean += 1;
                continue;
            }
            clean = 0;
            let mut refused = !found.members.is_empty();
            for member in &found.members {
                if let Ok(identity) = member.identity() {
                    add(known, identity, None, FoundBy::Environment);
                }
                refused &= !kill(&member.pidfd);
            }
            let again = self.deadline.min(Instant::now() + KILL_AGAIN);
            for member in &found.members {
                // Whether it has gone is seen by the next look.
                let _ = timeout_at(again, member.pidfd.exited()).await;
            }
            if refused {
                return Err("its processes may not be signalled by this user".to_owned());
            }
        }
        Ok(unseen)
    }

    /// Waits for those who were killed and are not through with their end. The first process of a namespace ends when all others
    /// in it have, and carries nothing any more by which a sweep would see it.
    async fn await_ends(&self, known: &[Known]) {
        let bound = self.deadline.min(Instant::now() + DYING);
        for known in known {
            if self.ours.pids.contains(&known.identity.pid) {
                continue;
            }
            // Who may not be signalled was not killed.
            if let Ok(Some(pidfd)) = known.identity.open()
                && pidfd.signal(0).is_ok()
            {
                // Whether it has gone is told by the one who judges.
                let _ = timeout_at(bound, pidfd.exited()).await;
            }
        }
    }

    /// What became of a process.
    fn judge(&self, known: &Known) -> FoundProcess {
        let left = match known.identity.is_alive() {
            Ok(false) => None,
            Ok(true) if self.ours.pids.contains(&known.identity.pid) => {
                Some("this cleanup runs inside it".to_owned())
            }
            Ok(true) => Some(match known.identity.open() {
                Ok(Some(pidfd)) => match pidfd.signal(0) {
                    Err(error) => format!("it may not be signalled: {error}"),
                    Ok(()) => "it does not end, or there was no time for it".to_owned(),
                },
                _ => "it was there a moment ago".to_owned(),
            }),
            Err(error) => Some(snakepit_core::rpc::error_chain(&error)),
        };
        FoundProcess {
            pid: known.identity.pid,
            worker: known.worker,
            program: known.program.clone(),
            by: known.by,
            end: if left.is_some() {
                ProcessEnd::Left
            } else {
                ProcessEnd::Ended
            },
            why: left,
        }
    }
}

/// Whether a process was started by this run, or by one inside of it.
pub(super) fn carries(tagged: &Tagged, run_id: RunId) -> bool {
    tagged.tags.run_id == Some(run_id) || tagged.tags.outer_run_ids.contains(&run_id)
}

/// The part of a cgroup's path down to what the run named. A path in which the run is not named could have gone to
/// somebody else since.
fn run_level(path: &Path, run_id: RunId) -> Option<PathBuf> {
    let name = run_id.to_string();
    let named = |path: &&Path| {
        path.file_name()
            .is_some_and(|last| last.to_string_lossy().contains(&name))
    };
    path.ancestors().filter(named).last().map(Path::to_owned)
}

fn add(known: &mut Vec<Known>, identity: ProcessIdentity, worker: Option<WorkerId>, by: FoundBy) {
    let same = |known: &Known| {
        known.identity.pid == identity.pid && known.identity.start_ticks == identity.start_ticks
    };
    match known.iter_mut().find(|known| same(known)) {
        Some(known) => known.worker = known.worker.or(worker),
        None => known.push(Known {
            program: program_of(identity.pid),
            identity,
            worker,
            by,
        }),
    }
}

/// What the kernel calls the process: its program's name, up to 15 characters.
fn program_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().replace(char::is_control, "?")
}

/// Whether SIGKILL could be sent, or was not needed any more.
fn kill(pidfd: &Pidfd) -> bool {
    match pidfd.signal(Signal::KILL.as_raw()) {
        Ok(()) => true,
        Err(error) => {
            let gone = rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH);
            if !gone {
                tracing::debug!(pid = pidfd.pid(), %error, "signal refused");
            }
            gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_counts_only_if_the_run_is_in_its_path() {
        let run = RunId::random();
        let of = |path: &str| run_level(Path::new(path), run);
        assert_eq!(
            of(&format!("/cg/x/snakepit-{run}/7")),
            Some(format!("/cg/x/snakepit-{run}").into())
        );
        assert_eq!(
            of(&format!("/cg/{run}/{run}-7")),
            Some(format!("/cg/{run}").into())
        );
        assert_eq!(of("/cg/user.slice/7"), None);
        assert_eq!(of(&format!("/cg/{}/7", RunId::random())), None);
    }
}
