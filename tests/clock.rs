//! The wall clock is set, far forward and far back, while a host and its workers are at work: no time of ours is counted by it.
//!
//! The test starts itself again as the host, with a library before libc that answers for the wall clock; workers inherit it. So
//! nothing but those processes sees the steps. What waits in the kernel by the wall clock is not stepped by that; nothing of ours
//! does, and `clippy.toml` bans what would measure by it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{
    ffi::OsString,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use common::{PATIENCE, builder, fixtures, until, worker_pid};
use snakepit::{CallError, CallErrorKind, EventKind, Pool, Shutdown, Value, core::worker::Heartbeat};
use tokio::{
    process::Command,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

const FILE: &str = "STEPS_CLOCK_BY";
const DAY: i64 = 24 * 60 * 60;
const DEADLINE: Duration = Duration::from_secs(4);

/// Builds the library; `None` where there is no compiler.
async fn library(dir: &Path) -> Option<PathBuf> {
    let library = dir.join("steps_clock.so");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(fixtures().join("steps_clock.c"))
        .arg("-ldl")
        .status()
        .await;
    match compiled {
        Ok(status) => {
            assert!(status.success(), "it does not compile");
            Some(library)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_step_of_the_wall_clock_changes_no_deadline_and_no_pause() {
    let dir = tempfile::tempdir().unwrap();
    let Some(library) = library(dir.path()).await else {
        eprintln!("not tried: there is no C compiler `cc`");
        return;
    };
    let steps = dir.path().join("steps");
    std::fs::write(&steps, 0_i64.to_ne_bytes()).unwrap();
    let host = Command::new(std::env::current_exe().unwrap())
        .args([
            "the_host_whose_clock_is_set",
            "--exact",
            "--ignored",
            "--nocapture",
        ])
        .env("LD_PRELOAD", OsString::from(library))
        .env(FILE, steps)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    // Longer than the host's own limits together: it should be the one that says what is wrong.
    let host = timeout(5 * PATIENCE, host)
        .await
        .expect("the host does not end")
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&host.stdout),
        String::from_utf8_lossy(&host.stderr)
    );
    assert!(host.status.success() && said.contains("1 passed"), "{said}");
}

/// The wall clock of this process and its workers.
struct Clock(std::fs::File);

impl Clock {
    fn open() -> Self {
        let path = std::env::var_os(FILE).expect("only the test above starts this");
        Self(std::fs::OpenOptions::new().write(true).open(path).unwrap())
    }

    /// Sets it to so many seconds from the true time.
    fn set(&self, seconds: i64) {
        self.0.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

/// The wall clock before and after a call slept, and what was left of its time then.
type Around = Result<(f64, f64, Option<f64>), CallError>;

fn start_call(pool: &Pool, seconds: f64) -> JoinHandle<Around> {
    let pool = pool.clone();
    tokio::spawn(async move {
        let request = pool.request("clocks:wall_around").args(&(seconds,))?;
        request.deadline(PATIENCE).send().await
    })
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the test above starts it, with a clock of its own"]
async fn the_host_whose_clock_is_set() {
    let clock = Clock::open();
    let heartbeat = Heartbeat {
        interval: Duration::from_millis(50),
        stuck_after: PATIENCE / 2,
    };
    let pool = builder()
        .heartbeat(heartbeat)
        .max_age(Duration::from_secs(3600))
        .shutdown(Shutdown {
            drain: DEADLINE / 4,
            grace: DEADLINE / 4,
        })
        .start()
        .await
        .unwrap();
    let pid = worker_pid(&pool).await;
    let mut events = pool.events();

    for step in [DAY, -DAY] {
        // It is set: for this process, and for the worker.
        let before = SystemTime::now();
        clock.set(step);
        let moved = match SystemTime::now().duration_since(before) {
            Ok(forward) => i64::try_from(forward.as_secs()).unwrap(),
            Err(back) => -i64::try_from(back.duration().as_secs()).unwrap(),
        };
        assert!((moved - step).abs() < 3600, "{moved}");
        clock.set(0);

        // A call that has time goes on: a step forward is no deadline that has passed.
        let call = start_call(&pool, 1.0);
        until("it runs", async || pool.status().await.busy == 1).await;
        sleep(Duration::from_millis(300)).await;
        clock.set(step);
        let (began, ended, left) = call.await.unwrap().unwrap();
        assert!(
            (ended - began - step as f64).abs() < 3600.0,
            "the worker sees it: {began} {ended}"
        );
        let left = left.unwrap();
        assert!((1.0..PATIENCE.as_secs_f64()).contains(&left), "{left}");
        clock.set(0);

        // One that has none left is ended: a step back is no time that was won.
        let began = Instant::now();
        let overdue = tokio::spawn({
            let pool = pool.clone();
            async move {
                let request = pool.request("slow:sleep").args(&(60,))?;
                request.deadline(DEADLINE).send::<Value>().await
            }
        });
        until("it runs", async || pool.status().await.busy == 1).await;
        let queued = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.request("slow:pid")
                    .queue_timeout(DEADLINE / 2)
                    .send::<Value>()
                    .await
            }
        });
        until("the other one waits", async || {
            pool.status().await.queued == 1 || queued.is_finished()
        })
        .await;
        clock.set(step);
        let error = queued.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::QueueTimeout, "{error}");
        let error = overdue.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::DeadlineExceeded, "{error}");
        assert!(
            (DEADLINE..PATIENCE).contains(&began.elapsed()),
            "{:?}",
            began.elapsed()
        );

        // Neither its age nor its heartbeat was misjudged.
        sleep(10 * heartbeat.interval).await;
        assert_eq!(pool.call::<_, u32>("slow:pid", ()).await.unwrap(), pid);
        clock.set(0);
    }
    while let Ok(event) = events.try_recv() {
        let misjudged = matches!(
            event.kind,
            EventKind::WorkerDown { .. } | EventKind::ReplacementStarted { .. }
        );
        assert!(!misjudged, "{event:?}");
    }

    // Nor are the times of an end.
    let deaf = tokio::spawn({
        let pool = pool.clone();
        async move { pool.call::<_, Value>("slow:deaf", (60,)).await }
    });
    until("it runs", async || pool.status().await.busy == 1).await;
    let began = Instant::now();
    let end = tokio::spawn({
        let pool = pool.clone();
        async move { pool.shutdown().await }
    });
    clock.set(-DAY);
    timeout(PATIENCE, end).await.unwrap().unwrap();
    assert!(began.elapsed() >= DEADLINE / 4, "the call had its time");
    assert_eq!(deaf.await.unwrap().unwrap_err().kind(), CallErrorKind::WorkerLost);
}
