//! Which calls are running, and how one is cancelled without ever hitting another.
//!
//! Every change is made under one short lock that no holder waits under, so the control thread may take it
//! while Python computes.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    place::{Place, Runner},
    sys::{self, Journal, MainThread},
};

/// How many finished call ids are remembered, so that a late cancel is told from an early one.
const FINISHED: usize = 64;
/// When a cancel comes again that found its call where it must not be interrupted.
const POSTPONED: Duration = Duration::from_millis(1);
/// How many cancels of calls that have not arrived yet are remembered.
const EARLY: usize = 64;

/// What user code may know about the call it runs in.
#[derive(Clone, Debug)]
pub(crate) struct CallInfo {
    /// The host's number for the call.
    pub(crate) call_id: u64,
    /// The wire name of the function.
    pub(crate) function: Arc<str>,
    /// When the caller stops waiting.
    pub(crate) deadline: Option<Instant>,
    /// The session that it belongs to.
    pub(crate) session: Option<u64>,
}

/// Why a call may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It was cancelled before it began.
    Cancelled,
    /// The worker takes no more calls.
    ShuttingDown,
}

/// A call that is over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Its id; `None` if it had ended before.
    pub(crate) call_id: Option<u64>,
    /// An exception is left with its thread.
    pub(crate) exception_set: bool,
}

#[derive(Debug)]
struct Current {
    place: Place,
    runner: Runner,
    info: CallInfo,
    started: Instant,
    /// Its runner is inside user code of this call.
    in_python: bool,
    cancel_requested: bool,
    /// A cancel signal is under way, or will be in a moment, that its Python handler has not taken yet.
    pending: bool,
    /// An exception was left with the thread, to be raised there at its next step.
    exception_set: bool,
    /// The code was told of the last cancel by what it waited for.
    told: bool,
}

#[derive(Debug)]
struct Waiting {
    ticket: u64,
    call_id: u64,
    cancelled: bool,
}

#[derive(Debug, Default)]
struct State {
    running: Vec<Option<Current>>,
    /// Indices of `running` that are free.
    vacant: Vec<usize>,
    numbers: u64,
    waiting: Vec<Waiting>,
    tickets: u64,
    finished: VecDeque<u64>,
    early: VecDeque<u64>,
    begun: u64,
    calls: u64,
    draining: bool,
}

impl State {
    fn at(&mut self, place: Place) -> Option<&mut Current> {
        self.running
            .get_mut(place.index())?
            .as_mut()
            .filter(|current| current.place == place)
    }

    fn currents(&mut self) -> impl Iterator<Item = &mut Current> {
        self.running.iter_mut().flatten()
    }

    fn is_running(&self) -> bool {
        self.vacant.len() < self.running.len()
    }
}

/// What a ping answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activity {
    /// The call that has been running for longest, and for how long.
    pub(crate) oldest: Option<(u64, Duration)>,
    /// Calls that run.
    pub(crate) running: usize,
    /// Calls finished so far.
    pub(crate) calls: u64,
}

/// The calls that run and wait.
#[derive(Debug)]
pub(crate) struct Slot {
    state: Mutex<State>,
    main: MainThread,
    journal: OnceLock<Journal>,
    /// Woken when a running call is cancelled, for those of them that run no user code (streams that wait for credit).
    pub(crate) cancelled: Notify,
    /// Woken when a cancel has found its call where it must not be interrupted.
    postponed: Notify,
    /// Woken at the end of every call while draining.
    pub(crate) ended: Notify,
    draining: AtomicBool,
    /// A call has ended whose answer has not been sent yet.
    unsent: AtomicBool,
    /// The socket of the connection on the main thread is full.
    full: AtomicBool,
    /// Woken when it is no more.
    room: Notify,
    /// How far the last item of a stream has come that is served on the main thread.
    item: AtomicU8,
}

/// It waits for the connection's task to take it.
const ITEM_QUEUED: u8 = 2;
/// It has been taken, and goes out when the connection is polled next.
const ITEM_TAKEN: u8 = 1;
const ITEM_SENT: u8 = 0;

