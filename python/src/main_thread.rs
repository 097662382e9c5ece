//! What Python's main thread does between calls: it waits, without the GIL, for calls, commands and signals.

use std::{
    os::{fd::AsRawFd as _, unix::net::UnixStream},
    sync::Arc,
};

use pyo3::prelude::*;
use snakepit_proto::frames::{FrameReader, FrameWriter};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};

use crate::{
    call::{Engine, Several},
    concurrency::Concurrency,
    data::{Data, calls},
    jobs::{self, Consumer, Job, Jobs},
    router::Router,
    serve,
    shared::{Command, EXIT_LOST, Shared},
    tasks::{Inbox, Tasks},
    threads::Threads,
    timers::within,
};

/// The main thread's share of the worker.
pub(crate) struct MainLoop {
    pub(crate) shared: Arc<Shared>,
    pub(crate) engine: Arc<Engine>,
    /// Calls that come from the control thread.
    pub(crate) jobs: Arc<Jobs>,
    /// Runs tasks on the control thread.
    pub(crate) control: tokio::runtime::Handle,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    /// Python's C-level signal handler writes a byte here; see `signal.set_wakeup_fd`.
    pub(crate) wakeup: UnixStream,
    /// Puts the wakeup descriptor back in place.
    pub(crate) rearm: Py<PyAny>,
    /// Gives the module for workers that run several calls at the same time.
    pub(crate) several: Py<PyAny>,
}

/// The sockets of an inherited channel that calls come over.
pub(crate) struct Sockets {
    /// Serves `Worker`.
    pub(crate) data: UnixStream,
    /// Calls without HTTP/2.
    pub(crate) calls: Option<UnixStream>,
}

/// What serves them.
struct Connection {
    served: JoinHandle<()>,
    flush: Arc<Notify>,
    calls: Calls,
    /// Ends the task of the calls.
    leaving: watch::Sender<bool>,
}

/// Calls that come over a socket of their own.
enum Calls {
    /// The socket is closed when its halves are dropped.
    Served(JoinHandle<Option<(FrameReader, FrameWriter)>>),
    /// There are none, or they come over HTTP/2: a socket for them is kept open, as its number is known to be ours.
    Elsewhere(#[expect(dead_code, reason = "held open")] Option<UnixStream>),
}

impl Connection {
    /// Waits for the end of one of the sockets.
    async fn ended(&mut self) {
        // How a task ended says nothing that its end does not.
        match &mut self.calls {
            Calls::Served(calls) => tokio::select! {
                _ = &mut self.served => {}
                _ = calls => {}
            },
            Calls::Elsewhere(_) => {
                let _ = (&mut self.served).await;
            }
        }
    }

