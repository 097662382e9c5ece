//! Calls that run as tasks of the event loop on the main thread. Python drives them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::{intern, prelude::*};
use snakepit_proto::v1::{CallError, StreamResponse};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Begun, Engine, response,
    stream::{end_stream, starved, yields_nothing},
};
use crate::{
    codec::Encoded,
    jobs::{self, Consumer, Job},
    place::{Place, Runner},
    sys,
    tasks::Tasks,
};

/// A call that runs as a task.
#[pyclass(frozen, name = "TaskCall")]
#[derive(Debug)]
pub(crate) struct TaskCall {
    engine: Arc<Engine>,
    tasks: Arc<Tasks>,
    place: Place,
    call_id: u64,
    function: String,
    /// What its function returned, until Python takes it.
    returned: Mutex<Option<Py<PyAny>>>,
    /// Until it is over.
    rest: Mutex<Option<Rest>>,
}

#[derive(Debug)]
struct Rest {
    consumer: Consumer,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Engine {
    /// Waits for a turn among calls that run as tasks.
    pub(crate) async fn turn_among(
        &self,
        turns: &Arc<Semaphore>,
        call_id: u64,
    ) -> Result<OwnedSemaphorePermit, Box<CallError>> {
        self.admission().await?;
        if let Ok(turn) = Arc::clone(turns).try_acquire_owned() {
            return Ok(turn);
        }
        let turn = self.in_line(call_id, Arc::clone(turns).acquire_owned()).await?;
        // Nobody closes the semaphore.
        turn.map_err(|_| super::refused(crate::slot::Refusal::ShuttingDown))
    }

    /// Answers a call that does not begin.
    pub(crate) async fn refuse(&self, job: Job, error: Box<CallError>) {
        let call_id = job.request.call_id;
        match job.consumer {
            Consumer::Call(reply) => {
                jobs::reply(reply, response(call_id, Err(error)));
            }
            Consumer::Stream(credit, items) => end_stream(call_id, Some(error), &credit, &items).await,
        }
    }

    /// Whether calls of a function begin on the event loop right away.
    pub(crate) fn is_async(&self, name: &str) -> bool {
        self.known(name).is_some_and(|function| function.is_async)
    }

    /// Begins a call on the main thread, which runs the event loop; `None` when it is over already.
    pub(crate) fn begin_task(
        self: &Arc<Self>,
        py: Python<'_>,
        job: Job,
        tasks: &Arc<Tasks>,
    ) -> Option<TaskCall> {
        if job.is_abandoned() {
            return None;
        }
        let begun = self.begin(py, &job.request, Runner::Task);
        let (place, returned) = match begun {
            Ok(Begun { place, function }) => {
                let returned = function.and_then(|function| self.apply(py, place, &function, &job.request));
                (place, returned.map(Bound::unbind))
            }
            Err(error) => (Place::NONE, Err(error)),
        };
        let call = TaskCall::new(self, tasks, place, job);
        match returned {
            Ok(returned) => {
                *lock(&call.returned) = Some(returned);
                Some(call)
            }
            Err(error) => {
                call.finish(py, Err(error));
                None
            }
        }
    }

    /// Runs a call on a thread beside the event loop; what is asynchronous goes on as a task.
    pub(crate) async fn run_beside_loop(self: &Arc<Self>, job: Job, runner: Runner, tasks: &Arc<Tasks>) {
        if job.is_abandoned() {
            return;
        }
        let begun = Python::attach(|py| {
            let Begun { place, function } = self.begin(py, &job.request, runner)?;
            let returned = function.and_then(|function| self.apply(py, place, &function, &job.request));
            Ok((place, returned.map(Bound::unbind)))
        });
        let (place, returned) = match begun {
            Ok(begun) => begun,
            Err(error) => return self.refuse(job, error).await,
        };
        let call = TaskCall::new(self, tasks, place, job);
        let on_loop = |returned: &Py<PyAny>| Python::attach(|py| call.belongs_on_loop(returned.bind(py)));
        let returned = match returned {
            Ok(returned) if on_loop(&returned) => {
                *lock(&call.returned) = Some(returned);
                if self.shared.slot.become_task(place) {
                    Python::attach(sys::clear_exception);
                }
                return tasks.go_on(call);
            }
            returned => returned,
        };
        let Some(Rest { consumer, _turn }) = lock(&call.rest).take() else {
            unreachable!("nobody else has seen the call");
        };
        match consumer {
            Consumer::Call(reply) => {
                let outcome = Python::attach(|py| {
                    let encode =
                        |returned: Py<PyAny>| self.encode(py, place, returned.into_bound(py), "result");
                    let outcome = returned.and_then(encode);
                    self.end(py, place);
                    outcome
                });
                jobs::reply(reply, response(call.call_id, outcome));
            }
            Consumer::Stream(credit, items) => {
                let produced = match returned {
                    Ok(returned) => {
                        let (call_id, function) = (call.call_id, &*call.function);
                        self.produce_from(place, returned, call_id, function, &credit, &items)
                            .await
                    }
                    Err(error) => Err(error),
                };
                Python::attach(|py| self.end(py, place));
                end_stream(call.call_id, produced.err(), &credit, &items).await;
            }
        }
    }
}

impl TaskCall {
    fn new(engine: &Arc<Engine>, tasks: &Arc<Tasks>, place: Place, job: Job) -> Self {
        Self {
            engine: Arc::clone(engine),
            tasks: Arc::clone(tasks),
            place,
            call_id: job.request.call_id,
            function: job.request.function,
            returned: Mutex::new(None),
            rest: Mutex::new(Some(Rest {
                consumer: job.consumer,
                _turn: job.turn,
            })),
        }
    }

