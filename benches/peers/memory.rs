//! What idle workers weigh: private memory and their share of what they share (the proportional set size).

use crate::{
    Result,
    kind::{Kind, Library},
    proc::{descendants, rollup_kib},
    ready,
    record::Record,
    systems::System,
};

/// The record's name of one worker's own memory, in KiB.
pub(crate) fn key(library: Library, workers: usize, kind: Kind) -> String {
    format!("{}/pss_kib", ready::key(library, workers, kind))
}

/// The record's name of a worker's part of everything below the host, in KiB: the workers and what the system has
/// beside them, as a template, a fork server or services.
pub(crate) fn whole_key(library: Library, workers: usize, kind: Kind) -> String {
    format!("{}/whole_kib", ready::key(library, workers, kind))
}

/// Weighs a system that has just become ready.
pub(crate) async fn weigh(
    system: &System,
    library: Library,
    workers: usize,
    record: &mut Record,
) -> Result<()> {
    let pids = system.pids().await?;
    let own: f64 = pids
        .iter()
        .map(|pid| rollup_kib(*pid, "Pss"))
        .sum::<Result<_>>()?;
    // Some of these are on their way out: the interpreters of a library's own look at the machine.
    let whole: f64 = descendants(system.host())?
        .into_iter()
        .filter_map(|pid| rollup_kib(pid, "Pss").ok())
        .sum();
    record.push(key(library, workers, system.kind), own / workers as f64);
    record.push(whole_key(library, workers, system.kind), whole / workers as f64);
    Ok(())
}
