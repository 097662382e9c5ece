//! The same call again, whenever the code has changed.

use std::{collections::BTreeSet, path::PathBuf, pin::pin};

use snakepit::{Event, EventKind, Pool, PoolBuilder, Reloading, ReplaceCause};
use tokio::sync::broadcast::{self, error::RecvError};

use crate::cli::{
    args::CallArgs,
    failure::{Failure, chain, tell_traceback},
    output,
};

/// What is watched, and the pool for it: the function's module is imported before a worker is ready, so that one which does not
/// load replaces none that does.
pub(super) fn prepare(args: &CallArgs, builder: PoolBuilder) -> Result<(PoolBuilder, Vec<PathBuf>), Failure> {
    let watched = builder.paths().to_vec();
    if watched.is_empty() {
        return Err(Failure::Usage(
            "--reload watches the directories given with --path or in a file with --config: name one"
                .to_owned(),
        ));
    }
    let builder = match args.function.split_once(':') {
        Some((module, _)) => builder.adapter(module),
        None => builder,
    };
    Ok((builder, watched))
}

/// Makes the call, and makes it again after every reload, until it is interrupted. What fails is told, and tried again after the
/// next change.
pub(super) async fn run(args: &CallArgs, pool: &Pool, watched: Vec<PathBuf>) -> Result<(), Failure> {
    let mut reloading = pool.reload_on_change(watched).await;
    loop {
        let events = pool.events();
        let mut next = pin!(reloaded(&mut reloading));
        let goes_on = tokio::select! {
            biased;
            goes_on = &mut next => Some(goes_on),
            done = super::make(args, pool) => {
                told(done)?;
                None
            }
            // The call of the old code would only hold up the reload.
            () = replaced(events) => {
                output::tell("the code has changed: the call is cancelled");
                None
            }
        };
        let goes_on = match goes_on {
            Some(goes_on) => goes_on,
            None => next.await,
        };
        if !goes_on {
            return Ok(());
        }
    }
}

/// Goes on after a failure that a change can mend.
fn told(done: Result<(), Failure>) -> Result<(), Failure> {
    match done {
        Err(last @ (Failure::Output(_) | Failure::Usage(_))) => Err(last),
        Err(failure) => {
            // There will be another call, and so no exit code.
            let _ = failure.report();
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Resolves when a worker with the new code serves.
async fn replaced(mut events: broadcast::Receiver<Event>) {
    // Workers may be replaced for other reasons, too.
    let mut restarted = BTreeSet::new();
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => std::future::pending().await,
        };
        match event.kind {
            EventKind::ReplacementStarted {
                slot,
                cause: ReplaceCause::Restart,
                ..
            } => {
                restarted.insert(slot);
            }
            EventKind::WorkerReplaced { slot, .. } if restarted.contains(&slot) => return,
            _ => {}
        }
    }
}

/// Waits for a reload, and tells those that fail; false when the pool is over.
async fn reloaded(reloading: &mut Reloading) -> bool {
    loop {
        match reloading.next().await {
            Some(Ok(_)) => return true,
            Some(Err(error)) => {
                output::tell(format_args!("not reloaded: {}", chain(&error)));
                tell_traceback(&error);
            }
            None => return false,
        }
    }
}
