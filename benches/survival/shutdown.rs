//! How long an orderly stop takes.

use std::time::Duration;

use crate::{
    Result, crowd::Crowd, host::Plan, options::Options, record::Record, role::Role, systems::System,
    work::Work,
};

/// Workers of each host.
pub(crate) const WORKERS: usize = 10;

/// What they are.
pub(crate) const WORK: [(Work, &str); 2] = [
    (Work::Obedient, "foreign programs"),
    (Work::BarePython, "Python workers"),
];

const BOUND: Duration = Duration::from_secs(60);

/// The record's name of the time until the last process was gone, in milliseconds.
pub(crate) fn key(system: System, work: &str) -> String {
    format!("shutdown/{system}/{work}/ms")
}

/// Runs the rounds, each in another order.
pub(crate) fn measure(available: &[System], options: &Options, record: &mut Record) -> Result<()> {
    let mut systems = available.to_vec();
    for round in 0..options.rounds {
        eprintln!("shutdown: round {} of {}", round + 1, options.rounds);
        for system in &systems {
            for (work, name) in WORK {
                let mut host = Role::host(&Plan::new(*system, work, WORKERS))?;
                host.ready()?;
                let sleepers = if work == Work::Obedient { WORKERS } else { 0 };
                let crowd = Crowd::gather("the host", |crowd| crowd.named("sleep") == sleepers)?;
                let gone = crowd.gone(host.stop()?, BOUND);
                let gone = gone.ok_or_else(|| format!("{system}: something is left after {BOUND:?}"))?;
                record.push(key(*system, name), gone.as_secs_f64() * 1e3);
            }
        }
        systems.rotate_left(1);
    }
    Ok(())
}
