//! Does to a pool what the operations say, and tells its description what was seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use snakepit_core::{
    WorkerId,
    event::Events,
    pool::{Phase, Pool, RestartError, Restarted},
    testing::{FakeWorker, FakeWorkerFactory, Record},
    worker::{DownReason, Worker as _},
};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep_until},
};

use crate::{
    caller::{Caller, LIMITED},
    check::check,
    model::{CANCEL_GRACE, Call, Model, Stand},
    ops::{End, Op, Pick, Play, Spec},
    stage::{How, Stage, Token},
};

/// More turns than any chain of wake-ups has links.
const TURNS: u32 = 100;

struct Drive {
    pool: Pool,
    workers: FakeWorkerFactory,
    stage: Stage,
    model: Model,
    callers: BTreeMap<Token, Caller>,
    drains: Vec<JoinHandle<()>>,
    /// With the lowest number of the workers that they make.
    restarts: Vec<(WorkerId, JoinHandle<Result<Restarted, RestartError>>)>,
}

/// Plays a list of operations to its end.
pub(crate) async fn run(play: Play) {
    let Play { setup, ops, end } = play;
    let stage = Stage::default();
    let workers = FakeWorkerFactory::new()
        .with_behaviour(stage.behaviour())
        .with_concurrency(setup.concurrency)
        .with_end_taking(setup.end_takes);
    let mut builder = Pool::builder(Arc::new(workers.clone()), Events::new("model"))
        .workers(setup.max)
        .min_workers(setup.min)
        .idle_timeout(Duration::from_secs(10))
        .queue_limit(setup.queue_limit)
        .overflow(setup.overflow)
        .attempts(setup.attempts)
        .max_calls(setup.max_calls)
        .cancel_grace(CANCEL_GRACE);
    for function in LIMITED {
        builder = builder.function_limit(function, setup.limited);
    }
    let mut drive = Drive {
        pool: builder.start().await.unwrap(),
        workers,
        stage,
        model: Model::new(setup),
        callers: BTreeMap::new(),
        drains: Vec::new(),
        restarts: Vec::new(),
    };
    drive.step().await;
    for op in ops {
        drive.apply(&op);
        drive.step().await;
        if let Op::Pass(time) = op {
            drive.pass(time).await;
        }
    }
    drive.end(end).await;
}

fn picked<T: Copy>(pick: Pick, from: &[T]) -> Option<T> {
    let at = usize::from(pick).checked_rem(from.len())?;
    from.get(at).copied()
}

impl Drive {
    fn apply(&mut self, op: &Op) {
        let now = Instant::now();
        match op {
            Op::Call(spec) => self.call(spec),
            Op::Take(pick, items) => {
                let open = |call: &Call| call.spec.stream && call.stand != Stand::Over;
                let streams = self.tokens(open);
                if let Some(token) = picked(*pick, &streams) {
                    self.want(token, *items);
                }
            }
            Op::Leave(pick) => {
                let there = |call: &Call| !matches!(call.stand, Stand::Settling { .. } | Stand::Over);
                if let Some(token) = picked(*pick, &self.tokens(there)) {
                    self.callers[&token].leave();
                    self.model.abandoned(token, now);
                }
            }
            Op::Answer(pick) => self.go_on(*pick, How::Answered),
            Op::Fail(pick) => self.go_on(*pick, How::Failed),
            Op::Refuse(pick) => self.go_on(*pick, How::Refused),
            Op::Break(pick) => self.go_on(*pick, How::Broken),
            Op::Yield(pick, items) => {
                if let Some(token) = picked(*pick, &self.stage.producing()) {
                    let yielded = self.stage.produce(token, *items);
                    self.model.calls.get_mut(&token).unwrap().yielded += yielded;
                }
            }
            Op::Kill(pick) => self.with_worker(*pick, FakeWorker::crash),
            Op::Condemn(pick) => {
                let reason = DownReason::Unresponsive(Duration::from_secs(10));
                self.with_worker(*pick, |worker| worker.condemn(reason));
            }
            Op::NextStarts(starts) => drop(self.workers.clone().with_script(starts.clone())),
            Op::Pause => {
                self.pool.pause();
                if self.model.phase == Phase::Running {
                    self.model.phase = Phase::Paused;
                }
            }
            Op::Resume => {
                self.pool.resume();
                self.model.phase = Phase::Running;
            }
            Op::Drain => {
                let pool = self.pool.clone();
                self.drains.push(tokio::spawn(async move { pool.drain().await }));
                self.model.phase = Phase::Draining;
            }
            Op::Resize(min, max) => {
                self.pool.resize(*min, *max).unwrap();
                (self.model.setup.min, self.model.setup.max) = (*min, *max);
                self.model.shrinks = true;
            }
            Op::Restart => {
                let pool = self.pool.clone();
                let first = WorkerId::next();
                self.restarts
                    .push((first, tokio::spawn(async move { pool.restart().await })));
            }
            Op::Pass(_) => {}
        }
    }

