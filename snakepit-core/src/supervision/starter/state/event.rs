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
    /// The host asks for another worker; the one that it replaces may go on with its calls for so long.
    Replace { drain: Option<Duration> },
    /// Something became of the worker that was replaced.
    Leaving(Departure),
}

/// What became of a worker that was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Departure {
    /// No call is on it any more, or none may be, or it went down.
    Drained,
    /// Its resources have ended.
    ResourcesEnded,
    /// Nothing of it is left.
    WorkerEnded,
}

/// What is to be done, in order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::supervision::starter) enum Effect {
    /// Begin to start a worker.
    Start,
    /// Begin to start the worker that was asked for.
    StartReplacement,
    /// Drop the start that is under way.
    CancelStart,
    /// The worker that the start gave is the slot's from now on.
    Admit,
    /// The slot's worker, with its resources, is the one that is replaced from now on.
    Retire,
    /// Tell that the worker is ready.
    TellReady,
    /// Tell why the start failed.
    TellStartFailed,
    /// Tell why the replacement did not start; the worker that serves serves on.
    TellReplacementFailed,
    /// Tell that the worker is down, from its own account.
    TellDown,
    /// Tell that the worker is down because the host asks for the end.
    TellRequested,
    /// Tell that the worker that was replaced serves nobody any more.
    TellLeft,
    /// Begin to start the resources.
    StartResources,
    /// Begin to end the resources.
    EndResources,
    /// Begin to end the resources of the worker that was replaced.
    EndLeavingResources,
    /// Tell that restart number `restart` of the series waits.
    TellPause { restart: u32, pause: Duration },
    /// Tell that the intensity is exceeded.
    TellGaveUp,
    /// The request for another worker is taken up, and will be answered.
    Accept,
    /// The request for another worker cannot be taken up now.
    Refuse(Refusal),
    /// Answer the request that was taken up.
    Answer(Answer),
    /// Report the end of the starter.
    Finish(Exit),
}

/// Why another worker cannot be had now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Refusal {
    /// One was asked for already, and is being started.
    UnderWay,
    /// The worker that was replaced last is still there: a third one would be too many.
    Draining,
    /// The slot is being ended.
    Ending,
}

/// What came of a request for another worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Answer {
    /// It is ready.
    Ready,
    /// It did not start.
    Failed,
    /// The slot is being ended.
    Ending,
}

/// How the starter ends by its own rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Exit {
    Terminated,
    GaveUp,
}

/// What a starter waits for, beside a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervision::starter) enum Wait {
    /// Nothing else.
    Request,
    /// The start under way.
    Start,
    /// The worker going down.
    Down,
    /// The start under way, or the worker going down.
    StartOrDown,
    /// The resources' end.
    ResourcesEnd,
    /// The worker's end, which is asked for by waiting for it.
    WorkerEnd,
    /// This time.
    Until(Instant),
}
