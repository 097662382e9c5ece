//! The launcher itself.

use std::{ffi::OsString, os::unix::process::CommandExt, sync::Arc};

use async_trait::async_trait;
use snakepit::core::launch::{
    ChildProcess, LaunchError, LaunchSpec, LaunchedProcess, Launcher, resolve_program,
};

/// Workers are direct children, run with the niceness that their spec asks for. There is no gate: a program runs from
/// the moment it is created.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NiceLauncher;

impl NiceLauncher {
    /// Every setting is honoured or refused by its name; ignoring one is the one thing a backend must not do.
    fn refuse_others(&self, spec: &LaunchSpec) -> Result<(), LaunchError> {
        match spec.limits.named().find(|setting| *setting != "nice") {
            None => Ok(()),
            Some(setting) => Err(self.refusal(setting)),
        }
    }

    fn refusal(&self, setting: &'static str) -> LaunchError {
        LaunchError::Unsupported {
            launcher: self.name().to_owned(),
            setting,
        }
    }
}

#[async_trait]
impl Launcher for NiceLauncher {
    fn name(&self) -> &str {
        "nice"
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        self.refuse_others(spec)?;
        let mut spec = spec.clone();
        if let Some(nice) = spec.limits.nice {
            // nice(1) becomes the program by exec: pid, group and channel are the worker's own. Whether there is such a
            // program is asked first, as nice(1) would say it on standard error, where no caller looks.
            let program = resolve_program(&spec.program).map_err(|source| LaunchError::Exec {
                program: spec.program.clone(),
                source,
            })?;
            // It adds to the niceness it is started with.
            let own = rustix::process::getpriority_process(None).map_err(|error| LaunchError::Os {
                step: "read the niceness of the host",
                source: error.into(),
            })?;
            // The kernel lets only root lower it, and nice(1) would say so and go on without.
            if nice < own && !rustix::process::geteuid().is_root() {
                return Err(self.refusal("nice"));
            }
            let front: [OsString; 3] = ["-n".into(), (nice - own).to_string().into(), program.into()];
            spec.args.splice(0..0, front);
            spec.program = "nice".into();
        }
        // Environment, directory, channel and pipes are set by now. A group of its own is what its tree is ended by; a
        // hook (`pre_exec`) would turn the start into a fork of the host, which costs by the host's size.
        let process = ChildProcess::launch(&spec, |command| command.process_group(0).spawn()).await?;
        Ok(Arc::new(process))
    }
}
