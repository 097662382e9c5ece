//! What the side-by-side benchmarks share: interleaved rounds, medians with quartiles, ratios within a round, targets
//! with a verdict, and a section of `docs/benchmarks.md` for each benchmark.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

pub(crate) mod block;
pub(crate) mod document;
pub(crate) mod machine;
pub(crate) mod options;
pub(crate) mod plot;
pub(crate) mod proc;
pub(crate) mod record;
pub(crate) mod spread;
pub(crate) mod table;
pub(crate) mod target;

/// Whatever went wrong; the benchmark ends with it.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;
/// The outcome of anything here.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Resolves, as an error, at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
    }
    Err("interrupted".into())
}