impl Slot {
    pub(crate) fn new(main: MainThread) -> Self {
        Self {
            state: Mutex::default(),
            main,
            journal: OnceLock::new(),
            cancelled: Notify::new(),
            postponed: Notify::new(),
            ended: Notify::new(),
            draining: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            full: AtomicBool::new(false),
            room: Notify::new(),
            item: AtomicU8::new(ITEM_SENT),
        }
    }

    /// The connection has had a turn: what it has taken has been sent, or its socket is full.
    pub(crate) fn connection_turned(&self, sent: bool) {
        if !sent {
            return self.full.store(true, Ordering::Relaxed);
        }
        self.unsent.store(false, Ordering::Relaxed);
        if self.item.load(Ordering::Relaxed) == ITEM_TAKEN {
            self.item.store(ITEM_SENT, Ordering::Relaxed);
        }
        if self.full.swap(false, Ordering::Relaxed) {
            self.room.notify_waiters();
        }
    }

    /// The answer of the call before has been sent, over another socket than the connection's.
    pub(crate) fn answer_sent(&self) {
        self.unsent.store(false, Ordering::Relaxed);
    }

    /// Whether the socket is full.
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Waits while the socket is full.
    pub(crate) async fn room(&self) {
        while self.is_full() {
            // The connection lives on this very thread: nothing comes in between.
            self.room.notified().await;
        }
    }

    /// An item is to be sent.
    pub(crate) fn item_queued(&self) {
        self.item.store(ITEM_QUEUED, Ordering::Relaxed);
    }

    /// The connection has taken it.
    pub(crate) fn item_taken(&self) {
        self.item.store(ITEM_TAKEN, Ordering::Relaxed);
    }

    /// Whether the last item still has to be sent.
    pub(crate) fn has_unsent_item(&self) -> bool {
        self.item.load(Ordering::Relaxed) != ITEM_SENT
    }

    /// Whether the answer of the call before still has to be sent.
    pub(crate) fn has_unsent_answer(&self) -> bool {
        self.unsent.load(Ordering::Relaxed)
    }

    /// Notes calls that begin from now on.
    pub(crate) fn keep_journal(&self, journal: Journal) {
        // Set once, before the first call; a second one would be a mistake without consequence.
        let _ = self.journal.set(journal);
    }