    fn tokens(&self, fits: impl Fn(&Call) -> bool) -> Vec<Token> {
        let calls = self.model.calls.iter().filter(|(_, call)| fits(call));
        calls.map(|(token, _)| *token).collect()
    }

    fn call(&mut self, spec: &Spec) {
        let token = Token::try_from(self.callers.len()).unwrap();
        self.model.sends(token, spec.clone(), Instant::now());
        let caller = Caller::new(&self.pool, &self.workers, &self.stage, token, spec);
        self.callers.insert(token, caller);
    }

    fn want(&mut self, token: Token, items: u8) {
        self.callers[&token].want(items);
        self.model.wants(token, u32::from(items), Instant::now());
    }

    fn go_on(&self, pick: Pick, how: How) {
        if let Some(token) = picked(pick, &self.stage.running()) {
            self.stage.go_on(token, how);
        }
    }

    fn with_worker(&self, pick: Pick, act: impl FnOnce(&FakeWorker)) {
        let workers = self.workers.workers();
        let up: Vec<_> = workers.iter().filter(|worker| worker.is_up()).collect();
        if let Some(worker) = picked(pick, &up) {
            act(worker);
        }
    }

    /// Everything happens that can without time passing, and is checked.
    async fn step(&mut self) {
        for _ in 0..TURNS {
            yield_now().await;
        }
        let now = Instant::now();
        let model = &mut self.model;
        let workers = self.workers.workers();
        model.up.values_mut().for_each(|up| *up = false);
        model.somebody_new = false;
        for worker in &workers {
            model.somebody_new |= model.up.insert(worker.id(), worker.is_up()).is_none();
            let last = model.last.entry(worker.slot()).or_insert(worker.id());
            *last = worker.id().max(*last);
        }
        model.went_down(now);
        for (at, seen) in self.stage.take_seen() {
            model.sees(at, seen);
        }
        model.settled(now);
        let last: BTreeSet<_> = model.last.values().collect();
        model.followed = model
            .up
            .keys()
            .copied()
            .filter(|worker| !last.contains(worker))
            .collect();
        // Gone with everything that is to be known of them.
        model.retired.retain(|worker, _| model.up[worker]);
        drop(workers);
        let status = self.pool.status().await;
        check(&self.model, &status, now);
        let most = self.workers.journal().most_live_in_a_slot();
        assert!(most <= 2, "{most} live workers in a slot");
        self.check_drains();
        self.check_restarts().await;
        self.model.step += 1;
    }

    /// A drain is over when no call is.
    fn check_drains(&mut self) {
        let goes_on = |call: &Call| call.is_waiting() || call.has().is_some();
        let quiet = !self.model.calls.values().any(goes_on);
        let before = self.drains.len();
        self.drains.retain(|drain| !drain.is_finished());
        let over = self.drains.len() < before;
        assert!(!quiet || self.drains.is_empty(), "a drain goes on without a call");
        let draining = self.model.phase == Phase::Draining && !self.model.ending;
        assert!(
            !over || quiet || !draining,
            "a drain ended before the calls: {}",
            self.model.calls_told()
        );
    }

