//! Workers that are forked from one warmed Python interpreter.
//!
//! [`ZygoteLauncher`] starts a *template*: an interpreter with the Snakepit runtime that imports the modules it is to have,
//! and then forks. A worker is there in a millisecond or two instead of an interpreter's start and its imports, and what was
//! imported is in memory once, however many workers there are.
//!
//! The template is started by another launcher, given to [`ZygoteLauncher::new`]. What that promises of a process and its
//! tree holds for the template and for all that comes of it: with the exec backend's namespace they are all gone with their
//! host, by the kernel.
//!
//! # What it promises
//!
//! - *A worker is a worker.* It has its own process group, environment (also as `/proc/PID/environ` shows it), directory,
//!   descriptors and gate; its exit is known with the exact code or signal; ending it ends its tree, and nobody else's.
//! - *A fork that would not be sound is refused.* With a thread alive in the template, `fork` would leave whatever lock it
//!   holds locked for ever: the error names the threads. The thread pools of numeric libraries are kept at one thread
//!   for that.
//! - *The template's death is not the workers'.* They go on, whoever reaps them then; the next launch starts a new template.
//!   One that hangs is killed after [its deadline](ZygoteSettings::with_fork_deadline).
//! - *It is gone with its host.* Its channel is its lifeline: the kernel kills it when the host's end closes, also while it
//!   imports.
//! - *Code is never half old.* [`renewed`](snakepit_core::launch::Launcher::renewed) gives a launcher with a template of its
//!   own, by which a rolling restart proves new code before the old template goes.
//!
//! # What it does not promise
//!
//! - Workers share the namespaces of the template, and see each other, unless
//!   [each has a PID namespace](ZygoteSettings::with_nested_namespaces). Memory limits of a cgroup would be for all of them
//!   together, and are refused; other limits are the template's ([`ZygoteSettings::with_limits`]).
//! - What a worker started and orphaned is found by its environment, as with the launcher of the port backend; with a
//!   namespace the kernel ends it, and so it does where the template has a cgroup: each worker has one below it then.
//! - A module that opens connections, files or devices when it is imported shares them among all workers: open them in an
//!   `on_start` hook. CUDA cannot be used in a fork of a process that has used it.
//! - Random generators that a module makes at import are the same in all workers, but `random` and NumPy's global one.
//!
//! A program that is not the settings' own interpreter and arguments is forked as well, and then executed, held at a gate
//! before.
//!
//! # Example
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use snakepit_core::launch::Launcher;
//! use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};
//!
//! # async fn example(port: Arc<dyn Launcher>) -> Result<(), Box<dyn std::error::Error>> {
//! let settings = ZygoteSettings::new("/usr/bin/python3", ["-m", "snakepit"]).with_modules(["numpy"]);
//! let launcher = ZygoteLauncher::new(port, settings);
//! // Before the first launch, so that it need not wait.
//! launcher.warm().await?;
//! # Ok(())
//! # }
//! ```

mod error;
mod launcher;
mod leaf;
mod nest;
mod process;
mod settings;
mod template;
mod wire;

pub use error::TemplateError;
pub use launcher::ZygoteLauncher;
pub use settings::ZygoteSettings;
