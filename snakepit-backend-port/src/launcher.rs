//! The launcher.

use std::sync::Arc;

use async_trait::async_trait;
use command_group::CommandGroup;
use snakepit_core::launch::{ChildProcess, LaunchError, LaunchSpec, LaunchedProcess, Launcher};

/// The name users choose this backend by.
const NAME: &str = "port";

/// Starts workers as direct children; see the [crate's documentation](crate) for what that promises.
///
/// Programs without a slash are looked up in the host's `PATH`, relative ones start from the host's working
/// directory, also when the spec names another `cwd` or `PATH`. Standard output and error of a process are
/// pipes that the host has to drain: a worker that fills one waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct PortLauncher;

impl PortLauncher {
    /// A launcher.
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl Launcher for PortLauncher {
    fn name(&self) -> &str {
        NAME
    }

    /// # Errors
    /// [`LaunchError::Unsupported`] for any limit, [`LaunchError::Cwd`] and [`LaunchError::Exec`] for what they
    /// name, [`LaunchError::Os`] when a process, a descriptor or a look into `/proc` is not to be had.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        if let Some(setting) = spec.limits.named().next() {
            return Err(LaunchError::Unsupported {
                launcher: NAME.to_owned(),
                setting,
            });
        }
        // The standard flavour of command-group: it stays with posix_spawn(3), whose cost does not grow with the host.
        let process = ChildProcess::launch(spec, |command| Ok(command.group_spawn()?.into_inner())).await?;
        Ok(Arc::new(process))
    }
}