    /// Says what is still to be said, and closes.
    async fn close(self) {
        self.leaving.send_replace(true);
        self.flush.notify_one();
        // The connection bounds its own flush.
        let limit = serve::FLUSH_LIMIT * 2;
        // One that has ended has been waited for. The calls' socket is open until the connection is flushed: to the host, the
        // first that closes is the end.
        let _calls = match self.calls {
            Calls::Served(calls) if !calls.is_finished() => within(limit, calls).await,
            Calls::Served(_) | Calls::Elsewhere(_) => None,
        };
        if !self.served.is_finished() {
            within(limit, self.served).await;
        }
    }
}

impl MainLoop {
    /// Runs calls until the worker was asked to end and the last call is done, then `finish`: the stop hooks. The
    /// sockets of an inherited channel are closed after them, since a host takes a closed connection for a worker
    /// that is lost; calls that come meanwhile are answered that the worker is leaving. Called without the GIL.
    ///
    /// # Errors
    /// When a socket cannot be registered with the runtime, or a thread cannot be started.
    pub(crate) fn run(mut self, sockets: Option<Sockets>, finish: impl FnOnce()) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            self.wakeup.set_nonblocking(true)?;
            let wakeup = tokio::net::UnixStream::from_std(self.wakeup.try_clone()?)?;
            let concurrency = self.until_settled(&wakeup).await?;
            let mut connection = sockets.map(|sockets| self.connect(sockets, concurrency));
            let shared = Arc::clone(&self.shared);
            let lost = async {
                if let Some(connection) = &mut connection {
                    connection.ended().await;
                    if !shared.is_shutting_down() {
                        return;
                    }
                }
                // A host that has no more calls may close early; what is left to do is done all the same.
                std::future::pending().await
            };
            tokio::select! {
                served = self.serve(concurrency, &wakeup) => served?,
                () = lost => shared.leave(EXIT_LOST),
            }
            finish();
            if let Some(connection) = connection {
                connection.close().await;
            }
            Ok(())
        })
    }

    /// Waits until it is known how many calls run at the same time: a host says so when it shakes hands. One that calls without
    /// having done so gets one at a time.
    async fn until_settled(&self, wakeup: &tokio::net::UnixStream) -> std::io::Result<Concurrency> {
        let mut concurrency = self.shared.concurrency.subscribe();
        loop {
            if let Some(settled) = *concurrency.borrow_and_update() {
                return Ok(settled);
            }
            tokio::select! {
                // The sender lives in `shared`.
                _ = concurrency.changed() => {}
                () = self.jobs.until_queued() => {
                    self.shared.settle_concurrency(Concurrency::One);
                }
                _ = self.shared.until_shutdown() => {
                    self.shared.settle_concurrency(Concurrency::One);
                }
                readable = wakeup.readable() => {
                    readable?;
                    self.take_signals(wakeup);
                }
            }
        }
    }

    /// Serves the data connection: right here, or where there is more than one call at a time, on the control thread.
    fn connect(&self, sockets: Sockets, concurrency: Concurrency) -> Connection {
        let flush = Arc::new(Notify::new());
        let told = Arc::clone(&flush);
        let shared = Arc::clone(&self.shared);
        let (leaving, told_to_leave) = watch::channel(false);
        let (data, inline) = match concurrency {
            Concurrency::One => (Data::Inline(Arc::clone(&self.engine)), true),
            Concurrency::Threads(_) | Concurrency::Asyncio(_) => (Data::Hop(Arc::clone(&self.jobs)), false),
        };
        let router = Arc::new(Router::new().with_data(data));
        let turned = move |sent| {
            // Elsewhere it waits for nothing but its socket.
            if inline {
                shared.slot.connection_turned(sent);
            }
        };
        let serving = async move {
            if let Err(error) = serve::inherited(sockets.data, router, told.notified(), turned).await {
                eprintln!("snakepit: failed to serve the data socket: {error}");
            }
        };
        let served = if inline {
            tokio::spawn(serving)
        } else {
            self.control.spawn(serving)
        };
        let calls = match sockets.calls {
            Some(socket) if inline => {
                let serving = calls::serve(socket, Arc::clone(&self.engine), told_to_leave);
                Calls::Served(tokio::spawn(async move {
                    use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
                    serving
                        .await
                        .inspect_err(|error| {
                            // The loss of the host shows on all of its sockets, and is no news here.
                            if !matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) {
                                eprintln!("snakepit: failed to serve calls: {error}");
                            }
                        })
                        .ok()
                }))
            }
            unused => Calls::Elsewhere(unused),
        };
        Connection {
            served,
            flush,
            calls,
            leaving,
        }
    }

    /// Runs calls, or has them run, until the worker was asked to end and the last one is done.
    async fn serve(
        &mut self,
        concurrency: Concurrency,
        wakeup: &tokio::net::UnixStream,
    ) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let runs_calls = match concurrency {
            Concurrency::One => true,
            Concurrency::Threads(count) => {
                Python::attach(|py| self.start_threads(py, count)).map_err(failed)?;
                false
            }
            Concurrency::Asyncio(count) => {
                // An adapter may choose another kind of event loop.
                let prepared = async {
                    tokio::select! {
                        () = shared.until_prepared() => {}
                        _ = shared.until_shutdown() => {}
                    }
                };
                self.attend(wakeup, prepared, false).await?;
                let tasks = Tasks::new(&self.shared, &self.engine, &self.control, count)?;
                return Python::attach(|py| self.serve_tasks(py, tasks)).map_err(failed);
            }
        };
        let drained = async {
            shared.until_shutdown().await;
            shared.slot.idle().await;
        };
        self.attend(wakeup, drained, runs_calls).await
    }

    /// Does what is asked of the main thread, until something comes true.
    async fn attend(
        &mut self,
        wakeup: &tokio::net::UnixStream,
        done: impl Future<Output = ()>,
        runs_calls: bool,
    ) -> std::io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let jobs = Arc::clone(&self.jobs);
        let mut done = std::pin::pin!(done);
        let mut next = std::pin::pin!(jobs.next());
        loop {
            tokio::select! {
                () = done.as_mut() => return Ok(()),
                job = next.as_mut(), if runs_calls => {
                    self.start(job);
                    next.set(jobs.next());
                }
                Some(command) = self.commands.recv() => self.perform(command),
                () = shared.heartbeat.notified() => self.rearm_signals(),
                readable = wakeup.readable() => {
                    readable?;
                    self.take_signals(wakeup);
                }
            }
        }
    }

    fn start_threads(&self, py: Python<'_>, count: u32) -> PyResult<()> {
        let several = self.several.bind(py).call0()?;
        self.engine.run_several(Several {
            enter: several.getattr("enter")?.unbind(),
            is_async: None,
        });
        let threads = Threads::new(Arc::clone(&self.engine), Arc::clone(&self.jobs), None);
        several.getattr("start_threads")?.call1((threads, count))?;
        Ok(())
    }

    /// Runs Python's event loop instead of our own until the last call is done.
    fn serve_tasks(&mut self, py: Python<'_>, tasks: Arc<Tasks>) -> PyResult<()> {
        let several = self.several.bind(py).call0()?;
        let event_loop = several.getattr("event_loop")?.call0()?;
        self.engine.run_several(Several {
            enter: several.getattr("enter")?.unbind(),
            is_async: Some(event_loop.getattr("is_async")?.unbind()),
        });
        // Nobody sends to the one that is left here.
        let commands = std::mem::replace(&mut self.commands, mpsc::unbounded_channel().1);
        tasks.feed(Arc::clone(&self.jobs), commands);
        let beside = Arc::clone(tasks.beside());
        let threads = Threads::new(Arc::clone(&self.engine), beside, Some(Arc::clone(&tasks)));
        event_loop
            .getattr("serve")?
            .call1((Inbox(tasks), threads, self.wakeup.as_raw_fd()))?;
        Ok(())
    }

    fn take_signals(&self, wakeup: &tokio::net::UnixStream) {
        let mut bytes = [0; 64];
        // Which signals came is known to Python; an error here shows again in `readable`.
        let _ = wakeup.try_read(&mut bytes);
        self.run_signal_handlers();
    }

    fn start(&self, job: Job) {
        let engine = Arc::clone(&self.engine);
        let Job {
            request, consumer, ..
        } = job;
        match consumer {
            Consumer::Call(mut reply) => {
                tokio::spawn(async move {
                    // A caller that gives up while it waits for its turn is not executed; once it runs, the
                    // call is one step that is not interrupted here.
                    let response = tokio::select! {
                        biased;
                        () = reply.closed() => return,
                        response = engine.call(request) => response,
                    };
                    jobs::reply(reply, response);
                });
            }
            Consumer::Stream(credit, consumer) => {
                tokio::spawn(async move { engine.stream(request, &credit, &consumer).await });
            }
        }
    }

    fn perform(&self, command: Command) {
        match command {
            Command::Prepare { adapters, paths } => {
                Python::attach(|py| self.engine.prepare(py, &adapters, &paths));
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

fn failed(error: PyErr) -> std::io::Error {
    std::io::Error::other(error.to_string())
}
