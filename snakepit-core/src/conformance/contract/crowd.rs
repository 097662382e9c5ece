//! Many processes, at once and one after the other.

use std::{collections::HashSet, sync::Arc, time::Duration};

use crate::{
    conformance::{
        evidence::{Evidence, Finding, ensure},
        ground::{Ground, LONG, Patience},
    },
    process::{EndStep, ProcessIdentity, Stat},
};

const FIFTY: usize = 50;
const LIVES: usize = 60;

pub(super) async fn fifty(ground: Arc<Ground>) -> Finding {
    let launches: Vec<_> = (0..FIFTY)
        .map(|_| {
            let ground = Arc::clone(&ground);
            tokio::spawn(async move { ground.launch_staying("").await })
        })
        .collect();
    let mut all = Vec::new();
    for launch in launches {
        all.push(launch.await??);
    }
    let pids: HashSet<u32> = all
        .iter()
        .map(|launched| launched.process.identity().pid)
        .collect();
    let living = ground.marks.living()?.len();
    ensure!(
        pids.len() == FIFTY && living == FIFTY,
        "{} pids, {living} processes",
        pids.len()
    );
    let ends: Vec<_> = all
        .into_iter()
        .map(|launched| tokio::spawn(async move { launched.end(LONG).await }))
        .collect();
    for end in ends {
        let report = end.await??;
        ensure!(
            report.step == EndStep::Term && report.swept == 0,
            "one of them: {report:?}"
        );
    }
    ground.is_empty("the ends")
}

pub(super) async fn no_growth(ground: Arc<Ground>) -> Finding {
    // What is made once, as a thread or a connection, is there after the first few.
    for n in 0..4 {
        live(&ground, n).await?;
    }
    let before = descriptors()?;
    let mut lived = Vec::new();
    for n in 0..LIVES {
        lived.push(live(&ground, n).await?);
    }
    // What was dropped is cleared away in the background.
    let mut patience = Patience::new();
    loop {
        let (now, zombies) = (descriptors()?, zombies(&lived));
        if now <= before && zombies.is_empty() {
            return ground.becomes_empty("many lives").await;
        }
        ensure!(
            patience.is_left().await,
            "after {LIVES} lives {now} descriptors in place of {before}, and these are not reaped: {zombies:?}"
        );
    }
}

/// A short life, of one of several kinds.
async fn live(ground: &Ground, n: usize) -> Result<ProcessIdentity, Evidence> {
    let before = match n % 4 {
        0 => "echo ready; exit 0",
        3 => &format!("(setsid /bin/sh {} &)", ground.marks.word("daemon")),
        _ => "",
    };
    let launched = ground.launch_staying(before).await?;
    let identity = launched.process.identity().clone();
    match n % 3 {
        0 => {
            launched.end(Duration::ZERO).await?;
        }
        1 => {
            launched.process.signal(libc::SIGKILL)?;
            launched.process.exited().await;
            launched.end(Duration::ZERO).await?;
        }
        _ => drop(launched),
    }
    Ok(identity)
}

fn descriptors() -> Result<usize, Evidence> {
    Ok(std::fs::read_dir("/proc/self/fd")?.count())
}

/// Those that still have an entry.
fn zombies(lived: &[ProcessIdentity]) -> Vec<u32> {
    let is_there =
        |who: &&ProcessIdentity| Stat::read(who.pid).is_ok_and(|stat| stat.start_ticks == who.start_ticks);
    lived.iter().filter(is_there).map(|who| who.pid).collect()
}
