//! A panic ends the worker: its state can no longer be trusted, and its supervisor replaces it at once.

use std::io::Write as _;

use crate::{native, sys, tree};

/// Exit status after a panic, the one a Rust program has.
const EXIT_PANIC: i32 = 101;

/// Installs the hook. It is what ends a worker whose descriptors were closed under its runtime.
pub(crate) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map_or_else(String::new, ToString::to_string);
        // Standard error may be closed; there is nowhere else to say it.
        let _ = writeln!(
            std::io::stderr(),
            "snakepit: the worker runtime failed at {place}: {text}"
        );
        match native::shared() {
            Some(shared) => shared.leave(EXIT_PANIC),
            None => {
                tree::end_descendants(None);
                sys::exit_now(EXIT_PANIC)
            }
        }
    }));
}
