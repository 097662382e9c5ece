//! `snakepit doctor`: what this machine offers and what is missing.

mod cgroup;
mod finding;
mod kernel;
mod limits;
mod namespaces;
mod python;

use std::process::ExitCode;

use super::{args::DoctorArgs, failure::Failure, output};
use finding::{Finding, State};

/// Looks at everything and reports it.
pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let mut findings = Vec::new();
    let environment = python::look(&args.python, &mut findings);
    kernel::look(environment.as_ref(), &mut findings);
    cgroup::look(&mut findings);
    namespaces::look(&mut findings);
    limits::look(&mut findings);

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
