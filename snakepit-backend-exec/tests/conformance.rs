//! The contract of `launch`, and what this backend promises beyond it, at each level of containment that works here.

use std::{process::ExitCode, sync::Arc};

use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_core::{
    conformance::{self, Candidate},
    launch::Launcher,
    process::ContainmentLevel,
};

fn main() -> ExitCode {
    let candidate = |name: &str, level, shared| {
        let settings = ExecSettings::default()
            .with_containment(level)
            .with_shared_namespace(shared);
        Candidate::new(format!("exec, {name}"), move || {
            let launcher = ExecLauncher::new(settings.clone());
            async move {
                launcher.ready().await?;
                Ok(Arc::new(launcher) as Arc<dyn Launcher>)
            }
        })
    };
    conformance::main(&[
        candidate("namespace", ContainmentLevel::Namespace, false),
        candidate("shared namespace", ContainmentLevel::Namespace, true),
        candidate("cgroup", ContainmentLevel::Cgroup, false),
        candidate("subreaper", ContainmentLevel::Subreaper, false),
    ])
}
