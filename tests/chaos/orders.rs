//! What a test tells the processes of a round.

use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::contender::Contender;

/// The variable by which a process of a round gets its orders, as JSON.
const VARIABLE: &str = "SNAKEPIT_CHAOS_ORDERS";

/// What marks a line that is meant for the test: libtest writes to standard output too.
pub(crate) const MARK: &str = "chaos> ";

/// A host to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Orders {
    /// Backend, level and user.
    pub(crate) contender: Contender,
    /// Worker slots.
    pub(crate) workers: usize,
    /// The state directory of its ledger.
    pub(crate) state_dir: PathBuf,
    /// The module its workers import.
    pub(crate) adapter: Option<String>,
    /// Runs this instead of Python's worker runtime.
    pub(crate) program: Option<Vec<String>>,
    /// From SIGTERM to SIGKILL, in milliseconds.
    pub(crate) grace_ms: u64,
    /// The step of a start at which it stays for good.
    pub(crate) stay_at: Option<Step>,
}

impl Orders {
    /// Two workers with the adapter of five members and 100 ms of grace.
    pub(crate) fn new(contender: &Contender) -> Self {
        Self {
            contender: contender.clone(),
            workers: 2,
            state_dir: PathBuf::new(),
            adapter: None,
            program: None,
            grace_ms: 100,
            stay_at: None,
        }
    }
}

/// What a host does when it is ready; one JSON line each on its standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Calls a function and goes on; `answered` or `lost` is told.
    Call {
        /// As `module:name`.
        function: String,
        /// Its arguments.
        args: Vec<serde_json::Value>,
    },
    /// Calls without end from this many callers.
    KeepCalling(usize),
    /// Tells how many of these calls were answered and how many were not, and the workers' pids.
    Report,
    /// Kills workers without end, each when all are ready again.
    KeepRecycling,
    /// Starts this many further pools, drops every other one of them half-way, and tells when nothing of them is
    /// left.
    Start(usize),
    /// Starts and ends this many processes, and tells what that has left in the host.
    Cycle(usize),
    /// Records a worker that it did not start, by the identity of a living process that is not quite right.
    Forge {
        /// The living process.
        pid: u32,
        /// What is not right.
        flaw: Flaw,
    },
    /// Ends the pool and leaves.
    Shutdown,
}

/// What is wrong with a recorded identity.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Flaw {
    /// It was recorded before the machine was started anew.
    OtherBoot,
    /// The pid belonged to another process then.
    RecycledPid,
}

/// A moment in the start of a worker, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// The row is written, no process exists.
    Launch,
    /// The process exists, and its row does not say who it is.
    Launched,
    /// The row is complete, the gate is shut.
    Activated,
    /// The gate is open: handshake and imports follow.
    GateOpen,
}

impl Step {
    pub(crate) const ALL: [Self; 4] = [Self::Launch, Self::Launched, Self::Activated, Self::GateOpen];
}

/// Hands orders to a process that is to be started.
pub(crate) fn give(command: &mut std::process::Command, orders: &impl Serialize) {
    command.env(VARIABLE, serde_json::to_string(orders).unwrap());
}

/// The orders of this process; `None` when nobody gave any, as when the role is run by hand.
pub(crate) fn taken<T: DeserializeOwned>() -> Option<T> {
    let text = std::env::var(VARIABLE).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// Tells the test something. It may be gone, and that is no reason to stop.
pub(crate) fn tell(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{MARK}{line}");
}