    /// After a restart no worker is left from before it.
    async fn check_restarts(&mut self) {
        for at in (0..self.restarts.len()).rev() {
            if !self.restarts[at].1.is_finished() {
                continue;
            }
            let (first, restart) = self.restarts.remove(at);
            match restart.await.unwrap() {
                Ok(_) => {
                    let old = |worker: &&WorkerId| **worker < first && !self.model.followed.contains(worker);
                    let old = self
                        .model
                        .up
                        .iter()
                        .filter(|(_, up)| **up)
                        .map(|(worker, _)| worker)
                        .find(old);
                    assert!(
                        self.model.shrinks || old.is_none(),
                        "{old:?} is from before {first}"
                    );
                }
                Err(RestartError::Failed { .. }) => {
                    let failed = |record: &Record| matches!(record, Record::StartFailed(..));
                    let failed = self.workers.journal().records().iter().any(failed);
                    assert!(failed || self.model.ending, "no start has failed");
                }
                Err(error) => assert!(self.model.ending, "{error}"),
            }
        }
    }

    /// Time passes, with a step whenever a time is up that the description knows of.
    async fn pass(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let next = self.model.next_time(Instant::now());
            sleep_until(next.map_or(end, |next| next.min(end))).await;
            self.step().await;
        }
    }

    async fn end(mut self, end: End) {
        if matches!(end, End::InOrder) {
            self.recover().await;
        }
        self.model.ending = true;
        self.model.phase = Phase::Draining;
        let (pool, began) = (self.pool.clone(), Instant::now());
        let ended = tokio::spawn(async move {
            match end {
                End::InOrder | End::Shutdown => pool.shutdown().await,
                End::Kill => pool.kill().await,
            }
        });
        // Calls may take 5 s to finish, and workers as long to end.
        let bound = match end {
            End::Shutdown => Duration::from_secs(12),
            End::InOrder => Duration::from_secs(3),
            End::Kill => Duration::from_secs(1),
        };
        self.step().await;
        while !ended.is_finished() {
            assert!(
                began.elapsed() < bound,
                "the end takes more than {bound:?}: {}",
                self.model.calls_told()
            );
            self.pass(Duration::from_millis(100)).await;
        }
        ended.await.unwrap();
        self.call_after_the_end().await;
        assert_eq!(self.workers.journal().live_in_all(), 0, "a worker is left");
        for (token, call) in &self.model.calls {
            assert_eq!(call.stand, Stand::Over, "call {token} was forgotten: {call:?}");
        }
        assert!(self.drains.is_empty() && self.restarts.is_empty());
    }

    /// Whatever was broken: once starts succeed and calls are answered, everybody is served.
    async fn recover(&mut self) {
        self.apply(&Op::Resume);
        self.step().await;
        let served = |drive: &Self| drive.model.calls.values().all(|call| call.stand == Stand::Over);
        for _ in 0..200 {
            self.read_on();
            for token in self.stage.running() {
                self.stage.go_on(token, How::Answered);
            }
            self.step().await;
            if served(self) && self.drains.is_empty() && self.restarts.is_empty() {
                return;
            }
            self.pass(Duration::from_secs(30)).await;
        }
        panic!("not everybody was served: {}", self.model.calls_told());
    }

    /// Every stream's caller wants to come to its end.
    fn read_on(&mut self) {
        for token in self.tokens(|call| call.spec.stream && call.stand != Stand::Over) {
            self.want(token, u8::MAX);
        }
    }

    async fn call_after_the_end(&mut self) {
        self.read_on();
        self.step().await;
        self.model.phase = Phase::Stopped;
        let spec = Spec {
            stream: false,
            priority: 0,
            deadline: None,
            queue_timeout: None,
            run_timeout: None,
            idempotent: false,
            limited: false,
            deaf: false,
            credit: 1,
        };
        self.call(&spec);
        self.step().await;
    }
}
