//! Does a host that is called for a long time stay as it is? Real Python workers under a mixed load, watched until the time is up.
//!
//! `cargo bench --bench soak -- --minutes 10` reports every 30 s and at the end, and exits with 1 when something has grown or a
//! call had an outcome that it must not have. `docs/soak.md` tells what is called, what is watched, and when it has grown.

mod soak;

use std::process::ExitCode;

use soak::{Plan, Result, Summary};

const USAGE: &str = "usage: cargo bench --bench soak -- [--minutes N] [--workers N]
  --minutes N  how long, may be a fraction (default 10)
  --workers N  worker slots (default 4)";

#[tokio::main]
async fn main() -> ExitCode {
    let plan = match parse(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let outcome = tokio::select! {
        outcome = soak::run(&plan) => outcome,
        outcome = interrupted() => outcome,
    };
    match outcome {
        Ok(summary) => {
            print!("{summary}");
            ExitCode::from(u8::from(!summary.is_good()))
        }
        Err(error) => {
            eprintln!("the soak failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: impl Iterator<Item = String>) -> Result<Plan> {
    let mut plan = Plan::default();
    // cargo bench itself adds this one.
    let mut args = args.filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--minutes" => plan = plan.minutes(value?.parse()?)?,
            "--workers" => plan.workers = value?.parse()?,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(plan)
}

/// Resolves, as an error, at Ctrl-C or SIGTERM.
async fn interrupted() -> Result<Summary> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
    }
    Err("interrupted".into())
}
