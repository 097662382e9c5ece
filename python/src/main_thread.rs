//! What Python's main thread does between calls: it waits, without the GIL, for calls, commands and signals.

use std::{os::unix::net::UnixStream, sync::Arc};

use pyo3::prelude::*;
use tokio::{sync::mpsc, time::timeout};

use crate::{
    call::Engine,
    data::{Data, Job},
    router::Router,
    serve,
    shared::{Command, EXIT_LOST, Shared},
};

/// Where calls come from.
pub(crate) enum Calls {
    /// A connection served right here.
    Inline(UnixStream),
    /// The control thread's queue.
    Hop(mpsc::UnboundedReceiver<Job>),
}

/// The main thread's share of the worker.
pub(crate) struct MainLoop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// Python's C-level signal handler writes a byte here; see `signal.set_wakeup_fd`.
    pub(crate) wakeup: UnixStream,
    /// Puts the wakeup descriptor back in place.
    pub(crate) rearm: Py<PyAny>,
    /// Adapters and directories from the command line, imported before those of the handshake.
    pub(crate) from_command_line: (Vec<String>, Vec<String>),
}

impl MainLoop {
    /// Runs calls until the worker was asked to end and the last call is done, then `finish`: the stop hooks. The
    /// connection is closed after them, since a host takes a closed connection for a worker that is lost; calls that
    /// come meanwhile are answered that the worker is leaving. Called without the GIL.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime.
    pub(crate) fn run(self, calls: Calls, finish: impl FnOnce()) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            match calls {
                Calls::Inline(socket) => self.inline(socket, finish).await,
                Calls::Hop(jobs) => self.serve(Some(jobs)).await.map(|()| finish()),
            }
        })
    }

    async fn inline(self, socket: UnixStream, finish: impl FnOnce()) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let router = Arc::new(Router::new().with_data(Data::Inline(Arc::clone(&self.engine))));
        let flush = Arc::new(tokio::sync::Notify::new());
        let told = Arc::clone(&flush);
        let slot = Arc::clone(&self.shared);
        let sent = move || slot.slot.answer_sent();
        let mut connection =
            tokio::spawn(async move { serve::inherited(socket, router, told.notified(), sent).await });
        let lost = async {
            // How the task ended says nothing that its end does not.
            let _ = (&mut connection).await;
            if shared.is_shutting_down() {
                // A host that has no more calls may close early; what is left to do is done all the same.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            served = self.serve(None) => served?,
            () = lost => shared.leave(EXIT_LOST),
        }
        finish();
        if connection.is_finished() {
            return Ok(());
        }
        flush.notify_one();
        // The connection bounds its own flush.
        let _ = timeout(serve::FLUSH_LIMIT * 2, connection).await;
        Ok(())
    }

    async fn serve(mut self, mut jobs: Option<mpsc::UnboundedReceiver<Job>>) -> std::io::Result<()> {
        self.wakeup.set_nonblocking(true)?;
        let wakeup = tokio::net::UnixStream::from_std(self.wakeup.try_clone()?)?;
        let shared = Arc::clone(&self.shared);
        let drained = async {
            shared.until_shutdown().await;
            shared.slot.idle().await;
        };
        let mut drained = std::pin::pin!(drained);
        loop {
            tokio::select! {
                () = drained.as_mut() => return Ok(()),
                job = next(&mut jobs) => self.start(job),
                Some(command) = self.commands.recv() => self.perform(command),
                () = shared.heartbeat.notified() => self.rearm_signals(),
                readable = wakeup.readable() => {
                    readable?;
                    let mut bytes = [0; 64];
                    // Which signals came is known to Python; an error here shows again in `readable`.
                    let _ = wakeup.try_read(&mut bytes);
                    self.run_signal_handlers();
                }
            }
        }
    }

    fn start(&self, job: Job) {
        let engine = Arc::clone(&self.engine);
        match job {
            Job::Call(request, mut reply) => {
                tokio::spawn(async move {
                    // A caller that gives up while it waits for its turn is not executed; once it runs, the
                    // call is one step that is not interrupted here.
                    let response = tokio::select! {
                        biased;
                        () = reply.closed() => return,
                        response = engine.call(request) => response,
                    };
                    // The caller may have gone meanwhile.
                    let _ = reply.send(response);
                });
            }
            Job::Stream(request, credit, consumer) => {
                tokio::spawn(async move { engine.stream(request, &credit, &consumer).await });
            }
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Prepare { adapters, paths } => {
                let (mut all_adapters, mut all_paths) = std::mem::take(&mut self.from_command_line);
                all_adapters.extend(adapters);
                all_paths.extend(paths);
                Python::attach(|py| self.engine.prepare(py, &all_adapters, &all_paths));
            }
        }
    }

    /// User code, asyncio among it, may have replaced the wakeup descriptor and not put it back.
    fn rearm_signals(&self) {
        Python::attach(|py| {
            if let Err(error) = self.rearm.bind(py).call0() {
                error.write_unraisable(py, None);
            }
        });
        self.run_signal_handlers();
    }

    fn run_signal_handlers(&self) {
        Python::attach(|py| {
            // A handler of user code that raises between calls has no call to raise in.
            if let Err(error) = py.check_signals() {
                error.write_unraisable(py, None);
            }
        });
    }
}

async fn next(jobs: &mut Option<mpsc::UnboundedReceiver<Job>>) -> Job {
    if let Some(jobs) = jobs
        && let Some(job) = jobs.recv().await
    {
        return job;
    }
    std::future::pending().await
}
