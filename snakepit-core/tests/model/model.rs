//! What is true of a pool, call by call: what was seen is taken in order, and what cannot be is a failure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use snakepit_core::{
    SlotId, WorkerId,
    pool::{Budget, CallError, Overflow, Phase},
};
use tokio::time::Instant;

use crate::{
    caller::function,
    ops::{Setup, Spec},
    stage::{How, Seen, Token},
};

/// From a call's cancellation to the end of the worker that goes on with it.
pub(crate) const CANCEL_GRACE: Duration = Duration::from_millis(700);

/// A worker whose connection failed is ended when it says nothing for this long.
const NEWS: Duration = Duration::from_secs(2);

/// A worker that said it is leaving is ended when it stays for this long.
const LEAVES: Duration = Duration::from_secs(5);

/// Where a call stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stand {
    /// In the queue, or for a permit. `again` when it has been given to a worker before.
    Waiting {
        since: Instant,
        step: u32,
        again: bool,
    },
    /// A worker is lent to it; a stream whose execution is over is that until its caller has had the end.
    Running {
        worker: WorkerId,
        since: Instant,
    },
    /// The connection failed, and the worker has to say why.
    Explaining {
        worker: WorkerId,
        since: Instant,
        broke: Instant,
    },
    /// Its caller is gone, and its worker, in which it may still be executed, not given back.
    Settling {
        worker: WorkerId,
        until: Instant,
        executed: bool,
    },
    /// Its caller has to be told in this step.
    Due(Told),
    Over,
}

/// What a caller has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Value,
    Raised,
    Lost,
}

#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) spec: Spec,
    pub(crate) sent: Instant,
    pub(crate) stand: Stand,
    /// How often it was executed.
    pub(crate) executions: u32,
    /// A worker was lost to it, and it was to be executed by another one.
    lost: bool,
    /// Its worker was leaving and did not begin it, and its caller did not look at once: a stream that waits again by then.
    late: bool,
    /// How the execution of a stream ended.
    pub(crate) ended: Option<How>,
    pub(crate) yielded: u32,
    pub(crate) taken: u32,
    /// Items that its caller wants more.
    pub(crate) wanted: u32,
    /// A budget that ran out just when it was told why its worker was lost: either may be what its caller hears.
    tie: Option<(Budget, Instant)>,
}

impl Call {
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.stand, Stand::Waiting { .. })
    }

    /// The worker that it has.
    pub(crate) fn has(&self) -> Option<WorkerId> {
        match self.stand {
            Stand::Running { worker, .. }
            | Stand::Explaining { worker, .. }
            | Stand::Settling { worker, .. } => Some(worker),
            Stand::Waiting { .. } | Stand::Due(_) | Stand::Over => None,
        }
    }

    /// The budget that runs out first, while somebody waits for it.
    pub(crate) fn limit(&self) -> Option<(Budget, Instant)> {
        let deadline = self
            .spec
            .deadline
            .map(|time| (Budget::Deadline, self.sent + time));
        let other = match self.stand {
            Stand::Waiting { since, .. } => self
                .spec
                .queue_timeout
                .map(|time| (Budget::QueueTimeout, since + time)),
            Stand::Running { since, .. } | Stand::Explaining { since, .. } => self
                .spec
                .run_timeout
                .map(|time| (Budget::RunTimeout, since + time)),
            Stand::Settling { .. } | Stand::Due(_) | Stand::Over => return None,
        };
        // A stream's caller that does not look does not learn of it.
        let looks = !self.spec.stream || self.is_waiting() || self.wanted > 0;
        let sooner = deadline.into_iter().chain(other).min_by_key(|(_, at)| *at);
        sooner.filter(|_| looks)
    }

    /// Its place in the queue, where it is known.
    fn rank(&self, token: Token) -> Option<Rank> {
        let Stand::Waiting { again, .. } = self.stand else {
            return None;
        };
        // Those of a limited function wait for that first.
        (!self.spec.limited).then_some(Rank {
            priority: self.spec.priority,
            again,
            token,
        })
    }
}

/// A place in the queue.
#[derive(Clone, Copy, Debug)]
struct Rank {
    priority: i32,
    again: bool,
    token: Token,
}

impl Rank {
    /// Whether it is served before another one; `false` also where that is open.
    fn is_before(self, other: Self) -> bool {
        if self.priority != other.priority {
            return self.priority > other.priority;
        }
        match (self.again, other.again) {
            (false, false) => self.token < other.token,
            (again, other_again) => again && !other_again,
        }
    }
}

