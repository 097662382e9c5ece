//! A pool for the time of one command: its start, Ctrl-C, its end.

use std::{fs, time::Duration};

use snakepit::{Pool, PoolBuilder};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};

use super::{failure::Failure, output};

#[cfg(feature = "registry")]
mod ending;

/// A runtime for a command that makes one call at a time: no threads have to be started.
pub(crate) fn small_runtime() -> Result<Runtime, Failure> {
    build(tokio::runtime::Builder::new_current_thread())
}

/// A runtime as most services have it.
pub(crate) fn full_runtime() -> Result<Runtime, Failure> {
    build(tokio::runtime::Builder::new_multi_thread())
}

fn build(mut builder: tokio::runtime::Builder) -> Result<Runtime, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start the runtime: {error}")))
}

/// A pool of this command, recorded as one: `snakepit cleanup` has to find it, whatever the program's file is called.
pub(crate) fn builder(name: &str) -> PoolBuilder {
    let builder = Pool::builder().name(name);
    #[cfg(feature = "registry")]
    let builder = builder.registry(ending::settings());
    builder
}

const ENDING: &str = "interrupted: ending gracefully; press Ctrl-C again to end now";
const ENDING_NOW: &str = "interrupted again: ending now";

/// Runs `work` with a pool and ends the pool, whatever comes.
///
/// The first Ctrl-C drops `work`, which cancels its calls, and ends the pool gracefully; the second ends it now. A
/// SIGTERM counts as a Ctrl-C, and so does the end of the terminal.
pub(crate) async fn with_pool<T>(
    builder: PoolBuilder,
    work: impl AsyncFnOnce(&Pool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    let pool = tokio::select! {
        started = builder.start() => started?,
        // The start is dropped by now, and what it has started is being ended.
        () = interrupts.next() => {
            #[cfg(feature = "registry")]
            {
                output::tell(ENDING);
                tokio::select! {
                    () = ending::of_a_dropped_start() => {}
                    () = interrupts.next() => output::tell(ENDING_NOW),
                }
            }
            return Err(Failure::Interrupted);
        }
    };
    let done = tokio::select! {
        done = work(&pool) => done,
        () = interrupts.next() => {
            output::tell(ENDING);
            Err(Failure::Interrupted)
        }
    };
    end(&mut interrupts, &pool).await;
    done
}

/// How long somebody who wants the program to end waits for standard error, which nobody may read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Waits until all is written that was told on standard error, or until Ctrl-C; not for long if that was pressed before.
pub(crate) fn until_told(interrupted: bool) {
    if output::is_told() {
        return;
    }
    // Without a runtime there is nothing to wait with, and it was told on a machine that is short of everything.
    let Ok(runtime) = small_runtime() else { return };
    runtime.block_on(async {
        let given_up = async {
            match Interrupts::listen() {
                _ if interrupted => sleep(LAST_WORDS).await,
                Ok(mut interrupts) => interrupts.next().await,
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = output::told() => {}
            () = given_up => {}
        }
    });
}

async fn end(interrupts: &mut Interrupts, pool: &Pool) {
    tokio::select! {
        () = pool.shutdown() => {}
        () = interrupts.next() => {
            output::tell(ENDING_NOW);
            pool.kill().await;
        }
    }
}

/// Requests from outside to come to an end.
struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Interrupts {
    fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            // Whoever started us with nohup wants us to go on.
            hangup: (!ignores_hangup())
                .then(|| listen(SignalKind::hangup()))
                .transpose()?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = received(self.hangup.as_mut()) => {}
        }
    }
}

async fn received(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP was ignored when this program began, as nohup(1) has it.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // proc_pid_status(5): bit 0 is signal 1.
    mask.is_some_and(|mask| mask & 1 == 1)
}
