//! `snakepit doctor`: what this machine offers and what is missing.

mod cgroup;
#[cfg(feature = "backend-exec")]
mod containment;
mod finding;
mod kernel;
mod limits;
mod namespaces;
mod python;
mod trial;

use std::process::ExitCode;

use super::{
    args::DoctorArgs,
    failure::Failure,
    logging::{self, Show},
    output,
};
use finding::{Finding, State};

/// Looks at everything and reports it.
pub(crate) fn run(args: &DoctorArgs, verbose: u8) -> Result<ExitCode, Failure> {
    logging::start(Show::Errors, verbose);
    let mut findings = Vec::new();
    let environment = python::look(&args.python, &mut findings);
    kernel::look(environment.as_ref(), &mut findings);
    cgroup::look(&mut findings);
    namespaces::look(&mut findings);
    #[cfg(feature = "backend-exec")]
    containment::look(&mut findings)?;
    limits::look(&mut findings);
    if let Some(environment) = environment {
        findings.push(trial::run(environment)?);
    }

    let can_run = findings.iter().all(|finding| finding.state != State::Missing);
    if args.json {
        output::json(&serde_json::json!({ "can_run": can_run, "findings": findings }))?;
    } else {
        finding::print(&findings, can_run)?;
    }
    Ok(if can_run {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
