//! What a starter's rules take and give.

use std::time::Duration;

use tokio::time::Instant;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Event {
    /// The starter begins.
    Begin,
    /// The start that was under way gave a worker.
    Ready,
    /// The start that was under way failed and left nothing behind.
    StartFailed,
    /// The start that was under way was cancelled and left nothing behind.
    StartCancelled,
    /// The worker cannot serve any more; `normal` when the host asked for that.
    Down { normal: bool },
    /// The resources have ended.
    ResourcesEnded,
    /// Nothing of the worker is left.
    WorkerEnded,
    /// The pause is over.
    PauseOver,
    /// The host asks for the end, for the first time or in less time.
    Terminate,
}

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::supervision::starter) enum Effect {
    /// Begin to start a worker.
    Start,
    /// Drop the start that is under way.
    CancelStart,
    /// Tell that the worker is ready.
    TellReady,
    /// Tell why the start failed.
    TellStartFailed,
    /// Tell that the worker is down, from its own account.
    TellDown,
    /// Tell that the worker is down because the host asks for the end.
    TellRequested,
    /// Begin to start the resources.
    StartResources,
    /// Begin to end the resources.
    EndResources,
    /// Tell that restart number `restart` of the series waits.
    TellPause { restart: u32, pause: Duration },
    /// Tell that the intensity is exceeded.
    TellGaveUp,
    /// Report the end of the starter.
    Finish(Exit),
}

/// How the starter ends by its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Exit {
    Terminated,
    GaveUp,
}

/// What a starter waits for, beside a request to terminate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Wait {
    /// Nothing else.
    Request,
    /// The start under way.
    Start,
    /// The worker going down.
    Down,
    /// The resources' end.
    ResourcesEnd,
    /// The worker's end, which is asked for by waiting for it.
    WorkerEnd,
    /// This time.
    Until(Instant),
}
