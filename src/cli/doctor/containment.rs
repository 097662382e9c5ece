//! The containment levels of the exec backend, each tried with a guardian of its own.

use snakepit::{
    backend_exec::{ContainmentError, ExecLauncher, ExecSettings},
    core::{process::ContainmentLevel, rpc::error_chain},
};

use super::{Finding, namespaces};
use crate::cli::{failure::Failure, session};

const SECTION: &str = "Exec backend";

/// From the firmest to the weakest.
const LEVELS: [(ContainmentLevel, &str, &str); 3] = [
    (
        ContainmentLevel::Namespace,
        "namespace",
        "the kernel ends everything, whoever dies",
    ),
    (
        ContainmentLevel::Cgroup,
        "cgroup",
        "the guardian ends everything with the host; if it dies too, the next start does, in one step",
    ),
    (
        ContainmentLevel::Subreaper,
        "subreaper",
        "the guardian ends everything with the host; if it dies too, workers end and the next start ends the rest",
    ),
];

/// Starts a guardian for each level. It starts no worker, and is gone afterwards.
pub(super) fn look(findings: &mut Vec<Finding>) -> Result<(), Failure> {
    session::small_runtime()?.block_on(async {
        for (level, name, use_of_it) in LEVELS {
            let launcher = ExecLauncher::new(ExecSettings::default().with_containment(level));
            let ready = launcher.ready().await;
            // Nothing was started, so that there is nothing to be graceful to.
            launcher.shutdown(std::time::Duration::ZERO).await;
            findings.push(match ready {
                Ok(report) => Finding::good(SECTION, name, format!("{report}: {use_of_it}")),
                Err(error) => Finding::weak(SECTION, name, why(&error), remedy(level)),
            });
        }
        Ok(())
    })
}

fn why(error: &ContainmentError) -> String {
    match error {
        ContainmentError::Unavailable { source, .. } => error_chain(source),
        other => error_chain(other),
    }
}

fn remedy(level: ContainmentLevel) -> String {
    match level {
        ContainmentLevel::Namespace => namespaces::remedy(),
        ContainmentLevel::Cgroup => super::cgroup::DELEGATE.to_owned(),
        _ => "let a program be executed from memory (sysctl vm.memfd_noexec below 2), or set TMPDIR to a directory that \
              is not mounted noexec"
            .to_owned(),
    }
}
