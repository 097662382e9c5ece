//! One process as the host knows it.

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use snakepit_core::process::{
    EndReport, EndStep, ExitOutcome, Pidfd, ProcessIdentity, cgroup::Cgroup, sweep::SweepTarget,
};
use tokio::{sync::watch, time::Instant};

use crate::{
    steps::Failure,
    wire::{EndedBy, Event, Message},
};

/// A grace so long that it never ends, for one that a clock cannot add.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The guardian was asked for it.
    Asked,
    /// There is none.
    Refused(Failure),
    /// It waits at its gate.
    Held,
    /// Its program was executed.
    Started,
    /// Its program could not be executed.
    NotStarted(Failure),
}

/// What is known of a process.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) life: Life,
    /// How it ended, once it has.
    pub(crate) exit: Option<ExitOutcome>,
    /// What the end of its tree took, once nothing is left of it, or nothing more can be done.
    pub(crate) report: Option<EndReport>,
}

impl Status {
    /// What a word of the guardian means; `None` where it means nothing at this point, as with messages that cross.
    fn after(&self, event: Message<Event>, asked: Option<Asked>, now: Instant) -> Option<Self> {
        let mut next = self.clone();
        match (event.kind, self.life) {
            (Event::Held, Life::Asked) => next.life = Life::Held,
            (Event::SpawnFailed, Life::Asked) => {
                next.life = Life::Refused(Failure::from_numbers(event.a, event.b));
            }
            (Event::Started, Life::Held) => next.life = Life::Started,
            (Event::ExecFailed, Life::Held) => {
                next.life = Life::NotStarted(Failure::from_numbers(event.a, event.b));
            }
            (Event::Exited, _) if self.exit.is_none() => {
                next.exit = Some(match outcome(event.a) {
                    // Not where it may be the SIGKILL of an end.
                    ExitOutcome::Signaled {
                        signal: libc::SIGKILL,
                        ..
                    } if event.b > 0 && asked.is_none() => ExitOutcome::OutOfMemory,
                    outcome => outcome,
                });
            }
            (Event::Ended, _) if self.report.as_ref().is_none_or(|report| !report.is_complete()) => {
                let outcome = self.exit.unwrap_or(ExitOutcome::Unknown);
                next.exit = Some(outcome);
                next.report = Some(EndReport {
                    outcome,
                    step: match EndedBy::from_number(event.a) {
                        Some(EndedBy::Itself) => EndStep::AlreadyGone,
                        Some(EndedBy::Term) => EndStep::Term,
                        Some(EndedBy::Kill) | None => EndStep::Kill,
                    },
                    took: asked.map_or(Duration::ZERO, |asked| now.duration_since(asked.begun)),
                    swept: u32::try_from(event.b).unwrap_or(u32::MAX),
                    remaining: Vec::new(),
                });
            }
            (
                Event::Held
                | Event::SpawnFailed
                | Event::Started
                | Event::ExecFailed
                | Event::Exited
                | Event::Ended
                | Event::Welcome
                | Event::Refused
                | Event::Pong
                | Event::Kept
                | Event::Born,
                _,
            ) => return None,
        }
        Some(next)
    }

    /// Whether the guardian has said its last word about it.
    fn is_over(&self) -> bool {
        matches!(self.life, Life::Refused(_)) || self.report.as_ref().is_some_and(EndReport::is_complete)
    }
}

/// From a wait status; the guardian says -1 where it cannot know.
fn outcome(status: i64) -> ExitOutcome {
    match i32::try_from(status) {
        Ok(status) if status >= 0 => ExitStatus::from_raw(status).into(),
        _ => ExitOutcome::Unknown,
    }
}

/// That an end was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) begun: Instant,
    pub(crate) deadline: Instant,
}

/// A process that exists.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) worker: Arc<Pidfd>,
    pub(crate) identity: ProcessIdentity,
    /// Exits when, and only when, nothing is left of the tree.
    pub(crate) keeper: Arc<Pidfd>,
    pub(crate) keeper_identity: ProcessIdentity,
}

/// What came of a process that nobody has [held](Task::hold) yet.
#[derive(Debug)]
struct Came {
    keeper: io::Result<(Pidfd, ProcessIdentity)>,
    worker: io::Result<(Pidfd, ProcessIdentity)>,
}

