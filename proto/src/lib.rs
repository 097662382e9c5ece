//! The protocol between a Snakepit host and its workers.
//!
//! [`v1`] is generated from `snakepit/worker/v1/worker.proto`, which documents every message. How Python
//! values travel inside `bytes` fields is described in `VALUES.md` beside it. [`preamble`] is what opens an
//! inherited channel before HTTP/2 begins, [`stream`] is what HTTP/2 runs on, and [`frames`] are what calls without it travel as.

pub mod arena;
pub mod frames;
pub mod preamble;
mod socket;
pub mod stream;

/// Version 1 of the worker protocol: generated messages, clients and servers.
#[expect(missing_docs, reason = "generated; the .proto file carries the documentation")]
pub mod v1 {
    tonic::include_proto!("snakepit.worker.v1");

    /// The encoded `FileDescriptorSet` of this package, for gRPC reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/snakepit.worker.v1.bin"));
}

/// The protocol versions this build speaks, newest last. A handshake that shares none of them is refused.
pub const PROTOCOL_VERSIONS: &[u32] = &[1];

/// The largest arguments, and the largest result, of a call of a host function, in bytes. They share the control connection,
/// where more would hold up pings and cancels for too long.
pub const MAX_HOST_VALUE: usize = 64 << 20;

/// The largest message of the `Host` stream, in bytes: a value, and what is around it (names, ids, an error's texts).
pub const MAX_HOST_MESSAGE: usize = MAX_HOST_VALUE + (1 << 20);

/// Names of environment variables that a host sets for its workers.
pub mod env {
    /// 32 hex digits: the run that started this process. Inherited by everything a worker starts.
    pub const RUN_ID: &str = "SNAKEPIT_RUN_ID";
    /// The worker within the run. Inherited by everything a worker starts.
    pub const WORKER_ID: &str = "SNAKEPIT_WORKER_ID";
    /// The form of the worker's channel: `fd:0`, `unix:PATH` or `tcp:HOST:PORT`.
    pub const CHANNEL: &str = "SNAKEPIT_CHANNEL";
    /// Run ids of hosts further out, colon separated, when a host runs inside a worker.
    pub const OUTER_RUN_IDS: &str = "SNAKEPIT_OUTER_RUN_IDS";
    /// The host of the run as `PID.START_TICKS.PID_NAMESPACE.BOOT_ID`, by which anybody can tell whether it still
    /// lives, also where no record of the run is left.
    pub const HOST: &str = "SNAKEPIT_HOST";
    /// The application the host belongs to and where its records are, as `NAME@STATE_DIRECTORY`.
    pub const APP: &str = "SNAKEPIT_APP";
    /// Only in the environment that a template of the zygote backend is started with: room in which each process forked from
    /// it writes its own [`WORKER_ID`], where `/proc/PID/environ` shows it.
    pub const ROOM: &str = "SNAKEPIT_ROOM";
}
