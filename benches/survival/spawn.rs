//! How soon a large host gets its process.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, process::Command, time::Duration};

use serde::{Deserialize, Serialize};
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, resolve_program},
};
use tokio::time::Instant;

use crate::{
    Result, idle::IdleProgram, options::Options, record::Record, role::Role, systems::System, work::Work,
};

/// Bytes that the host has touched.
const BALLAST: usize = 1 << 30;

/// The record's name of the plain posix_spawn(3), in milliseconds.
pub(crate) fn plain_key(program: Program) -> String {
    format!("spawn/posix_spawn/{program}/ms")
}

/// What is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Program {
    /// One that does nothing, so that the launch is all that takes time.
    Idle,
    /// `sleep`, which loads its libraries first.
    Sleep,
}

impl std::fmt::Display for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle",
            Self::Sleep => "sleep",
        })
    }
}

/// The record's name of one launch, in milliseconds.
pub(crate) fn key(system: System, program: Program) -> String {
    format!("spawn/{system}/{program}/reply_ms")
}

/// The record's name of one launch and the opening of its gate, in milliseconds.
pub(crate) fn executed_key(system: System, program: Program) -> String {
    format!("spawn/{system}/{program}/executed_ms")
}

/// What the large host is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    systems: Vec<System>,
    /// With their paths, by which a pool knows its interpreter too.
    programs: Vec<(Program, PathBuf, Vec<OsString>)>,
    launches: usize,
}

/// The host: one launch of each in turn, ended before the next, in a task as a pool's. Prints all times.
pub(crate) async fn run(plan: Plan) -> Result<()> {
    tokio::spawn(launch_all(plan)).await?
}

async fn launch_all(plan: Plan) -> Result<()> {
    let ballast = vec![1_u8; BALLAST];
    let mut times: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut push = |key: String, took: Duration| times.entry(key).or_default().push(took.as_secs_f64() * 1e3);
    let launcher = |system: System| (system, system.launcher());
    let mut launchers: Vec<_> = plan.systems.into_iter().map(launcher).collect();
    for turn in 0..=plan.launches {
        for (program, path, args) in &plan.programs {
            for (system, launcher) in &launchers {
                let spec = LaunchSpec {
                    run_id: RunId::current(),
                    worker_id: WorkerId::next(),
                    program: path.clone(),
                    args: args.clone(),
                    env: Vec::new(),
                    env_remove: Vec::new(),
                    cwd: None,
                    channel: ChannelForm::Inherited,
                    limits: LaunchLimits::default(),
                };
                let began = Instant::now();
                let process = launcher.launch(&spec).await?;
                let replied = began.elapsed();
                process.open_gate().await?;
                let executed = began.elapsed();
                process.end(Duration::ZERO).await;
                // The first launch starts the guardian.
                if turn > 0 {
                    push(key(*system, *program), replied);
                    push(executed_key(*system, *program), executed);
                }
            }
        }
        for (program, path, args) in &plan.programs {
            let began = Instant::now();
            let mut child = Command::new(path).args(args).spawn()?;
            let took = began.elapsed();
            child.kill()?;
            child.wait()?;
            if turn > 0 {
                push(plain_key(*program), took);
            }
        }
        launchers.rotate_left(1);
    }
    println!("{}", serde_json::to_string(&times)?);
    drop(ballast);
    Ok(())
}

/// Starts the large host and takes down what it says.
pub(crate) fn measure(available: &[System], options: &Options, record: &mut Record) -> Result<()> {
    let (sleep, args) = Work::Obedient
        .command()
        .ok_or("a foreign program has a command")?;
    let idle = IdleProgram::create()?;
    let programs = idle
        .iter()
        .map(|idle| (Program::Idle, idle.path().to_owned(), Vec::new()))
        .chain([(Program::Sleep, resolve_program(&sleep)?, args)])
        .collect();
    let plan = Plan {
        systems: available.to_vec(),
        programs,
        launches: if options.quick { 50 } else { 300 },
    };
    eprintln!("spawn: {} launches of each", plan.launches);
    let mut host = Role::start("spawn", &serde_json::to_string(&plan)?)?;
    let times: BTreeMap<String, Vec<f64>> = serde_json::from_str(&host.line()?)?;
    for (key, times) in times {
        times.into_iter().for_each(|ms| record.push(key.clone(), ms));
    }
    Ok(())
}