    /// Where calls that begin are noted.
    pub(crate) fn journal(&self) -> Option<&Journal> {
        self.journal.get()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic ends the process (see `panic`), so a poisoned lock has no reader; the state is whole anyway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a call that has arrived and waits for its turn.
    pub(crate) fn wait(&self, call_id: u64) -> u64 {
        let mut state = self.lock();
        state.tickets += 1;
        let ticket = state.tickets;
        state.waiting.push(Waiting {
            ticket,
            call_id,
            cancelled: false,
        });
        ticket
    }

    /// Takes a waiting call off the list; true when it was cancelled meanwhile.
    pub(crate) fn stop_waiting(&self, ticket: u64) -> bool {
        let mut state = self.lock();
        let at = state.waiting.iter().position(|waiting| waiting.ticket == ticket);
        let cancelled = at.is_some_and(|at| state.waiting.remove(at).cancelled);
        self.tell_ended();
        cancelled
    }

    /// Begins a call; the caller holds a turn and enters user code next.
    pub(crate) fn begin(&self, info: CallInfo, runner: Runner) -> Result<Place, Refusal> {
        let mut state = self.lock();
        if state.draining {
            return Err(Refusal::ShuttingDown);
        }
        if let Some(at) = state.early.iter().position(|&early| early == info.call_id) {
            state.early.remove(at);
            return Err(Refusal::Cancelled);
        }
        // Under the lock, as is every cancel: a call that is not noted when a cancel is answered never begins.
        if let Some(journal) = self.journal.get() {
            journal.note(state.begun, info.call_id);
            state.begun += 1;
        }
        let index = state.vacant.pop().unwrap_or_else(|| {
            state.running.push(None);
            state.running.len() - 1
        });
        state.numbers += 1;
        let place = Place::new(index, state.numbers);
        state.running[index] = Some(Current {
            place,
            runner,
            info,
            started: Instant::now(),
            in_python: true,
            cancel_requested: false,
            pending: false,
            exception_set: false,
            told: false,
        });
        Ok(place)
    }

    /// Ends a running call.
    pub(crate) fn end(&self, place: Place) -> Ended {
        let mut state = self.lock();
        let mut ended = Ended::default();
        if state.at(place).is_some()
            && let Some(current) = state.running[place.index()].take()
        {
            state.vacant.push(place.index());
            if state.finished.len() == FINISHED {
                state.finished.pop_front();
            }
            state.finished.push_back(current.info.call_id);
            state.calls += 1;
            ended.exception_set = current.exception_set;
            ended.call_id = Some(current.info.call_id);
            self.unsent.store(true, Ordering::Relaxed);
        }
        drop(state);
        self.tell_ended();
        ended
    }

    fn tell_ended(&self) {
        if self.draining.load(Ordering::Relaxed) {
            self.ended.notify_waiters();
        }
    }

    /// Enters user code again within a running call; false when it has been cancelled since.
    pub(crate) fn enter(&self, place: Place) -> bool {
        match self.lock().at(place) {
            Some(current) if !current.cancel_requested => {
                current.in_python = true;
                true
            }
            _ => false,
        }
    }

    /// Enters user code of a call that may have been cancelled: its clean-up.
    pub(crate) fn enter_cleanup(&self, place: Place) {
        if let Some(current) = self.lock().at(place) {
            current.in_python = true;
            current.pending = false;
        }
    }

    /// Leaves user code while the call goes on; true when an exception is left with its thread. A cancel signal still under
    /// way then finds nothing to raise.
    pub(crate) fn leave(&self, place: Place) -> bool {
        self.lock().at(place).is_some_and(|current| {
            current.in_python = false;
            current.pending = false;
            std::mem::take(&mut current.exception_set)
        })
    }

    /// The call goes on as a task of the event loop, which looks itself whether it was cancelled by then; true when an
    /// exception is left with its thread.
    pub(crate) fn become_task(&self, place: Place) -> bool {
        self.lock().at(place).is_some_and(|current| {
            current.runner = Runner::Task;
            current.pending = false;
            std::mem::take(&mut current.exception_set)
        })
    }

    /// Was this call told to stop?
    pub(crate) fn is_cancelled(&self, place: Place) -> bool {
        self.lock()
            .at(place)
            .is_some_and(|current| current.cancel_requested)
    }

    /// Cancels a call by id, or `only_waiting` if it has not begun; true when it runs or waits.
    pub(crate) fn cancel(&self, call_id: u64, only_waiting: bool) -> bool {
        let mut state = self.lock();
        if let Some(current) = state.currents().find(|current| current.info.call_id == call_id) {
            if !only_waiting {
                self.interrupt(current);
            }
            return true;
        }
        if let Some(waiting) = state
            .waiting
            .iter_mut()
            .find(|waiting| waiting.call_id == call_id)
        {
            waiting.cancelled = true;
            return true;
        }
        // The two connections are not ordered: a cancel may overtake its call. One that comes late is
        // recognised by the ids that have finished.
        if !state.finished.contains(&call_id) {
            if state.early.len() == EARLY {
                state.early.pop_front();
            }
            state.early.push_back(call_id);
        }
        false
    }

    /// Cancels whatever runs.
    pub(crate) fn cancel_running(&self) {
        self.lock().currents().for_each(|current| self.interrupt(current));
    }

    /// The flag is set on the call that runs now, under the lock, and the handler takes it under the lock: a signal that
    /// arrives late finds the flag gone and does nothing.
    fn interrupt(&self, current: &mut Current) {
        current.cancel_requested = true;
        current.told = false;
        if current.in_python {
            current.pending = true;
            self.main.interrupt();
        }
        self.cancelled.notify_waiters();
    }

    /// Asked by the signal's Python handler: is there a cancel for the code that the main thread runs now?
    pub(crate) fn take_interrupt(&self) -> bool {
        self.lock()
            .currents()
            .find(|current| current.runner == Runner::Main)
            .is_some_and(|current| current.in_python && std::mem::take(&mut current.pending))
    }

    /// The thread that runs a call has learnt of its cancel by itself, and is interrupted no more by that one. True when an
    /// exception is left with the thread.
    pub(crate) fn take_cancel(&self, place: Option<Place>) -> bool {
        let thread = sys::this_thread();
        let mut state = self.lock();
        let current = match place {
            Some(place) => state.at(place),
            None => state.currents().next(),
        };
        let runs_here = |current: &&mut Current| match current.runner {
            Runner::Thread(runner) => runner == thread,
            Runner::Main | Runner::Task => self.main.is_current(),
        };
        current.filter(runs_here).is_some_and(|current| {
            current.pending = false;
            current.told = true;
            std::mem::take(&mut current.exception_set)
        })
    }

    /// Whether this is the thread that runs calls where one runs at a time.
    pub(crate) fn is_on_main_thread(&self) -> bool {
        self.main.is_current()
    }

    /// Asked by the signal's Python handler: which other calls are to be interrupted, and what runs them?
    pub(crate) fn take_interrupts(&self) -> Vec<(Place, Runner)> {
        let mut state = self.lock();
        let pending = state
            .currents()
            .filter(|current| current.runner != Runner::Main && current.in_python && current.pending);
        pending
            .map(|current| {
                current.pending = false;
                (current.place, current.runner)
            })
            .collect()
    }

    /// A cancel that the handler has taken comes again in a moment.
    pub(crate) fn interrupt_later(&self, place: Option<Place>) {
        let mut state = self.lock();
        let current = match place {
            Some(place) => state.at(place),
            None => state.currents().next(),
        };
        if let Some(current) = current {
            current.pending = current.in_python;
            self.postponed.notify_one();
        }
    }

    /// Sends the signal of cancels that come again; runs until it is dropped.
    pub(crate) async fn interrupt_postponed(&self) {
        loop {
            self.postponed.notified().await;
            tokio::time::sleep(POSTPONED).await;
            if self.lock().currents().any(|current| current.pending) {
                self.main.interrupt();
            }
        }
    }

    /// Leaves an exception with the thread of a call that is in user code, by `set`. Whoever ends the user code clears it away
    /// if it was not raised by then.
    pub(crate) fn set_exception(&self, place: Place, set: impl FnOnce(u64)) {
        let mut state = self.lock();
        if let Some(current) = state.at(place)
            && let Runner::Thread(thread) = current.runner
            && current.in_python
            && !current.told
        {
            current.exception_set = true;
            // Under the lock, so that the call cannot end in between.
            set(thread);
        }
    }

    /// The call at a place, or the only one, and whether it was told to stop.
    pub(crate) fn current(&self, place: Option<Place>) -> Option<(CallInfo, bool)> {
        self.look(place, |current| (current.info.clone(), current.cancel_requested))
    }

    /// The id of the call at a place, or of the only one.
    pub(crate) fn current_id(&self, place: Option<Place>) -> Option<u64> {
        self.look(place, |current| current.info.call_id)
    }

    /// The session of the call at a place, or of the only one.
    pub(crate) fn current_session(&self, place: Option<Place>) -> Option<u64> {
        self.look(place, |current| current.info.session)?
    }

    fn look<T>(&self, place: Option<Place>, look: impl FnOnce(&Current) -> T) -> Option<T> {
        let mut state = self.lock();
        let current = match place {
            Some(place) => state.at(place)?,
            None => state.currents().next()?,
        };
        Some(look(current))
    }

    /// What is going on.
    pub(crate) fn activity(&self) -> Activity {
        let state = self.lock();
        let running = state.running.iter().flatten();
        let oldest = running.clone().min_by_key(|current| current.started);
        Activity {
            oldest: oldest.map(|current| (current.info.call_id, current.started.elapsed())),
            running: running.count(),
            calls: state.calls,
        }
    }

    /// From now on calls are refused.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.lock().draining = true;
        self.ended.notify_waiters();
    }

    fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.is_running() && state.waiting.is_empty()
    }

    /// Waits until no call runs or waits; only while draining.
    pub(crate) async fn idle(&self) {
        loop {
            let ended = self.ended.notified();
            let mut ended = std::pin::pin!(ended);
            ended.as_mut().enable();
            if self.is_idle() {
                return;
            }
            ended.await;
        }
    }
}
