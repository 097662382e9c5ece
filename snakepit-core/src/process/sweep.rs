//! Finding processes by what stands in their environment.
//!
//! Everything a run starts inherits the run id and the worker id (`snakepit_proto::env`), also what left its
//! process group and session and was orphaned. One scan reads every process of the machine, so all who ask
//! while a scan runs share the next one: a hundred workers ending together cost two or three scans.
//!
//! What a sweep cannot find: a process that replaced or scrubbed its environment (`env -i`), and one whose
//! environment we may not read ([`Found::unreadable`]).

mod scan;
mod tagged;
mod tags;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use tagged::{Tagged, tagged};
pub use tags::Tags;
use tokio::sync::oneshot;

use super::{Member, ProcessGroup, Stat};
use crate::id::{RunId, WorkerId};

/// Whose processes are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SweepTarget {
    /// One worker's.
    Worker {
        /// The run that started it.
        run_id: RunId,
        /// The worker.
        worker_id: WorkerId,
    },
    /// All of a run's, those of hosts that ran inside its workers included.
    Run(RunId),
}

/// What a sweep looks for.
#[derive(Clone, Debug)]
pub struct SweepQuery {
    /// By environment.
    pub target: SweepTarget,
    /// And by membership in this group.
    pub group: Option<ProcessGroup>,
    /// Sent to each process at the moment it is found, not when the scan is over: what forks and exits within
    /// milliseconds is long gone by then. SIGSTOP keeps it where it is.
    pub signal: Option<i32>,
}

impl SweepQuery {
    /// Looks by environment alone, and only looks.
    pub fn new(target: SweepTarget) -> Self {
        Self {
            target,
            group: None,
            signal: None,
        }
    }
}

/// What a sweep has found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Living processes that match; never ourselves nor an ancestor of ours.
    pub members: Vec<Member>,
    /// Processes that matched and ended while they were looked at. They may have left others that the scan has
    /// not seen, so that a scan proves emptiness only if there were none.
    pub fleeting: u32,
    /// Living processes whose environment we may not read (another user's): what was looked for may be among
    /// them.
    pub unreadable: Arc<[Stat]>,
}

type Answer = oneshot::Sender<io::Result<Found>>;

/// Who waits for the next scan.
#[derive(Default)]
struct Desk {
    waiting: Vec<(SweepQuery, Answer)>,
    scanning: bool,
}

static DESK: Mutex<Desk> = Mutex::new(Desk {
    waiting: Vec::new(),
    scanning: false,
});

fn desk() -> MutexGuard<'static, Desk> {
    // Each use leaves the desk whole, also when it panics.
    DESK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for processes, in a scan that begins after the call.
///
/// One process that nobody can look into for a while (in state D with its memory locked) holds up the whole
/// scan; callers bound their wait.
///
/// # Errors
/// What reading `/proc` answers, as with `EMFILE`.
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Cancel safety
/// Safe; a scan under way is finished for the others.
pub async fn sweep(query: SweepQuery) -> io::Result<Found> {
    loop {
        let (answer, asked) = oneshot::channel();
        if Round::join(query.clone(), answer) {
            tokio::task::spawn_blocking({
                let round = Round;
                move || round.run()
            });
        }
        // No answer: the runtime that was to scan is shutting down. Ours may go on, so ask again.
        if let Ok(found) = asked.await {
            return found;
        }
    }
}

/// The right to scan, and the duty to leave nobody waiting.
struct Round;

impl Round {
    /// Adds a question; `true` when the caller has to start the scanning.
    fn join(query: SweepQuery, answer: Answer) -> bool {
        let mut desk = desk();
        desk.waiting.push((query, answer));
        !std::mem::replace(&mut desk.scanning, true)
    }

    fn run(self) {
        loop {
            let batch = {
                let mut desk = desk();
                if desk.waiting.is_empty() {
                    desk.scanning = false;
                    // Dropping ourselves would do the same, but after somebody else may have begun.
                    std::mem::forget(self);
                    return;
                }
                std::mem::take(&mut desk.waiting)
            };
            let (queries, answers): (Vec<_>, Vec<_>) = batch
                .into_iter()
                .filter(|(_, answer)| !answer.is_closed())
                .unzip();
            let found = scan::scan(&queries);
            for (answer, found) in answers.into_iter().zip(found) {
                // Whoever does not wait any more does not need it.
                let _ = answer.send(found);
            }
        }
    }
}

