//! How the end of a process is told.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    conformance::{
        evidence::{Evidence, Finding, ensure},
        ground::{Ground, LONG, PATIENCE},
    },
    launch::LaunchedProcess,
    process::ExitOutcome,
};

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
        libc::SIGUSR1,
        libc::SIGPIPE,
    ] {
        let script = format!("kill -{wanted} $$");
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
    let script = format!("/bin/sh {} & exit 9", ground.marks.word("child"));
    let launched = ground.launch(&Ground::plain("/bin/sh", &["-c", &script])).await?;
    let outcome = exited(&launched.process).await?;
    ensure!(outcome == ExitOutcome::Exited(9), "{outcome:?}");
    let report = launched.end(Duration::ZERO).await?;
    ensure!(report.outcome == outcome, "its end says {report:?}");
    ground.is_empty("the end")
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