    fn belongs_on_loop(&self, returned: &Bound<'_, PyAny>) -> bool {
        let streams = matches!(
            &*lock(&self.rest),
            Some(Rest {
                consumer: Consumer::Stream(..),
                ..
            })
        );
        let py = returned.py();
        self.engine.is_coroutine(returned)
            || streams
                && returned
                    .get_type()
                    .hasattr(intern!(py, "__aiter__"))
                    .unwrap_or(false)
    }

    /// Ends the call and says how it went; the first end counts.
    fn finish(&self, py: Python<'_>, outcome: Result<Encoded, Box<CallError>>) {
        self.engine.end(py, self.place);
        let Some(Rest { consumer, _turn }) = lock(&self.rest).take() else {
            return;
        };
        match consumer {
            Consumer::Call(reply) => {
                jobs::reply(reply, response(self.call_id, outcome));
            }
            Consumer::Stream(credit, items) => {
                let call_id = self.call_id;
                self.tasks
                    .spawn(async move { end_stream(call_id, outcome.err(), &credit, &items).await });
            }
        }
    }
}

/// What a stream's producer does next.
const WAIT: u8 = 0;
const PRODUCE: u8 = 1;
const STOP: u8 = 2;
const STARVED: u8 = 3;

#[pymethods]
impl TaskCall {
    #[classattr]
    const WAIT: u8 = WAIT;
    #[classattr]
    const PRODUCE: u8 = PRODUCE;
    #[classattr]
    const STARVED: u8 = STARVED;

    /// Where the native side keeps it.
    #[getter]
    fn place(&self) -> u64 {
        self.place.number()
    }

    /// Whether its caller wants items.
    #[getter]
    fn is_stream(&self) -> bool {
        matches!(
            &*lock(&self.rest),
            Some(Rest {
                consumer: Consumer::Stream(..),
                ..
            })
        )
    }

    /// Whether it was told to stop.
    #[getter]
    fn cancelled(&self) -> bool {
        self.engine.shared.slot.is_cancelled(self.place)
    }

    /// What its function returned; once.
    fn returned(&self) -> Option<Py<PyAny>> {
        lock(&self.returned).take()
    }

    /// It is over, with this result.
    fn answer(&self, result: Bound<'_, PyAny>) {
        let py = result.py();
        self.engine.stay_in_parent(py, &Ok(result.clone()));
        let outcome = self.engine.encode(py, self.place, result, "result");
        self.finish(py, outcome);
    }

    /// It is over, with this exception.
    fn fail(&self, py: Python<'_>, error: Bound<'_, PyAny>) {
        let error = PyErr::from_value(error);
        self.engine.stay_in_parent(py, &Err(error.clone_ref(py)));
        let error = self.engine.report(py, self.place, &error);
        self.finish(py, Err(error));
    }

    /// It is over: its consumer grants nothing further.
    fn starve(&self, py: Python<'_>) {
        self.finish(py, Err(starved()));
    }

    /// It is over: what it returned yields nothing.
    fn yields_nothing(&self, result: Bound<'_, PyAny>) {
        let error = yields_nothing(&self.function, &result);
        self.finish(result.py(), Err(error));
    }

    /// What a stream's producer does next.
    fn turn(&self) -> u8 {
        match &*lock(&self.rest) {
            Some(Rest {
                consumer: Consumer::Stream(credit, items),
                ..
            }) => {
                if items.is_closed() {
                    return STOP;
                }
                if items.capacity() == 0 {
                    return WAIT;
                }
                match credit.try_spend() {
                    Some(true) => PRODUCE,
                    Some(false) => STARVED,
                    None => WAIT,
                }
            }
            _ => STOP,
        }
    }

    /// Has a future resolved when there is another answer than to wait.
    fn wake(&self, future: Py<PyAny>) {
        let streams = match &*lock(&self.rest) {
            Some(Rest {
                consumer: Consumer::Stream(credit, items),
                ..
            }) => Some((Arc::clone(credit), items.clone())),
            _ => None,
        };
        let tasks = Arc::clone(&self.tasks);
        self.tasks.spawn(async move {
            if let Some((credit, items)) = streams {
                tokio::select! {
                    () = items.closed() => {}
                    () = async {
                        credit.known().await;
                        // Room is only looked for: this producer is the only one.
                        let _ = items.reserve().await;
                    } => {}
                }
            }
            tasks.wake(future);
        });
    }

    /// Hands one item to the consumer; false when that cannot be done, and the call is over.
    fn item(&self, item: Bound<'_, PyAny>) -> bool {
        let py = item.py();
        self.engine.stay_in_parent(py, &Ok(item.clone()));
        let item = match self.engine.encode(py, self.place, item, "item") {
            Ok(item) => item,
            Err(error) => {
                self.finish(py, Err(error));
                return false;
            }
        };
        let message = StreamResponse {
            call_id: self.call_id,
            message: Some(item.into_message()),
        };
        match &*lock(&self.rest) {
            Some(Rest {
                consumer: Consumer::Stream(_, items),
                ..
            }) => match items.try_send(Ok(message)) {
                Ok(()) => true,
                Err(unsent) => {
                    jobs::take_item_back(unsent.into_inner());
                    false
                }
            },
            _ => false,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
