//! How the end of a process is told.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    conformance::{
        evidence::{Evidence, Finding, ensure},
        ground::{Ground, LONG, PATIENCE, eventually},
    },
    launch::LaunchedProcess,
    process::{EndStep, ExitOutcome, Pidfd, Stat},
};

/// An exit that is told later than this, at the best of several times, is looked for and not told.
const AT_ONCE: Duration = Duration::from_millis(20);
/// How often that is tried: the machine may be busy.
const TRIES: usize = 10;
/// What is taken for an exit by mistake is told within this.
const NOTHING_COMES: Duration = Duration::from_millis(50);

async fn exited(process: &Arc<dyn LaunchedProcess>) -> Result<ExitOutcome, Evidence> {
    Ok(timeout(PATIENCE, process.exited()).await?)
}

pub(super) async fn codes(ground: Arc<Ground>) -> Finding {
    for code in [0, 1, 7, 126, 127, 128, 143, 255] {
        let script = format!("exit {code}");
        let launched = ground.launch(&Ground::plain("/bin/sh", &["-c", &script])).await?;
        let outcome = exited(&launched.process).await?;
        ensure!(outcome == ExitOutcome::Exited(code), "`{script}`: {outcome:?}");
        launched.end(LONG).await?;
    }
    Ok(())
}

pub(super) async fn signals(ground: Arc<Ground>) -> Finding {
    for wanted in [
        libc::SIGKILL,
        libc::SIGTERM,
        libc::SIGABRT,
        libc::SIGSEGV,
        libc::SIGUSR1,
        libc::SIGPIPE,
        libc::SIGRTMIN() + 6,
    ] {
        let script = format!("ulimit -c 0; kill -{wanted} $$");
        let launched = ground.launch(&Ground::plain("/bin/sh", &["-c", &script])).await?;
        let outcome = exited(&launched.process).await?;
        let is_told = matches!(outcome, ExitOutcome::Signaled { signal, .. } if signal == wanted);
        ensure!(is_told, "`{script}`: {outcome:?}");
        launched.end(LONG).await?;
    }
    Ok(())
}

pub(super) async fn waits_agree(ground: Arc<Ground>) -> Finding {
    let mut launched = ground.launch(&ground.spec("read line; exit 7")).await?;
    let process = &launched.process;
    let early = process.try_exited();
    ensure!(early.is_none(), "{early:?} of a process that runs");
    // One that nobody waits for any more takes nothing away from the others.
    let _ = timeout(Duration::from_millis(5), process.exited()).await;
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let process = Arc::clone(process);
            tokio::spawn(async move { process.exited().await })
        })
        .collect();
    tokio::task::yield_now().await;
    drop(launched.channel.take());
    let expected = ExitOutcome::Exited(7);
    for one in waiting {
        let outcome = timeout(PATIENCE, one).await??;
        ensure!(outcome == expected, "one of many waits: {outcome:?}");
    }
    for _ in 0..3 {
        let (again, seen) = (exited(process).await?, process.try_exited());
        ensure!(
            again == expected && seen == Some(expected),
            "again: {again:?} and {seen:?}"
        );
    }
    launched.end(LONG).await?;
    let (again, seen) = (exited(&launched.process).await?, launched.process.try_exited());
    ensure!(
        again == expected && seen == Some(expected),
        "after the end: {again:?} and {seen:?}"
    );
    Ok(())
}

pub(super) async fn told_before_the_tree_is_empty(ground: Arc<Ground>) -> Finding {
    ground.marks.write("obedient", &ground.marks.stay())?;
    let script = format!("/bin/sh {} & exit 9", ground.marks.word("obedient"));
    let launched = ground.launch(&Ground::plain("/bin/sh", &["-c", &script])).await?;
    let outcome = exited(&launched.process).await?;
    ensure!(outcome == ExitOutcome::Exited(9), "{outcome:?}");
    // The child that is left is asked, as every other one.
    let report = launched.end(LONG).await?;
    let is_right = report.outcome == outcome && report.step == EndStep::Term;
    ensure!(is_right, "its end says {report:?}");
    ground.is_empty("the end")
}

pub(super) async fn told_at_once(ground: Arc<Ground>) -> Finding {
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let launched = ground.launch_staying("").await?;
        let process = &launched.process;
        let killing = async { process.signal(libc::SIGKILL).map(|()| Instant::now()) };
        // Whoever looks has looked before it is killed.
        let (outcome, killed) = tokio::join!(biased; exited(process), killing);
        outcome?;
        best = best.min(killed?.elapsed());
        launched.end(LONG).await?;
    }
    ensure!(best < AT_ONCE, "at best it is told after {best:?}");
    Ok(())
}

pub(super) async fn reaped(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch(&Ground::plain("true", &[])).await?;
    let identity = launched.process.identity();
    // Before Linux 6.9 a zombie may hold the number of its group until its end.
    if !Pidfd::open(std::process::id())?.can_signal_groups() {
        launched.end(LONG).await?;
    }
    let is_reaped =
        || Ok(Stat::read(identity.pid).map_or(true, |stat| stat.start_ticks != identity.start_ticks));
    eventually("a zombie stays", is_reaped).await?;
    launched.end(LONG).await?;
    Ok(())
}

pub(super) async fn no_descriptors(ground: Arc<Ground>) -> Finding {
    let stay = ground.marks.stay();
    let lines = format!("exec 3>&1 >&- 2>&- <&-; echo ready >&3; exec 3>&-\n{stay}");
    let mut launched = ground.launch(&ground.spec(&lines)).await?;
    launched.until_ready().await?;
    // It ends when the last descriptor is closed.
    launched.output().await?;
    let outcome = timeout(NOTHING_COMES, launched.process.exited()).await;
    ensure!(outcome.is_err(), "{outcome:?} of a process that runs");
    let report = launched.end(LONG).await?;
    ensure!(report.step == EndStep::Term, "its end says {report:?}");
    Ok(())
}

pub(super) async fn signal_arrives(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch_staying("trap 'exit 10' USR1").await?;
    launched.process.signal(libc::SIGUSR1)?;
    let outcome = exited(&launched.process).await?;
    ensure!(outcome == ExitOutcome::Exited(10), "{outcome:?}");
    launched.end(LONG).await?;
    Ok(())
}

pub(super) async fn signal_after_the_end(ground: Arc<Ground>) -> Finding {
    let launched = ground.launch(&Ground::plain("true", &[])).await?;
    exited(&launched.process).await?;
    launched.process.signal(libc::SIGTERM)?;
    launched.end(LONG).await?;
    launched.process.signal(libc::SIGKILL)?;
    Ok(())
}
