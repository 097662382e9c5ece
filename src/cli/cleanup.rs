//! `snakepit cleanup`: ends what dead programs have left behind.

mod table;

use std::{path::Path, process::ExitCode};

use rustix::process::{Resource, getrlimit, setrlimit};
use snakepit::registry::{
    cleanup::{self, CleanupOptions, Report},
    default_state_dir,
};

use super::{
    args::CleanupArgs,
    failure::{Failure, chain},
    logging::{self, Show},
    output, session,
};

/// The application that this command is when it calls.
pub(crate) const OWN_APP: &str = "snakepit";

/// Cleans up and shows what was found.
pub(crate) fn run(args: &CleanupArgs, verbose: u8) -> Result<ExitCode, Failure> {
    logging::start(Show::Workers, verbose);
    raise_descriptor_limit();
    let state_dir = args.state_dir.clone().unwrap_or_else(default_state_dir);
    let app = args.app.as_deref().unwrap_or(OWN_APP);
    let mut options = CleanupOptions::new(&state_dir, app).with_dry_run(args.dry_run);
    if args.all {
        options = options.with_all_apps();
    }
    let (report, others) = session::small_runtime()?.block_on(async {
        let report = cleanup::run(&options).await;
        let report = match report {
            Ok(report) => report,
            // Whoever reads JSON gets it, also of a cleanup that could not begin.
            Err(error) if args.json => Report::of_failure(&error, args.dry_run),
            Err(error) => return Err(Failure::Failed(chain(&error))),
        };
        let others = if args.all {
            Vec::new()
        } else {
            others_with_dead_runs(&state_dir, app).await
        };
        Ok::<_, Failure>((report, others))
    })?;
    if args.json {
        output::json(&report)?;
    } else {
        table::print(&report, &state_dir, (!args.all).then_some(app))?;
    }
    if !others.is_empty() {
        output::tell(format_args!(
            "other applications have dead runs too: {}; --app NAME or --all cleans up after them",
            others.join(", ")
        ));
    }
    Ok(if is_clean(&report) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn is_clean(report: &Report) -> bool {
    report.is_clean() && !(report.dry_run && report.dead().next().is_some())
}

async fn others_with_dead_runs(state_dir: &Path, app: &str) -> Vec<String> {
    // What cannot be read is none of this application's business.
    let dead = cleanup::dead_runs(state_dir).await.unwrap_or_default();
    dead.into_keys().filter(|other| other != app).collect()
}

/// Ending hundreds of trees at a time takes a few descriptors for each.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // With the old limit it takes more rounds.
    let _ = setrlimit(Resource::Nofile, limit);
}
