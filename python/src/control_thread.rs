//! The native thread that serves everything but calls, watches for the host's end, and bounds our own. It
//! never attaches to Python.

use std::{
    sync::{Arc, mpsc as std_mpsc},
    time::Duration,
};

use snakepit_proto::v1::{worker_control_server::WorkerControlServer, worker_server::WorkerServer};
use tokio::time::timeout;
use tonic::server::NamedService;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    control::Control,
    data::Data,
    host::Host,
    jobs::Jobs,
    listen::Listener,
    router::Router,
    serve,
    shared::{EXIT_FORCED, EXIT_LOST, Shared},
    sys, timers,
};

/// The name of the thread.
pub(crate) const NAME: &str = "snakepit-control";
/// How long a cancelled call may take to end when the worker shuts down.
const CANCEL_GRACE: Duration = Duration::from_secs(1);
/// How long stop hooks, exit handlers and a running import may take.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often it is checked that user code has not closed our descriptors. The kernel reports nothing about a
/// closed descriptor, so this is the one thing that has to be looked at by the clock. A host sees its end of them close at once.
const DESCRIPTOR_CHECK: Duration = Duration::from_secs(2);

/// What the thread serves.
pub(crate) enum Endpoint {
    /// The control socket of an inherited channel; the data socket is served on the main thread.
    Inherited(std::os::unix::net::UnixStream),
    /// A listening socket for any number of connections with all services.
    Listening(Listener, Arc<Jobs>),
}

/// The thread, to the one that started it.
#[derive(Debug)]
pub(crate) struct ControlThread {
    /// Runs further tasks on it.
    pub(crate) runtime: tokio::runtime::Handle,
    /// Learns when its connections are flushed, after `finished` was set.
    pub(crate) flushed: std_mpsc::Receiver<()>,
}

/// Starts the thread.
pub(crate) fn start(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    descriptors: Vec<i32>,
) -> std::io::Result<ControlThread> {
    let (flushed, receiver) = std_mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let handle = runtime.handle().clone();
    timers::run_on(&handle);
    std::thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        sys::block_all_signals();
        runtime.block_on(run(shared, endpoint, descriptors));
        // The main thread may have stopped waiting.
        let _ = flushed.send(());
    })?;
    Ok(ControlThread {
        runtime: handle,
        flushed: receiver,
    })
}

async fn run(shared: Arc<Shared>, endpoint: Endpoint, descriptors: Vec<i32>) {
    let health = HealthReporter::new();
    tokio::spawn(report_health(Arc::clone(&shared), health.clone()));
    tokio::spawn(bound_the_end(Arc::clone(&shared)));
    tokio::spawn(watch_descriptors(Arc::clone(&shared), descriptors));
    tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { Host::find().watch(&shared).await }
    });
    tokio::spawn({
        let shared = Arc::clone(&shared);
        async move { shared.slot.interrupt_postponed().await }
    });
    let control = Control::new(Arc::clone(&shared));
    match endpoint {
        Endpoint::Inherited(socket) => {
            let router = Arc::new(Router::new().with_control(control, health));
            if let Err(error) = serve::inherited(socket, router, finished(&shared), |_| ()).await {
                eprintln!("snakepit: failed to serve the control socket: {error}");
            }
            if !*shared.finished.borrow() {
                // The host is gone, or let go of us, which is the same: nobody can reach this worker any more.
                let code = if shared.is_shutting_down() {
                    shared.exit_code()
                } else {
                    EXIT_LOST
                };
                shared.leave(code);
            }
        }
        Endpoint::Listening(listener, jobs) => {
            let router = Arc::new(
                Router::new()
                    .with_data(Data::Hop(jobs))
                    .with_control(control, health),
            );
            listener.serve(router, &shared).await;
        }
    }
}

/// Completes when the main thread has nothing more to do.
pub(crate) async fn finished(shared: &Shared) {
    let mut finished = shared.finished.subscribe();
    // The sender lives in `shared`.
    let _ = finished.wait_for(|finished| *finished).await;
}

/// Not serving until the adapters are imported, serving, and not serving from the request to end on.
async fn report_health(shared: Arc<Shared>, health: HealthReporter) {
    let names = [
        "",
        WorkerServer::<Data>::NAME,
        WorkerControlServer::<Control>::NAME,
    ];
    let mut prepared = shared.prepared.subscribe();
    loop {
        let ready = prepared
            .borrow_and_update()
            .as_ref()
            .is_some_and(|outcome| outcome.is_ok());
        let status = if ready && !shared.is_shutting_down() {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        for name in names {
            health.set_service_status(name, status).await;
        }
        tokio::select! {
            changed = prepared.changed() => if changed.is_err() { return },
            _ = shared.until_shutdown(), if ready => {
                for name in names {
                    health.set_service_status(name, ServingStatus::NotServing).await;
                }
                return;
            }
        }
    }
}

/// Once the worker is asked to end, makes sure that it does: running calls have their grace, then they are
/// cancelled, and what does not stop then ends with the process.
async fn bound_the_end(shared: Arc<Shared>) {
    let shutdown = shared.until_shutdown().await;
    if tokio::time::timeout_at(shutdown.grace_ends, shared.slot.idle())
        .await
        .is_err()
    {
        let so_far = shared.host_calls.so_far();
        shared.slot.cancel_running();
        shared.host_calls.cancel_running(so_far);
        if timeout(CANCEL_GRACE, shared.slot.idle()).await.is_err() {
            eprintln!("snakepit: a running call did not stop within {CANCEL_GRACE:?} of its cancel");
            shared.leave(EXIT_FORCED);
        }
    }
    if timeout(STOP_LIMIT, finished(&shared)).await.is_err() {
        eprintln!("snakepit: stop hooks and exit handlers did not finish within {STOP_LIMIT:?}");
        shared.leave(EXIT_FORCED);
    }
}

/// User code may close every descriptor it finds. A worker without its channel is of no use to anybody.
async fn watch_descriptors(shared: Arc<Shared>, descriptors: Vec<i32>) {
    let mut clock = tokio::time::interval(DESCRIPTOR_CHECK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        clock.tick().await;
        // On the way out the main thread closes its connection itself, and the end has bounds of its own.
        if shared.is_shutting_down() {
            return;
        }
        if !descriptors.iter().all(|&fd| sys::is_open(fd)) {
            // Standard error may be closed too, so nothing is said that could fail.
            shared.leave(EXIT_LOST);
        }
    }
}