/// Who a process is, as the kernel says.
fn look_at(pidfd: OwnedFd) -> io::Result<(Pidfd, ProcessIdentity)> {
    let pidfd = Pidfd::from_fd(pidfd)?;
    let identity = ProcessIdentity::of(&pidfd)?;
    Ok((pidfd, identity))
}

/// One process, from the moment the guardian is asked for it.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: u64,
    /// What its descendants carry in their environment.
    pub(crate) target: SweepTarget,
    pub(crate) cgroup: Option<Cgroup>,
    status: watch::Sender<Status>,
    asked: watch::Sender<Option<Asked>>,
    /// As they came.
    came: Mutex<Option<Came>>,
    held: OnceLock<Held>,
    /// Held by whoever ends it without a guardian.
    pub(crate) recovery: tokio::sync::Mutex<()>,
}

impl Task {
    pub(crate) fn new(id: u64, target: SweepTarget, cgroup: Option<Cgroup>) -> Self {
        Self {
            id,
            target,
            cgroup,
            status: watch::Sender::new(Status {
                life: Life::Asked,
                exit: None,
                report: None,
            }),
            asked: watch::Sender::new(None),
            came: Mutex::default(),
            held: OnceLock::new(),
            recovery: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(crate) fn now(&self) -> Status {
        self.status.borrow().clone()
    }

    /// Takes in what the guardian says of it; `true` when that was the last word.
    pub(crate) fn on_event(&self, event: Message<Event>, fds: Vec<OwnedFd>) -> bool {
        if event.kind == Event::Kept
            && let Ok([keeper, worker]) = <[OwnedFd; 2]>::try_from(fds)
        {
            // Looked at now, while the worker makes its settings.
            *self.came() = Some(Came {
                keeper: look_at(keeper),
                worker: look_at(worker),
            });
        }
        let asked = *self.asked.borrow();
        let mut over = false;
        self.status.send_if_modified(|status| {
            let next = status.after(event, asked, Instant::now());
            let changed = next.is_some();
            if let Some(next) = next {
                *status = next;
            }
            over = status.is_over();
            changed
        });
        over
    }

    fn came(&self) -> MutexGuard<'_, Option<Came>> {
        // Each use leaves it whole.
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process, whose numbers are read from the kernel and never taken from the guardian.
    ///
    /// # Errors
    /// `ESRCH` when it has been reaped; what reading `/proc` answers. `EMFILE` where its descriptors could not be
    /// taken.
    pub(crate) fn hold(&self) -> io::Result<&Held> {
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let mut came = self.came();
        if let Some(held) = self.held.get() {
            return Ok(held);
        }
        let Some(Came { keeper, worker }) = came.take() else {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        };
        let ((worker, identity), (keeper, keeper_identity)) = (worker?, keeper?);
        let held = Held {
            worker: Arc::new(worker),
            identity,
            keeper: Arc::new(keeper),
            keeper_identity,
        };
        Ok(self.held.get_or_init(|| held))
    }

    /// The process, where it was looked at.
    pub(crate) fn held(&self) -> Option<&Held> {
        self.held.get()
    }

    /// Notes that its end is asked for; the deadline, if nobody has set one that is as near.
    pub(crate) fn ask(&self, grace: Duration) -> Option<Asked> {
        let now = Instant::now();
        let deadline = now.checked_add(grace).unwrap_or(now + NEVER);
        let mut first = None;
        self.asked.send_if_modified(|asked| {
            let begun = asked.map_or(now, |asked| asked.begun);
            let shorter = asked.is_none_or(|asked| deadline < asked.deadline);
            if shorter {
                *asked = Some(Asked { begun, deadline });
                first = *asked;
            }
            shorter
        });
        first
    }

    pub(crate) fn asked(&self) -> watch::Receiver<Option<Asked>> {
        self.asked.subscribe()
    }

    /// Notes how it ended, as somebody else than the guardian found out.
    pub(crate) fn note_exit(&self, outcome: ExitOutcome) {
        self.status.send_if_modified(|status| {
            let news = status.exit.is_none();
            status.exit.get_or_insert(outcome);
            news
        });
    }

    /// Notes what its end took; one that was not complete gives way to another.
    pub(crate) fn note_report(&self, step: EndStep, swept: u32, remaining: Vec<ProcessIdentity>) {
        let begun = self.asked.borrow().map(|asked| asked.begun);
        self.status.send_if_modified(|status| {
            if status.report.as_ref().is_some_and(EndReport::is_complete) {
                return false;
            }
            status.report = Some(EndReport {
                outcome: status.exit.unwrap_or(ExitOutcome::Unknown),
                step,
                took: begun.map_or(Duration::ZERO, |begun| begun.elapsed()),
                swept,
                remaining,
            });
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Step;

    fn event(kind: Event, a: i64, b: i64) -> Message<Event> {
        Message::new(kind, 1).with(a, b, 0)
    }

    fn after(events: &[Message<Event>]) -> Status {
        let task = Task::new(1, SweepTarget::Run(snakepit_core::RunId::random()), None);
        for event in events {
            task.on_event(*event, Vec::new());
        }
        task.now()
    }

    #[test]
    fn a_process_lives_from_its_gate_to_the_empty_tree() {
        let held = event(Event::Held, 0, 0);
        let started = event(Event::Started, 0, 0);
        let exited = event(Event::Exited, 7 << 8, 0);
        let ended = event(Event::Ended, 2, 3);
        assert_eq!(after(&[held]).life, Life::Held);
        assert_eq!(after(&[held, started]).life, Life::Started);
        assert_eq!(after(&[held, started, exited]).exit, Some(ExitOutcome::Exited(7)));
        let report = after(&[held, started, exited, ended]).report.unwrap();
        assert_eq!(
            (report.step, report.swept, report.outcome),
            (EndStep::Kill, 3, ExitOutcome::Exited(7))
        );
    }

    #[test]
    fn failures_keep_their_step() {
        let failure = Failure {
            step: Step::Uid,
            errno: 1,
        };
        let failed = [18, 1];
        let refused = event(Event::SpawnFailed, failed[0], failed[1]);
        assert_eq!(after(&[refused]).life, Life::Refused(failure));
        let held = event(Event::Held, 0, 0);
        let not = event(Event::ExecFailed, failed[0], failed[1]);
        assert_eq!(after(&[held, not]).life, Life::NotStarted(failure));
    }

    #[test]
    fn a_kill_is_one_for_want_of_memory_where_the_cgroup_reports_that_and_no_end_was_asked_for() {
        let killed = ExitOutcome::Signaled {
            signal: 9,
            core_dumped: false,
        };
        for (status, oom_kills, asked, expected) in [
            (9, 0, false, killed),
            (9, 2, false, ExitOutcome::OutOfMemory),
            (9, 2, true, killed),
            (7 << 8, 2, false, ExitOutcome::Exited(7)),
        ] {
            let task = Task::new(1, SweepTarget::Run(snakepit_core::RunId::random()), None);
            if asked {
                task.ask(Duration::ZERO);
            }
            task.on_event(event(Event::Exited, status, oom_kills), Vec::new());
            assert_eq!(task.now().exit, Some(expected), "{status} {oom_kills} {asked}");
        }
    }

    #[test]
    fn what_comes_out_of_order_or_twice_changes_nothing() {
        let started = event(Event::Started, 0, 0);
        assert_eq!(after(&[started]).life, Life::Asked);
        let (first, second) = (event(Event::Exited, 0, 0), event(Event::Exited, 9, 0));
        assert_eq!(after(&[first, second]).exit, Some(ExitOutcome::Exited(0)));
        let (first, second) = (event(Event::Ended, 0, 0), event(Event::Ended, 2, 9));
        assert_eq!(
            after(&[first, second]).report.map(|report| report.step),
            Some(EndStep::AlreadyGone)
        );
        for kind in [Event::Welcome, Event::Refused, Event::Pong] {
            assert_eq!(after(&[event(kind, 0, 0)]).life, Life::Asked);
        }
    }

    #[test]
    fn a_status_that_nobody_knows_is_unknown() {
        assert_eq!(
            after(&[event(Event::Exited, -1, 0)]).exit,
            Some(ExitOutcome::Unknown)
        );
    }

    #[test]
    fn the_shorter_grace_wins_and_the_first_request_counts() {
        let task = Task::new(1, SweepTarget::Run(snakepit_core::RunId::random()), None);
        let first = task.ask(Duration::from_secs(9)).unwrap();
        assert!(task.ask(Duration::from_secs(60)).is_none());
        let second = task.ask(Duration::from_secs(1)).unwrap();
        assert!(second.deadline < first.deadline && second.begun == first.begun);
        assert!(task.ask(Duration::MAX).is_none());
    }
}
