//! The event loop on the main thread, as the other threads see it: what they have for it is put into an inbox, and a
//! descriptor that the loop watches wakes it.

use std::{
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use pyo3::{IntoPyObjectExt as _, prelude::*};
use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::{Semaphore, mpsc};

use crate::{
    call::{Engine, TaskCall},
    jobs::{Job, Jobs},
    shared::{Command, Shared},
};

/// Threads for functions that are not asynchronous, at most: as many as Starlette and FastAPI give theirs.
const MAX_THREADS: u32 = 40;

/// What the loop is asked to do.
#[derive(Debug)]
enum Work {
    /// To begin a call.
    Begin(Job),
    /// To go on with a call that has begun elsewhere.
    GoOn(TaskCall),
    /// To resolve a future.
    Wake(Py<PyAny>),
    /// To start one more thread.
    Grow,
    /// To put the wakeup descriptor back in place.
    Rearm,
    /// To stop for a command.
    Perform(Command),
    /// To stop for good.
    Finish,
}

/// Calls as tasks of the event loop.
#[derive(Debug)]
pub(crate) struct Tasks {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    /// Runs tasks on the control thread.
    control: tokio::runtime::Handle,
    inbox: Mutex<Vec<Work>>,
    bell: OwnedFd,
    turns: Arc<Semaphore>,
    /// Calls for the threads.
    beside: Arc<Jobs>,
    threads: AtomicU32,
    most_threads: u32,
}

impl Tasks {
    /// As many calls at the same time as `count`.
    ///
    /// # Errors
    /// What eventfd(2) answers.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        engine: &Arc<Engine>,
        control: &tokio::runtime::Handle,
        count: u32,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            shared: Arc::clone(shared),
            engine: Arc::clone(engine),
            control: control.clone(),
            inbox: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            turns: Arc::new(Semaphore::new(count as usize)),
            beside: Arc::default(),
            threads: AtomicU32::new(0),
            most_threads: count.min(MAX_THREADS),
        }))
    }

    /// Calls for the threads beside the loop.
    pub(crate) fn beside(&self) -> &Arc<Jobs> {
        &self.beside
    }

    /// Runs a task on the control thread.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.control.spawn(task);
    }

    /// Feeds the loop from the control thread.
    pub(crate) fn feed(self: &Arc<Self>, jobs: Arc<Jobs>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let tasks = Arc::clone(self);
        self.spawn(async move {
            loop {
                let job = jobs.next().await;
                let tasks = Arc::clone(&tasks);
                tokio::spawn(async move { tasks.admit(job).await });
            }
        });
        let tasks = Arc::clone(self);
        self.spawn(async move {
            while let Some(command) = commands.recv().await {
                tasks.post(Work::Perform(command));
            }
        });
        let tasks = Arc::clone(self);
        self.spawn(async move {
            loop {
                tasks.shared.heartbeat.notified().await;
                tasks.post(Work::Rearm);
            }
        });
        let tasks = Arc::clone(self);
        self.spawn(async move {
            tasks.shared.until_shutdown().await;
            tasks.shared.slot.idle().await;
            tasks.post(Work::Finish);
        });
    }

    /// Gives a call its turn, and to the loop if its function is known to be asynchronous.
    async fn admit(&self, mut job: Job) {
        match self.engine.turn_among(&self.turns, job.request.call_id).await {
            Ok(turn) => job.turn = Some(turn),
            Err(error) => return self.engine.refuse(job, error).await,
        }
        if self.engine.is_async(&job.request.function) {
            self.post(Work::Begin(job));
        } else if !self.beside.push(job) {
            // Only this thread adds threads.
            let threads = self.threads.load(Ordering::Relaxed);
            if threads < self.most_threads {
                self.threads.store(threads + 1, Ordering::Relaxed);
                self.post(Work::Grow);
            }
        }
    }

    /// Has a call go on as a task.
    pub(crate) fn go_on(&self, call: TaskCall) {
        self.post(Work::GoOn(call));
    }

    /// Has a future resolved.
    pub(crate) fn wake(&self, future: Py<PyAny>) {
        self.post(Work::Wake(future));
    }

    fn post(&self, work: Work) {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = inbox.is_empty();
        inbox.push(work);
        drop(inbox);
        if was_empty {
            // It fails only when user code has closed it, which the loop notices as well.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

/// The inbox, as the loop sees it.
#[pyclass(frozen, name = "Inbox")]
#[derive(Debug)]
pub(crate) struct Inbox(pub(crate) Arc<Tasks>);

#[pymethods]
impl Inbox {
    #[classattr]
    const CALL: u8 = 0;
    #[classattr]
    const WAKE: u8 = 1;
    #[classattr]
    const GROW: u8 = 2;
    #[classattr]
    const REARM: u8 = 3;
    #[classattr]
    const PREPARE: u8 = 4;
    #[classattr]
    const FINISH: u8 = 5;

    /// The descriptor that can be read while there is something to take.
    fn fileno(&self) -> i32 {
        self.0.bell.as_raw_fd()
    }

    /// Takes what there is: what it is, and what it is about.
    fn take(&self, py: Python<'_>) -> PyResult<Vec<(u8, Py<PyAny>)>> {
        // Quiet before it is emptied: what comes in between rings again.
        let _ = rustix::io::read(&self.0.bell, &mut [0_u8; 8]);
        let work = std::mem::take(&mut *self.0.inbox.lock().unwrap_or_else(PoisonError::into_inner));
        let mut taken = Vec::with_capacity(work.len());
        for work in work {
            match work {
                Work::Begin(job) => {
                    if let Some(call) = self.0.engine.begin_task(py, job, &self.0) {
                        taken.push((Self::CALL, call.into_py_any(py)?));
                    }
                }
                Work::GoOn(call) => taken.push((Self::CALL, call.into_py_any(py)?)),
                Work::Wake(future) => taken.push((Self::WAKE, future)),
                Work::Grow => taken.push((Self::GROW, py.None())),
                Work::Rearm => taken.push((Self::REARM, py.None())),
                Work::Perform(Command::Prepare { adapters, paths }) => {
                    taken.push((Self::PREPARE, (adapters, paths).into_py_any(py)?));
                }
                Work::Finish => taken.push((Self::FINISH, py.None())),
            }
        }
        Ok(taken)
    }

    /// Imports adapters and publishes the outcome.
    fn prepare(&self, py: Python<'_>, adapters: Vec<String>, paths: Vec<String>) {
        self.0.engine.prepare(py, &adapters, &paths);
    }
}
