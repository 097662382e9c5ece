//! What a backend says of a process.

use std::{os::unix::fs::MetadataExt, sync::Arc};

use crate::{
    conformance::{
        evidence::{Finding, ensure},
        ground::{Ground, LONG},
    },
    process::{ContainmentLevel, ProcessIdentity, Stat, cgroup::Cgroup},
};

pub(super) async fn identity(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("").await?;
    // The one whose arguments are the program's: no shell, no wrapper, nobody it was forked from.
    let worker = ground.one("worker").await?;
    let told = launched.process.identity();
    let read = ProcessIdentity::of(&worker)?;
    ensure!(*told == read, "it is {read:?}, and was said to be {told:?}");
    launched.end(LONG).await?;
    let alive = told.is_alive()?;
    ensure!(!alive, "its identity is alive after its end");
    Ok(())
}

pub(super) async fn containment(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("").await?;
    let pid = launched.process.identity().pid;
    let told = launched.process.containment();
    let namespace = |pid: u32| std::fs::metadata(format!("/proc/{pid}/ns/pid")).map(|found| found.ino());
    let is_apart = namespace(pid)? != namespace(std::process::id())?;
    // One that it shares with others does not end with its keeper, so that it counts for nothing here.
    ensure!(
        is_apart || told.level != ContainmentLevel::Namespace,
        "the level is namespace, and it is in the host's PID namespace"
    );
    if let Some(keeper) = &told.keeper {
        ensure!(keeper.is_alive()?, "its keeper {keeper:?} is gone");
        let mut line = vec![pid];
        while let Some(parent) = line.last().copied().filter(|pid| *pid > 1) {
            line.push(Stat::read(parent)?.ppid);
        }
        ensure!(
            line[1..].contains(&keeper.pid),
            "its keeper {} is not among its ancestors {line:?}",
            keeper.pid
        );
    }
    if let Some(path) = &told.cgroup {
        let members = Cgroup::at(path).processes()?;
        ensure!(
            members.contains(&pid),
            "it is not in {}, which has {members:?}",
            path.display()
        );
    }
    let needs_cgroup = told.level == ContainmentLevel::Cgroup;
    ensure!(
        !needs_cgroup || told.cgroup.is_some(),
        "the level is {}, and it has no cgroup",
        told.level
    );
    launched.end(LONG).await?;
    Ok(())
}
