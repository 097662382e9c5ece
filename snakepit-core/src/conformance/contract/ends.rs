//! Ending a process and everything it started, with no more force than needed.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    conformance::{
        evidence::{Finding, ensure},
        ground::{Ground, LONG, PATIENCE, SHORT, eventually},
        marks::{STUBBORN, awaits_sigterm, ignores_sigterm},
    },
    process::{EndReport, EndStep, ExitOutcome, Stat},
};

/// How often one looks for a process that is hard to see.
const LOOKS: usize = 50;

fn check(report: &EndReport, step: EndStep) -> Finding {
    ensure!(
        report.step == step,
        "it took {:?} in place of {step:?}: {report:?}",
        report.step
    );
    Ok(())
}

fn check_swept(report: &EndReport, wanted: u32) -> Finding {
    ensure!(
        report.swept == wanted,
        "{} were found outside its group, which are {wanted}: {report:?}",
        report.swept
    );
    Ok(())
}

fn check_signal(report: &EndReport, wanted: i32) -> Finding {
    let is_told = matches!(report.outcome, ExitOutcome::Signaled { signal, .. } if signal == wanted);
    ensure!(is_told, "not ended by signal {wanted}: {report:?}");
    Ok(())
}

pub(super) async fn obeys(ground: Arc<Ground>) -> Finding {
    ground.marks.write("obedient", &ground.marks.stay())?;
    let launched = ground
        .launch_staying(&format!("/bin/sh {} &", ground.marks.word("obedient")))
        .await?;
    ground.one("obedient").await?;
    let report = launched.end(LONG).await?;
    check(&report, EndStep::Term)?;
    check_signal(&report, libc::SIGTERM)?;
    check_swept(&report, 0)?;
    ground.is_empty("the end")
}

pub(super) async fn uses_its_grace(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("trap 'sleep 0.1; exit 3' TERM").await?;
    let report = launched.end(LONG).await?;
    check(&report, EndStep::Term)?;
    ensure!(report.outcome == ExitOutcome::Exited(3), "{report:?}");
    ensure!(report.took >= Duration::from_millis(100), "{report:?}");
    Ok(())
}

pub(super) async fn endless(ground: Arc<Ground>) -> Finding {
    let report = ground.launch_staying("").await?.end(Duration::MAX).await?;
    check(&report, EndStep::Term)
}

pub(super) async fn ignores(ground: Arc<Ground>) -> Finding {
    let report = ground.launch_staying(STUBBORN).await?.end(SHORT).await?;
    check(&report, EndStep::Kill)?;
    check_signal(&report, libc::SIGKILL)?;
    ensure!(
        report.took >= SHORT,
        "killed before its grace was over: {report:?}"
    );
    ground.is_empty("the end")
}

pub(super) async fn no_grace(ground: Arc<Ground>) -> Finding {
    let report = ground
        .launch_staying("trap 'exit 3' TERM")
        .await?
        .end(Duration::ZERO)
        .await?;
    check(&report, EndStep::Kill)?;
    check_signal(&report, libc::SIGKILL)
}

pub(super) async fn stopped(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("trap 'exit 5' TERM").await?;
    let worker = ground.one("worker").await?;
    launched.process.signal(libc::SIGSTOP)?;
    let is_stopped = || Ok(Stat::read(worker.pid())?.state == b'T');
    eventually("SIGSTOP does not stop it", is_stopped).await?;
    let report = launched.end(LONG).await?;
    check(&report, EndStep::Term)?;
    ensure!(report.outcome == ExitOutcome::Exited(5), "{report:?}");
    Ok(())
}

pub(super) async fn member_outlives_leader(ground: Arc<Ground>) -> Finding {
    let launched = ground
        .launch_staying(&format!("/bin/sh {} &", ground.marks.word("child")))
        .await?;
    stubborn(&ground, "child").await?;
    // No grace has to be guessed that is long enough for the leader.
    let (report, _) = tokio::try_join!(launched.end(LONG), async {
        timeout(PATIENCE, launched.process.exited()).await?;
        launched.end(Duration::ZERO).await
    })?;
    check(&report, EndStep::Kill)?;
    check_signal(&report, libc::SIGTERM)?;
    ground.is_empty("the end")
}

/// Waits until a script ignores SIGTERM.
async fn stubborn(ground: &Ground, role: &str) -> Finding {
    let one = ground.one(role).await?;
    let is_there = || Ok(ignores_sigterm(one.pid()));
    eventually("a stubborn script does not come to its trap", is_there).await
}

pub(super) async fn session(ground: Arc<Ground>) -> Finding {
    let launched = ground
        .launch_staying(&format!("setsid /bin/sh {} &", ground.marks.word("session")))
        .await?;
    stubborn(&ground, "session").await?;
    let report = launched.end(SHORT).await?;
    check(&report, EndStep::Kill)?;
    check_swept(&report, 1)?;
    ground.is_empty("the end")
}

pub(super) async fn daemon(ground: Arc<Ground>) -> Finding {
    let said = ground.marks.path("said");
    let script = format!(
        "trap 'echo asked > {}; exit 0' TERM\n{}",
        ground.marks.word("said"),
        ground.marks.stay()
    );
    ground.marks.write("obedient", &script)?;
    let launched = ground
        .launch_staying(&format!("(setsid /bin/sh {} &)", ground.marks.word("obedient")))
        .await?;
    let one = ground.one("obedient").await?;
    let is_there = || Ok(awaits_sigterm(one.pid()));
    eventually("the daemon does not come to where it stays", is_there).await?;
    let report = launched.end(LONG).await?;
    check(&report, EndStep::Term)?;
    ensure!(said.exists(), "the daemon was not asked: {report:?}");
    check_swept(&report, 1)?;
    ground.is_empty("the end")
}