impl Drop for Round {
    /// The blocking task was dropped unrun, or panicked.
    fn drop(&mut self) {
        let mut desk = desk();
        desk.scanning = false;
        desk.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Child, eventually},
        *,
    };
    use snakepit_proto::env;

    fn tagged(script: &str, run: RunId, worker: u64) -> Child {
        let vars = [
            (env::RUN_ID, run.to_string()),
            (env::WORKER_ID, worker.to_string()),
        ];
        let child = Child::start_with_env(script, &vars);
        // The shell has executed once its name is the shell's; its environment is there by then.
        eventually("the environment is there", || {
            std::fs::read(format!("/proc/{}/environ", child.pid())).is_ok_and(|text| !text.is_empty())
        });
        child
    }

    fn query(run_id: RunId, worker: u64) -> SweepQuery {
        SweepQuery::new(SweepTarget::Worker {
            run_id,
            worker_id: WorkerId(worker),
        })
    }

    fn pids(found: &Found) -> Vec<u32> {
        found.members.iter().map(|member| member.stat.pid).collect()
    }

    #[tokio::test]
    async fn finds_exactly_what_one_worker_started() {
        let run = RunId::random();
        let first = tagged("read line", run, 1);
        let second = tagged("read line", run, 2);
        let stranger = tagged("read line", RunId::random(), 1);
        assert_eq!(pids(&sweep(query(run, 1)).await.unwrap()), [first.pid()]);
        assert_eq!(pids(&sweep(query(run, 2)).await.unwrap()), [second.pid()]);
        let whole_run = SweepQuery::new(SweepTarget::Run(run));
        let mut found = pids(&sweep(whole_run).await.unwrap());
        found.sort_unstable();
        let mut expected = [first.pid(), second.pid()];
        expected.sort_unstable();
        assert_eq!(found, expected);
        first.kill_unreaped();
        assert!(sweep(query(run, 1)).await.unwrap().members.is_empty());
        drop(stranger);
    }

    #[tokio::test]
    async fn finds_group_members_that_scrubbed_their_environment() {
        let run = RunId::random();
        let child = tagged(
            "exec 3<&0; env -i /bin/sh -c 'read line <&3; :' & read line",
            run,
            1,
        );
        let leader = Arc::new(super::super::Pidfd::open(child.pid()).unwrap());
        let with_group = SweepQuery {
            group: Some(ProcessGroup::led_by(leader)),
            ..query(run, 1)
        };
        // Until the second shell has executed it is a copy of the first, with its environment.
        let mut found = (0, 0);
        for _ in 0..1000 {
            let by_both = sweep(with_group.clone()).await.unwrap();
            let by_tags = sweep(query(run, 1)).await.unwrap();
            found = (by_both.members.len(), by_tags.members.len());
            if found == (2, 1) {
                return;
            }
        }
        panic!("{found:?} members found");
    }

    #[tokio::test]
    async fn finds_what_an_inner_host_started_by_the_outer_run() {
        let outer = RunId::random();
        let vars = [
            (env::RUN_ID, RunId::random().to_string()),
            (env::WORKER_ID, "1".to_owned()),
            (env::OUTER_RUN_IDS, format!("{}:{outer}", RunId::random())),
        ];
        let child = Child::start_with_env("read line", &vars);
        let whole_run = SweepQuery::new(SweepTarget::Run(outer));
        assert_eq!(pids(&sweep(whole_run).await.unwrap()), [child.pid()]);
        assert!(sweep(query(outer, 1)).await.unwrap().members.is_empty());
    }

    #[tokio::test]
    async fn stops_what_it_finds_if_told_so() {
        let run = RunId::random();
        let child = tagged("read line", run, 1);
        let stopping = SweepQuery {
            signal: Some(libc::SIGSTOP),
            ..query(run, 1)
        };
        assert_eq!(pids(&sweep(stopping).await.unwrap()), [child.pid()]);
        eventually("it is stopped", || {
            super::super::Stat::read(child.pid()).unwrap().state == b'T'
        });
    }

    #[tokio::test]
    async fn tells_of_what_vanished_while_it_was_looked_at() {
        let run = RunId::random();
        let _child = tagged("while :; do (:); done", run, 1);
        let vanishing = async { while sweep(query(run, 1)).await.unwrap().fleeting == 0 {} };
        let bound = std::time::Duration::from_secs(60);
        tokio::time::timeout(bound, vanishing).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_askers_each_get_their_own() {
        let run = RunId::random();
        let children: Vec<_> = (0..8).map(|worker| tagged("read line", run, worker)).collect();
        let asked: Vec<_> = (0..64_u64)
            .map(|n| tokio::spawn(sweep(query(run, n % 8))))
            .collect();
        for (n, answer) in asked.into_iter().enumerate() {
            let found = answer.await.unwrap().unwrap();
            assert_eq!(pids(&found), [children[n % 8].pid()]);
        }
    }
}
