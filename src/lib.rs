//! Python (or any program) as supervised worker processes beside a Rust program, called over gRPC.
//!
//! A service gets Python's libraries without sharing the GIL or a crash, and without leaving a process behind.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let pool = snakepit::Pool::builder().workers(4).start().await?;
//! let hypotenuse: f64 = pool.call("math:hypot", (3.0, 4.0)).await?;
//! assert_eq!(hypotenuse, 5.0);
//! pool.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! - [`Pool`] lends workers to calls; [`PoolBuilder`] has its settings.
//! - [`Concurrency`] says how many calls each worker runs at the same time, and on what.
//! - [`Backend`] says what starts the workers; [`PoolBuilder::launcher`] takes one with settings of its own, and
//!   [`PoolBuilder::limits`] their user, niceness, memory and other limits.
//! - [`Pool::cleaned`] tells what an earlier run had left behind when it was killed, and that it is ended.
//! - [`Pool::session`](core::pool::Pool::session) binds calls that belong together to one worker.
//! - [`PoolBuilder::host_function`] makes a Rust closure callable from the Python code.
//! - [`PythonEnv`] is the interpreter and the worker package that the workers run on.
//! - [`Value`] is any Python value, for callers that do not know a result's type.
//! - [`snakepit_core`], re-exported as [`core`], has everything beneath: supervision, launchers, the ledger, events.
//!
//! # Features
//!
//! - `backend-port` (default): workers are direct children whose standard input is the channel.
//! - `backend-exec`: a guardian process owns the workers, in PID namespaces or cgroups where there are any: nothing is left
//!   when the host is killed, whatever program they are. See `backend_exec`.
//! - `backend-zygote`: workers are forked from one interpreter that has imported everything, in a millisecond or two each and
//!   with what was imported in memory once. One of the other backends starts that. See `backend_zygote`.
//! - `registry` (default): what a pool starts is recorded on disk, and what a killed host has left is ended by the next
//!   start; see [`registry`].
//! - `config` (default, `cli` needs it): pools from a file, `snakepit.toml`; see [`config`].
//! - `cli` (default): the `snakepit` command.
//!
//! With several backends compiled in `port` is the default, and [`PoolBuilder::backend`] chooses.

#[cfg(feature = "backend-exec")]
pub use snakepit_backend_exec as backend_exec;
#[cfg(feature = "backend-port")]
pub use snakepit_backend_port as backend_port;
#[cfg(feature = "backend-zygote")]
pub use snakepit_backend_zygote as backend_zygote;
pub use snakepit_core as core;
pub use snakepit_core::{
    event::{Event, EventKind},
    host::{ArgumentsError, HostCall},
    id::SessionId,
    pool::{
        BatchRefused, BatchRequest, Budget, CallError, CallErrorKind, CallFailed, CancelOutcome,
        DeadlineExceeded, HealthCheck, InputRefused, InputRequest, Items, Latency, LostBy, Overflow, Phase,
        Poisoned, PoolSettings, PoolStartError, PoolStatus, ReplaceCause, Request, RestartError, Restarted,
        Session, SessionLost, SessionMode, Verdict, WorkerLost,
    },
    rpc::{
        ArrayWriter, ArrowData, ArrowKind, FilledArray, NdArray, RemoteError, RemoteErrorKind,
        RemoteException, SharedArray, Value,
    },
    supervision::Shutdown,
    worker::{ArenaUse, Concurrency, StartError, StartErrorKind, Unhealthy},
};
#[cfg(feature = "registry")]
pub use snakepit_registry as registry;

mod backend;
mod builder;
#[cfg(feature = "config")]
pub mod config;
mod pool;
pub mod python_env;
mod record;
mod reload;

pub use backend::{Backend, BackendError};
pub use builder::{PoolBuilder, StartError as PoolError};
#[cfg(feature = "config")]
pub use config::PoolConfig;
pub use pool::{Pool, ReconfigureError};
pub use python_env::PythonEnv;
pub use reload::Reloading;

/// The guide's Rust blocks, compiled and where they need no Python run.
#[cfg(all(doctest, feature = "backend-port"))]
mod guide {
    macro_rules! page {
        ($name:ident, $file:literal) => {
            #[doc = include_str!(concat!("../docs/guide/", $file))]
            mod $name {}
        };
    }

    page!(readme, "README.md");
    page!(adapters, "adapters.md");
    page!(arrays, "arrays.md");
    #[cfg(feature = "registry")]
    page!(after_a_crash, "after-a-crash.md");
    page!(calls, "calls.md");
    page!(command, "command.md");
    page!(concurrency, "concurrency.md");
    #[cfg(feature = "config")]
    page!(configuration, "configuration.md");
    page!(deadlines, "deadlines.md");
    #[cfg(feature = "backend-exec")]
    page!(exec_backend, "exec-backend.md");
    page!(host_functions, "host-functions.md");
    page!(other_programs, "other-programs.md");
    page!(port_backend, "port-backend.md");
    page!(python_environment, "python-environment.md");
    page!(queue, "queue.md");
    page!(scaling, "scaling.md");
    page!(recycling, "recycling.md");
    page!(sessions, "sessions.md");
    page!(settings, "settings.md");
    page!(streams, "streams.md");
    page!(supervision, "supervision.md");
    page!(testing, "testing.md");
    page!(what_survives_what, "what-survives-what.md");
    page!(write_a_backend, "write-a-backend.md");
    #[cfg(feature = "backend-zygote")]
    page!(zygote_backend, "zygote-backend.md");
}
