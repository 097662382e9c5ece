//! Threads of Python that run calls side by side.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::{call::Engine, jobs::Jobs, place::Runner, sys, tasks::Tasks};

/// What a thread needs to run calls; Python starts the threads, so that its own modules know them.
#[pyclass(frozen, name = "Threads")]
#[derive(Debug)]
pub(crate) struct Threads {
    engine: Arc<Engine>,
    jobs: Arc<Jobs>,
    /// The event loop beside which they run, if there is one.
    tasks: Option<Arc<Tasks>>,
}

impl Threads {
    pub(crate) fn new(engine: Arc<Engine>, jobs: Arc<Jobs>, tasks: Option<Arc<Tasks>>) -> Self {
        Self { engine, jobs, tasks }
    }
}

#[pymethods]
impl Threads {
    /// Runs calls on the calling thread for as long as the process lives.
    fn run(&self, py: Python<'_>) -> PyResult<()> {
        // It waits for calls, credit and consumers; sockets and timers are other threads' business.
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let runner = Runner::Thread(sys::this_thread());
        py.detach(|| {
            runtime.block_on(async {
                loop {
                    let job = self.jobs.next().await;
                    match &self.tasks {
                        Some(tasks) => self.engine.run_beside_loop(job, runner, tasks).await,
                        None => self.engine.run_on_thread(job, runner).await,
                    }
                }
            })
        })
    }
}