/// The description.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) setup: Setup,
    pub(crate) phase: Phase,
    pub(crate) calls: BTreeMap<Token, Call>,
    /// How many steps there were.
    pub(crate) step: u32,
    /// How often a call was given to a worker.
    pub(crate) begun: u64,
    /// The places from which that was done in this step.
    begun_now: Vec<Rank>,
    /// Workers that are not lent any more, and since when.
    pub(crate) retired: BTreeMap<WorkerId, Instant>,
    /// Workers that have been ready, and whether they are up.
    pub(crate) up: BTreeMap<WorkerId, bool>,
    /// Each slot's newest worker.
    pub(crate) last: BTreeMap<SlotId, WorkerId>,
    /// Workers that are found to be leaving in this step; until then calls may begin on them.
    leaving: Vec<WorkerId>,
    /// Workers that others had followed before this step.
    pub(crate) followed: BTreeSet<WorkerId>,
    /// A worker became ready in this step.
    pub(crate) somebody_new: bool,
    /// The number of slots has been changed, or changes by itself: workers may be about to go.
    pub(crate) shrinks: bool,
    /// The pool is being ended.
    pub(crate) ending: bool,
}

impl Model {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            shrinks: setup.min < setup.max,
            ending: false,
            setup,
            phase: Phase::Running,
            calls: BTreeMap::new(),
            step: 0,
            begun: 0,
            begun_now: Vec::new(),
            retired: BTreeMap::new(),
            up: BTreeMap::new(),
            last: BTreeMap::new(),
            leaving: Vec::new(),
            followed: BTreeSet::new(),
            somebody_new: false,
        }
    }

    fn call(&mut self, token: Token) -> &mut Call {
        self.calls
            .get_mut(&token)
            .expect("only calls that were made are seen")
    }

    /// Where every call stands, for people.
    pub(crate) fn calls_told(&self) -> String {
        let line = |(token, call): (&Token, &Call)| format!("call {token}: {call:?}\n");
        self.calls.iter().map(line).collect()
    }

    pub(crate) fn is_up(&self, worker: WorkerId) -> bool {
        self.up.get(&worker).copied().unwrap_or(false)
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = (Token, &Call)> {
        let calls = self.calls.iter().map(|(token, call)| (*token, call));
        calls.filter(|(_, call)| call.is_waiting())
    }

    /// Calls that have this worker.
    pub(crate) fn on(&self, worker: WorkerId) -> usize {
        self.calls
            .values()
            .filter(|call| call.has() == Some(worker))
            .count()
    }

    /// Calls of a function that may be executed, or are.
    pub(crate) fn permits(&self, named: &str) -> usize {
        let calls = self.calls.values().filter(|call| call.has().is_some());
        calls.filter(|call| function(&call.spec) == named).count()
    }

    /// When the next time is up that is known of.
    pub(crate) fn next_time(&self, now: Instant) -> Option<Instant> {
        let of_calls = self.calls.values().flat_map(|call| {
            let own = match call.stand {
                Stand::Explaining { broke, .. } => Some(broke + NEWS),
                Stand::Settling { until, .. } => Some(until),
                Stand::Waiting { .. } | Stand::Running { .. } | Stand::Due(_) | Stand::Over => None,
            };
            own.into_iter().chain(call.limit().map(|(_, at)| at))
        });
        let of_workers = self.retired.values().map(|since| *since + LEAVES);
        of_calls.chain(of_workers).filter(|at| *at > now).min()
    }

    pub(crate) fn sends(&mut self, token: Token, spec: Spec, now: Instant) {
        let stand = Stand::Waiting {
            since: now,
            step: self.step,
            again: false,
        };
        let call = Call {
            spec,
            sent: now,
            stand,
            executions: 0,
            lost: false,
            late: false,
            ended: None,
            yielded: 0,
            taken: 0,
            wanted: 0,
            tie: None,
        };
        self.calls.insert(token, call);
    }

    /// Its caller is gone, or told: what becomes of the execution.
    pub(crate) fn abandoned(&mut self, token: Token, now: Instant) {
        let call = self.call(token);
        let broken = call.has().filter(|_| call.ended == Some(How::Broken));
        call.stand = match (call.stand, call.ended) {
            (Stand::Running { worker, .. }, None) => Stand::Settling {
                worker,
                until: now + CANCEL_GRACE,
                executed: true,
            },
            (Stand::Running { worker, .. }, Some(How::Broken)) => Stand::Settling {
                worker,
                until: now + NEWS,
                executed: false,
            },
            (Stand::Explaining { worker, broke, .. }, _) => Stand::Settling {
                worker,
                until: broke + NEWS,
                executed: false,
            },
            (Stand::Settling { .. }, _) => unreachable!("its caller is gone already"),
            (Stand::Waiting { .. } | Stand::Running { .. } | Stand::Due(_) | Stand::Over, _) => Stand::Over,
        };
        // That its connection broke is read behind its caller's back, in this step.
        self.leaving.extend(broken);
    }

    pub(crate) fn sees(&mut self, at: Instant, seen: Seen) {
        match seen {
            Seen::Began(token, worker) => self.began(token, worker, at),
            Seen::Over(token, how) => self.ended(token, how, at),
            Seen::Item(token, item) => {
                let call = self.call(token);
                assert_eq!(item, (token, call.taken), "items come in order, each once");
                assert!(call.taken < call.yielded && call.wanted > 0);
                call.taken += 1;
                call.wanted -= 1;
            }
            Seen::Outcome(token, outcome, up) => {
                self.told(token, &outcome, at, up);
            }
        }
    }

    /// The caller of a stream wants so many items more.
    pub(crate) fn wants(&mut self, token: Token, items: u32, at: Instant) {
        self.call(token).wanted += items;
        self.waits_again(token, at);
    }

    /// Whoever wants the first item of a stream that was refused finds it waiting for another worker.
    fn waits_again(&mut self, token: Token, at: Instant) {
        let step = self.step;
        let call = self.call(token);
        let refused = call.ended == Some(How::Refused) && call.yielded == 0 && call.wanted > 0;
        if let Stand::Running { worker, .. } = call.stand
            && refused
        {
            (call.ended, call.late) = (None, true);
            call.stand = Stand::Waiting {
                since: at,
                step,
                again: true,
            };
            self.leaving.push(worker);
        }
    }

    fn began(&mut self, token: Token, worker: WorkerId, at: Instant) {
        assert!(self.phase != Phase::Paused, "call {token} began during a pause");
        assert!(
            !self.retired.contains_key(&worker),
            "call {token} began on {worker}, which is leaving"
        );
        assert!(
            !self.followed.contains(&worker),
            "call {token} began on {worker}, which was replaced"
        );
        assert!(
            self.on(worker) < self.setup.concurrency,
            "call {token} is too much for {worker}"
        );
        let call = &self.calls[&token];
        assert!(call.is_waiting(), "call {token} began and is {:?}", call.stand);
        assert!(
            call.limit()
                .is_none_or(|(budget, limit)| at < limit || budget == Budget::QueueTimeout && at == limit)
        );
        assert!(
            call.executions == 0 || call.spec.idempotent && !call.spec.stream,
            "call {token} is executed twice"
        );
        assert!(call.executions < self.setup.attempts || call.executions == 0);
        if call.spec.limited {
            let function = function(&call.spec);
            assert!(
                self.permits(function) < self.setup.limited,
                "too many calls of {function} run"
            );
        }
        let rank = call.rank(token);
        self.begun_now.extend(rank);
        self.begun += 1;
        let call = self.call(token);
        call.executions += 1;
        call.stand = Stand::Running { worker, since: at };
    }

    /// Nobody waits who should have been served before a call that began in this step. Calls that began in the same step are
    /// not compared: one that finds a worker free is seen to begin before one that was woken for a worker just then.
    fn nobody_was_overtaken(&mut self) {
        let begun_now = std::mem::take(&mut self.begun_now);
        for (token, call) in self.waiting() {
            let Stand::Waiting { step, again, .. } = call.stand else {
                continue;
            };
            // One that came back to the queue in this step may have come too late.
            let in_time = step < self.step || !again;
            let rank = call.rank(token).filter(|_| in_time);
            let overtaken = |begun: &&Rank| rank.is_some_and(|rank| rank.is_before(**begun));
            if let Some(begun) = begun_now.iter().find(overtaken) {
                panic!("call {} began before call {token}", begun.token);
            }
        }
    }

    fn ended(&mut self, token: Token, how: How, at: Instant) {
        let (attempts, step) = (self.setup.attempts, self.step);
        let call = self.call(token);
        match call.stand {
            Stand::Running { worker, since } => {
                if how == How::Refused {
                    call.executions -= 1;
                }
                if call.spec.stream {
                    call.ended = Some(how);
                    let cancelled = how == How::Dropped && self.is_up(worker);
                    assert!(!cancelled, "stream {token} was cancelled for nothing");
                    return self.waits_again(token, at);
                }
                call.stand = match how {
                    How::Answered => Stand::Due(Told::Value),
                    How::Failed => Stand::Due(Told::Raised),
                    How::Refused => Stand::Waiting {
                        since: at,
                        step,
                        again: true,
                    },
                    How::Broken => Stand::Explaining {
                        worker,
                        since,
                        broke: at,
                    },
                    How::Dropped => after_loss(call, attempts, at, step),
                };
                match how {
                    How::Refused | How::Broken => drop(self.retired.insert(worker, at)),
                    How::Dropped => assert!(!self.is_up(worker), "call {token} was cancelled for nothing"),
                    How::Answered | How::Failed => {}
                }
            }
            Stand::Settling { worker, .. } if how == How::Broken => {
                call.stand = Stand::Settling {
                    worker,
                    until: at + NEWS,
                    executed: false,
                };
                self.retired.insert(worker, at);
            }
            Stand::Settling { .. } => call.stand = Stand::Over,
            Stand::Waiting { .. } | Stand::Explaining { .. } | Stand::Due(_) | Stand::Over => {
                panic!(
                    "call {token} ended in its worker, {how:?}, and is {:?}",
                    call.stand
                )
            }
        }
    }

    /// All that could happen has happened, and was seen.
    pub(crate) fn settled(&mut self, now: Instant) {
        self.nobody_was_overtaken();
        for worker in std::mem::take(&mut self.leaving) {
            self.retired.insert(worker, now);
        }
        for call in self.calls.values_mut() {
            match (call.stand, call.ended) {
                // Whoever wants more has come to where the connection broke.
                (Stand::Running { worker, since }, Some(How::Broken)) if call.wanted > 0 => {
                    call.stand = Stand::Explaining {
                        worker,
                        since,
                        broke: now,
                    };
                    self.retired.insert(worker, now);
                }
                (
                    Stand::Settling {
                        worker,
                        executed: false,
                        ..
                    },
                    _,
                ) if !self.up[&worker] => call.stand = Stand::Over,
                _ => {}
            }
        }
    }

    /// A worker went down: those whose loss was to be explained learn of it.
    pub(crate) fn went_down(&mut self, now: Instant) {
        let (attempts, step) = (self.setup.attempts, self.step);
        let up = &self.up;
        for call in self.calls.values_mut() {
            let is_up = |worker| up.get(&worker).copied().unwrap_or(false);
            match call.stand {
                Stand::Explaining { worker, .. } if !is_up(worker) => {
                    call.tie = call.limit().filter(|(_, at)| *at == now);
                    call.stand = if call.spec.stream {
                        Stand::Due(Told::Lost)
                    } else {
                        after_loss(call, attempts, now, step)
                    };
                }
                Stand::Settling {
                    worker,
                    executed: false,
                    ..
                } if !is_up(worker) => call.stand = Stand::Over,
                Stand::Waiting { .. }
                | Stand::Running { .. }
                | Stand::Explaining { .. }
                | Stand::Settling { .. }
                | Stand::Due(_)
                | Stand::Over => {}
            }
        }
    }

    /// A caller that waited, or was about to, is refused.
    fn refused(&self, token: Token, error: &CallError, up: usize) {
        let call = &self.calls[&token];
        let Stand::Waiting { step, again, .. } = call.stand else {
            unreachable!("only those that wait are refused")
        };
        let is_new = step == self.step && !again;
        // Whom a newer call may displace; of those that call a limited function it cannot be told.
        let others = || {
            let fresh = |call: &Call| matches!(call.stand, Stand::Waiting { again: false, .. });
            self.waiting()
                .filter(move |(other, call)| *other != token && !call.spec.limited && fresh(call))
        };
        let wrong = || {
            format!(
                "call {token} was told {error}; the pool is {}, calls:\n{}",
                self.phase,
                self.calls_told()
            )
        };
        match error {
            CallError::QueueFull { waiting, limit, .. } => {
                assert!(is_new && Some(*limit) == self.setup.queue_limit, "{}", wrong());
                assert!(
                    *waiting == self.waiting().count() - 1 && waiting >= limit,
                    "{}",
                    wrong()
                );
                let displaces = |(_, other): (Token, &Call)| other.spec.priority <= call.spec.priority;
                let gives_way = self.setup.overflow == Overflow::DropOldest && !call.spec.limited;
                assert!(!gives_way || !others().any(displaces), "{}", wrong());
            }
            CallError::Displaced { limit, .. } => {
                assert!(self.setup.overflow == Overflow::DropOldest, "{}", wrong());
                assert!(
                    Some(*limit) == self.setup.queue_limit && !is_new && !again,
                    "{}",
                    wrong()
                );
                let rank = call.rank(token);
                let better = |(other, other_call): (Token, &Call)| {
                    let Stand::Waiting { step, .. } = other_call.stand else {
                        return false;
                    };
                    let other = other_call.rank(other).zip(rank);
                    let gives_way = |(other, rank): (Rank, Rank)| {
                        other.priority < rank.priority
                            || other.priority == rank.priority && other.token < rank.token
                    };
                    step < self.step && other.is_some_and(gives_way)
                };
                assert!(!others().any(better), "{}", wrong());
            }
            CallError::NotServing { phase, .. } => {
                let stops = self.ending && *phase == Phase::Stopped;
                assert!(
                    stops || *phase == self.phase && phase.refuses() && is_new,
                    "{}",
                    wrong()
                );
            }
            CallError::NoWorkers { .. } => {
                // Those that have a successor, which did not live, serve nobody new either.
                let out: BTreeSet<_> = self
                    .retired
                    .keys()
                    .chain(&self.followed)
                    .chain(&self.leaving)
                    .collect();
                let out = out.into_iter().filter(|worker| self.is_up(**worker)).count();
                assert!(
                    up <= out || self.somebody_new || self.shrinks,
                    "{up} workers are up; {}",
                    wrong()
                );
            }
            _ => panic!("{}", wrong()),
        }
    }

    /// Its caller has an outcome.
    fn told(&mut self, token: Token, outcome: &Result<Token, CallError>, at: Instant, up: usize) {
        let call = &self.calls[&token];
        if let Err(error) = outcome {
            assert!(
                error.may_have_executed() || call.executions == 0,
                "call {token} was executed, and its caller told otherwise: {error}"
            );
        }
        let wrong = || format!("call {token} is {:?} and was told {outcome:?}", call.stand);
        let then = match outcome {
            Ok(answer) => {
                assert_eq!(*answer, token, "the answer of another call");
                let ended = call.ended == Some(How::Answered) && call.taken == call.yielded;
                assert!(
                    call.stand == Stand::Due(Told::Value) || call.spec.stream && ended,
                    "{}",
                    wrong()
                );
                Stand::Over
            }
            Err(CallError::Failed(failed)) => {
                assert_eq!(
                    failed.error.message,
                    token.to_string(),
                    "the error of another call"
                );
                let ended = matches!(call.ended, Some(How::Failed | How::Refused));
                assert!(
                    call.stand == Stand::Due(Told::Raised) || call.spec.stream && ended,
                    "{}",
                    wrong()
                );
                if let (Some(How::Refused), Some(worker)) = (call.ended, call.has()) {
                    self.retired.insert(worker, at);
                }
                Stand::Over
            }
            Err(CallError::WorkerLost(lost)) => {
                let refused = call.is_waiting() && call.lost;
                // Its last items had not left the worker.
                let cut = call.ended == Some(How::Answered) && call.taken < call.yielded;
                let down = call.has().is_some_and(|worker| !self.is_up(worker));
                let ended = matches!(call.ended, Some(How::Broken | How::Dropped)) || cut && down;
                assert!(
                    refused || call.stand == Stand::Due(Told::Lost) || ended,
                    "{}",
                    wrong()
                );
                assert_eq!(lost.attempts, call.executions, "call {token}");
                Stand::Over
            }
            Err(CallError::DeadlineExceeded(error)) => {
                if call.tie != Some((error.budget, at)) {
                    let limit = call.limit().unwrap_or_else(|| panic!("{}", wrong()));
                    assert!(limit.0 == error.budget, "{}: it was to be {limit:?}", wrong());
                    let late = call.spec.stream && (call.has().is_some() || call.late);
                    assert!(
                        at == limit.1 || late && at > limit.1,
                        "call {token} was told at {at:?} of {limit:?}"
                    );
                    assert_eq!(error.ran.is_some(), call.has().is_some(), "{}", wrong());
                    assert_eq!(error.lost.is_some(), call.lost, "{}", wrong());
                }
                return self.abandoned(token, at);
            }
            Err(error) => {
                assert!(call.is_waiting() && !call.lost, "{}", wrong());
                self.refused(token, error, up);
                Stand::Over
            }
        };
        self.call(token).stand = then;
    }
}

/// A call whose worker was lost waits for another one, or its caller is told.
fn after_loss(call: &mut Call, attempts: u32, at: Instant, step: u32) -> Stand {
    if call.spec.idempotent && call.executions < attempts {
        call.lost = true;
        return Stand::Waiting {
            since: at,
            step,
            again: true,
        };
    }
    Stand::Due(Told::Lost)
}
