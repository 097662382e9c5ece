//! Waits that have a limit, by the clock of the control thread.
//!
//! The main thread's runtime has no timers of its own: with them it would look at the clock twice for each call.

use std::{sync::OnceLock, time::Duration};

use tokio::{runtime::Handle, time::sleep};

/// The control thread's runtime.
static CONTROL: OnceLock<Handle> = OnceLock::new();

/// Waits that begin from now on are timed by this runtime.
pub(crate) fn run_on(control: &Handle) {
    // A process has one control thread.
    let _ = CONTROL.set(control.clone());
}

/// What comes within this time; `None` if nothing has.
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let limit = {
        let _entered = CONTROL.get().map(Handle::enter);
        sleep(limit)
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = limit => None,
    }
}
