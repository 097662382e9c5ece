//! Shows on standard error what takes a while.

use std::{
    io::{self, IsTerminal as _},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What ends sooner is not worth a flicker.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often the display moves.
const TICK: Duration = Duration::from_millis(100);

/// A line that tells what is being done. It appears only where standard error is a terminal and after a moment, and
/// is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
    finished: Option<mpsc::Sender<()>>,
    shower: Option<JoinHandle<()>>,
}

impl Progress {
    pub(crate) fn start() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if !io::stderr().is_terminal() {
            return Self {
                bar,
                finished: None,
                shower: None,
            };
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
            bar.set_style(style);
        }
        let (finished, wait) = mpsc::channel();
        let shown = bar.clone();
        let shower = thread::spawn(move || {
            if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(TICK);
            }
        });
        Self {
            bar,
            finished: Some(finished),
            shower: Some(shower),
        }
    }

    /// Sets what is being done. The function can be handed out.
    pub(crate) fn teller(&self) -> impl Fn(String) + Send + Sync + 'static {
        let bar = self.bar.clone();
        move |message| bar.set_message(message)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The thread sees the channel close and does not show the line any more, or has shown it already.
        drop(self.finished.take());
        if let Some(shower) = self.shower.take() {
            // It cannot panic; if it did there would be nothing to clear.
            let _ = shower.join();
        }
        self.bar.finish_and_clear();
    }
}
