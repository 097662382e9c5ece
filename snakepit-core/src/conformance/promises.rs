//! What backends differ in.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    evidence::{Evidence, ensure},
    ground::{Ground, LONG, eventually},
    report::Verdict,
};

/// A program that runs at all has run after this long, on a machine that is very busy too.
const RUNS_WITHIN: Duration = Duration::from_secs(1);

/// Whether a program that knows nothing of us does nothing before its gate is opened.
pub(super) async fn gate(ground: Arc<Ground>) -> Result<Verdict, Evidence> {
    let ran = ground.marks.path("ran");
    let script = format!("echo > {}; {}", ground.marks.word("ran"), ground.staying(""));
    let process = ground.launcher.launch(&ground.spec(&script)).await?;
    let began = Instant::now();
    while !ran.exists() && began.elapsed() < RUNS_WITHIN {
        sleep(Duration::from_millis(1)).await;
    }
    let held = !ran.exists();
    if held {
        timeout(LONG, process.end(Duration::ZERO)).await?;
        ground.is_empty("an end at the gate")?;
        // Whether or not that is an error.
        let _ = process.open_gate().await;
        ensure!(!ran.exists(), "a program that was ended at its gate has run");
        // A dropped one neither.
        drop(ground.launcher.launch(&ground.spec(&script)).await?);
        ground.becomes_empty("a drop at the gate").await?;
        ensure!(!ran.exists(), "a program that was dropped at its gate has run");
    } else {
        timeout(LONG, process.end(Duration::ZERO)).await?;
        std::fs::remove_file(&ran)?;
    }
    let launched = ground.launch(&ground.spec(&script)).await?;
    eventually("an open gate does not let it run", || Ok(ran.exists())).await?;
    launched.process.open_gate().await?;
    launched.end(LONG).await?;
    Ok(if held {
        Verdict::Passed(String::new())
    } else {
        Verdict::NotPromised("it runs from the moment it is created".into())
    })
}
