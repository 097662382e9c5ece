//! What the guardian and a keeper weigh.

use std::fs;

use crate::{
    Result,
    crowd::{Crowd, MADE_AHEAD},
    host::Plan,
    proc::rollup_kib,
    record::Record,
    role::Role,
    systems::System,
    work::Work,
};

/// The record's name of the program's size in KiB.
pub(crate) const BINARY: &str = "size/binary_kib";

/// The processes that are weighed.
pub(crate) const WHO: [&str; 3] = ["guardian", "keeper", "next worker, made ahead"];

/// Fields of smaps_rollup, proc(5), that say something of a small process.
pub(crate) const FIELDS: [&str; 3] = ["Rss", "Pss", "Private"];

/// The record's name of one of them, in KiB.
pub(crate) fn key(who: &str, field: &str) -> String {
    format!("size/{who}/{field}")
}

/// Weighs those of a host with ten workers at the namespace level.
pub(crate) fn measure(available: &[System], record: &mut Record) -> Result<()> {
    let Some(system) = System::EXEC.into_iter().find(|system| available.contains(system)) else {
        return Ok(());
    };
    eprintln!("size: once");
    let mut host = Role::host(&Plan::new(system, Work::Obedient, 10))?;
    host.ready()?;
    let crowd = Crowd::gather("the host", |crowd| {
        crowd.named("sleep") == 10 && crowd.named(MADE_AHEAD) == 1
    })?;
    let [guardian] = &crowd.children_of(host.pid())[..] else {
        return Err("a host of the exec backend has one child, its guardian".into());
    };
    let guardian = guardian.pidfd.pid();
    record.push(
        BINARY,
        fs::metadata(format!("/proc/{guardian}/exe"))?.len() as f64 / 1024.0,
    );
    let keepers = crowd.children_of(guardian);
    let keeper = keepers.first().ok_or("a worker has a keeper")?.pidfd.pid();
    let ahead = crowd
        .one_named(MADE_AHEAD)
        .ok_or("one is made ahead")?
        .pidfd
        .pid();
    for (who, pid) in WHO.into_iter().zip([guardian, keeper, ahead]) {
        for field in ["Rss", "Pss"] {
            record.push(key(who, field), rollup_kib(pid, field)?);
        }
        let private = rollup_kib(pid, "Private_Clean")? + rollup_kib(pid, "Private_Dirty")?;
        record.push(key(who, "Private"), private);
    }
    Ok(())
}