pub(super) async fn family(ground: Arc<Ground>) -> Finding {
    let (launched, _) = ground.launch_family().await?;
    let report = launched.end(SHORT).await?;
    check(&report, EndStep::Kill)?;
    ground.has_only("scrubbed", "the end")
}

pub(super) async fn fifty_daemons(ground: Arc<Ground>) -> Finding {
    const FIFTY: u32 = 50;
    let daemon = ground.marks.word("daemon");
    let lines = format!("n=0; while [ $((n += 1)) -le {FIFTY} ]; do (setsid /bin/sh {daemon} &); done");
    let launched = ground.launch_staying(&lines).await?;
    let are_there = || {
        let living = ground.marks.living()?;
        let daemons = living.iter().filter(|found| found.role == "daemon");
        let settled = daemons
            .filter(|daemon| ignores_sigterm(daemon.pidfd.pid()))
            .count();
        Ok(settled == FIFTY as usize)
    };
    eventually("not all daemons come to their trap", are_there).await?;
    let report = launched.end(SHORT).await?;
    check(&report, EndStep::Kill)?;
    check_swept(&report, FIFTY)?;
    ground.is_empty("the end")
}

pub(super) async fn chain(ground: Arc<Ground>) -> Finding {
    // Each link starts the next one in a session of its own and leaves, for as long as the directory is there.
    let (link, fifo) = (ground.marks.word("link"), ground.marks.word("nobody-writes"));
    let lines = format!("{STUBBORN}\nsleep 0.002\n[ -p {fifo} ] && setsid /bin/sh {link} &\n");
    ground.marks.write("link", &lines)?;
    let launched = ground
        .launch_staying(&format!("{STUBBORN}; /bin/sh {link} &"))
        .await?;
    let group = launched.process.identity().pgid;
    let has_left = |pid| Stat::read(pid).is_ok_and(|stat| stat.pgrp != group);
    let runs_away = || {
        let living = ground.marks.living()?;
        let mut links = living.iter().filter(|found| found.role == "link");
        Ok(links.any(|link| has_left(link.pidfd.pid())))
    };
    eventually("the chain does not leave the worker's group", runs_away).await?;
    let report = launched.end(SHORT).await?;
    check(&report, EndStep::Kill)?;
    // A look may miss one that is just being forked.
    for _ in 0..LOOKS {
        ground.is_empty("the end")?;
    }
    ensure!(report.swept > 0, "no link was found: {report:?}");
    Ok(())
}

pub(super) async fn after_a_crash(ground: Arc<Ground>) -> Finding {
    let (launched, _) = ground.launch_family().await?;
    launched.process.signal(libc::SIGKILL)?;
    timeout(PATIENCE, launched.process.exited()).await?;
    let report = launched.end(Duration::ZERO).await?;
    check_signal(&report, libc::SIGKILL)?;
    ground.has_only("scrubbed", "the end")
}

pub(super) async fn already_gone(ground: Arc<Ground>) -> Finding {
    for grace in [LONG, Duration::ZERO] {
        let launched = ground
            .launch(&Ground::plain("/bin/sh", &["-c", "exit 4"]))
            .await?;
        timeout(PATIENCE, launched.process.exited()).await?;
        let report = launched.end(grace).await?;
        check(&report, EndStep::AlreadyGone)?;
        ensure!(report.outcome == ExitOutcome::Exited(4), "{report:?}");
    }
    Ok(())
}

pub(super) async fn agree(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying(STUBBORN).await?;
    let began = Instant::now();
    let (first, second) = tokio::join!(launched.end(LONG), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        launched.end(SHORT).await
    });
    ensure!(began.elapsed() < LONG / 2, "the shorter grace was not taken");
    let first = first?;
    for other in [
        second?,
        launched.end(LONG).await?,
        launched.end(Duration::ZERO).await?,
    ] {
        let same = format!("{first:?}") == format!("{other:?}");
        ensure!(same, "one says {first:?}, another {other:?}");
    }
    check(&first, EndStep::Kill)
}

pub(super) async fn goes_on(ground: Arc<Ground>) -> Finding {
    let done = ground.marks.path("done");
    let leave = format!(
        "leave() {{ until [ -e {} ]; do sleep 0.01; done; echo > {}; exit; }}; trap leave TERM",
        ground.marks.word("go"),
        ground.marks.word("done")
    );
    for (before, grace) in [(leave.as_str(), LONG), (STUBBORN, SHORT)] {
        let launched = ground.launch_staying(before).await?;
        let began = Instant::now();
        let waiting = timeout(Duration::from_millis(20), launched.process.end(grace)).await;
        ensure!(
            waiting.is_err(),
            "it had {grace:?}, and ended at once: {waiting:?}"
        );
        // Also without a handle: the grace was asked for, and is kept.
        drop(launched);
        ground.marks.write("go", "")?;
        ground.becomes_empty("an end that nobody waits for").await?;
        let took = began.elapsed();
        ensure!(done.exists(), "killed after {took:?}, in the midst of its grace");
        let is_late = before != STUBBORN || took >= SHORT;
        ensure!(is_late, "killed after {took:?} in place of {SHORT:?}");
    }
    Ok(())
}

pub(super) async fn at_the_gate(ground: Arc<Ground>) -> Finding {
    let process = ground.launcher.launch(&ground.spec(&ground.staying(""))).await?;
    let report = timeout(LONG, process.end(SHORT)).await?;
    ensure!(report.is_complete(), "{report:?}");
    ground.is_empty("the end")
}
