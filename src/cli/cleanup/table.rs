//! The report for people.

use std::path::Path;

use snakepit::registry::cleanup::{
    FoundBy, FoundProcess, ProcessEnd, RecordEnd, Report, RunReport, RunState, processes,
};

use crate::cli::{
    failure::Failure,
    output::{self, Style},
};

/// Shows the runs, what was found of the dead ones, and the outcome.
pub(super) fn print(report: &Report, state_dir: &Path, app: Option<&str>) -> Result<(), Failure> {
    let style = Style::of_stdout();
    if report.runs.is_empty() && report.problems.is_empty() {
        let whose = app.map_or_else(String::new, |app| format!(" of {app}"));
        return output::line(format_args!(
            "No run{whose} on record in {}, and nothing of one left.",
            state_dir.display()
        ));
    }
    runs(report, style)?;
    for run in report.dead() {
        details(run, report.dry_run, style)?;
    }
    for problem in &report.problems {
        output::line(format_args!("{} {problem}", style.red("problem:")))?;
    }
    output::line(format_args!("\n{}", verdict(report, style)))
}

fn runs(report: &Report, style: Style) -> Result<(), Failure> {
    let longest = report.runs.iter().map(|run| run.app.len()).max();
    let width = longest.unwrap_or(0).max("APP".len());
    if !report.runs.is_empty() {
        output::line(style.bold(format_args!(
            "{:32}  {:width$}  {:10}  {:>7}  {:>7}  {:>5}  {:>5}  {:>4}  {:>7}",
            "RUN", "APP", "STATE", "HOST", "WORKERS", "FOUND", "ENDED", "LEFT", "TOOK"
        )))?;
    }
    for run in &report.runs {
        // Padded before it is painted.
        let state = format!("{:10}", state(run.state));
        let state = match run.state {
            RunState::Alive => style.green(state),
            _ => style.yellow(state),
        };
        let host = run.host_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let mut line = format!(
            "{}  {:width$}  {state}  {host:>7}  {:>7}",
            run.run_id, run.app, run.rows
        );
        if run.state != RunState::Alive {
            // Nothing is ended by looking, so that nothing is left over either.
            let count = |end| match report.dry_run {
                true => "-".to_owned(),
                false => run.count(end).to_string(),
            };
            let (ended, left) = (count(ProcessEnd::Ended), count(ProcessEnd::Left));
            line.push_str(&format!(
                "  {:>5}  {ended:>5}  {left:>4}  {:>7}",
                run.found.len(),
                output::duration(run.took)
            ));
        }
        output::line(line)?;
    }
    Ok(())
}

fn state(state: RunState) -> &'static str {
    match state {
        RunState::Alive => "alive",
        RunState::Dead => "dead",
        RunState::Unreadable => "unreadable",
        RunState::Unrecorded => "unrecorded",
        _ => "other",
    }
}

/// What was found of a dead run, if there is anything to tell.
fn details(run: &RunReport, dry_run: bool, style: Style) -> Result<(), Failure> {
    if run.found.is_empty() && run.notes.is_empty() && run.problem.is_none() {
        return Ok(());
    }
    output::line(format_args!("\n{}", style.bold(format_args!("{}:", run.run_id))))?;
    for process in &run.found {
        let end = match (&process.why, process.end) {
            _ if dry_run => style.yellow("would be ended"),
            (Some(why), _) => style.red(format_args!("left: {why}")),
            (None, ProcessEnd::Ended) => style.green("ended"),
            (None, _) => style.red("left"),
        };
        output::line(format_args!("  {}  {end}", name(process)))?;
    }
    for note in &run.notes {
        output::line(format_args!("  {note}"))?;
    }
    if let Some(problem) = &run.problem {
        output::line(format_args!("  {} {problem}", style.red("problem:")))?;
    }
    if run.record == Some(RecordEnd::Kept) {
        output::line("  its record is kept for the next cleanup")?;
    }
    Ok(())
}

fn name(process: &FoundProcess) -> String {
    let worker = process
        .worker
        .map_or_else(|| "-".to_owned(), |worker| worker.to_string());
    let by = match process.by {
        FoundBy::Record => "on record",
        FoundBy::Keeper => "keeper on record",
        FoundBy::Environment => "by environment",
        FoundBy::Cgroup => "by cgroup",
        _ => "otherwise",
    };
    format!(
        "pid {:<7}  {worker:10}  {:15}  {by:16}",
        process.pid, process.program
    )
}

fn verdict(report: &Report, style: Style) -> String {
    let alive = report.runs.len() - report.dead().count();
    let runs = format!("{alive} alive, {} dead", report.dead().count());
    let took = output::duration(report.took);
    if report.dry_run {
        let found = processes(report.left());
        return if report.dead().next().is_none() {
            style.green(format_args!("{runs}: nothing to do."))
        } else {
            style.yellow(format_args!(
                "{runs}: {found} would be ended (looked for {took})."
            ))
        };
    }
    let ended = processes(report.ended());
    if report.is_clean() && report.dead().any(|run| run.unseen > 0) {
        style.yellow(format_args!(
            "{runs}: {ended} ended, nothing is left that this user can look into ({took}). As root it is certain."
        ))
    } else if report.is_clean() {
        style.green(format_args!("{runs}: {ended} ended, nothing is left ({took})."))
    } else {
        style.red(format_args!(
            "{runs}: {ended} ended, {} left, see above ({took}).",
            report.left()
        ))
    }
}
