//! How a worker ended is known exactly, by everybody who asks.

mod common;

use std::time::Duration;

use common::{LONG, eventually, launch};
use snakepit_core::process::{ExitOutcome, ProcessIdentity};
use tokio::time::Instant;

at_every_level!();

#[tokio::test]
async fn exit_codes_are_exact() {
    for code in [0, 1, 42, 255] {
        let launched = launch(&format!("exits_fast.py {code}")).await;
        assert_eq!(launched.process().exited().await, ExitOutcome::Exited(code));
        launched.process().end(LONG).await;
    }
}

#[tokio::test]
async fn signals_are_exact() {
    // SIGSEGV, SIGABRT, SIGKILL, SIGTERM and a real-time signal.
    for signal in [11, 6, 9, 15, 40] {
        let launched = launch(&format!("signals_itself.py {signal}")).await;
        let expected = ExitOutcome::Signaled {
            signal,
            core_dumped: false,
        };
        assert_eq!(launched.process().exited().await, expected);
        launched.process().end(LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_and_concurrent_waits_agree() {
    let launched = launch("waits.py").await;
    let process = launched.process.clone().unwrap();
    assert_eq!(process.try_exited(), None);
    let waits: Vec<_> = (0..20)
        .map(|_| {
            let process = process.clone();
            tokio::spawn(async move { process.exited().await })
        })
        .collect();
    process.signal(10).unwrap();
    let expected = ExitOutcome::Signaled {
        signal: 10,
        core_dumped: false,
    };
    for wait in waits {
        assert_eq!(wait.await.unwrap(), expected);
    }
    assert_eq!(process.exited().await, expected);
    assert_eq!(process.try_exited(), Some(expected));
}

#[tokio::test]
async fn a_signal_after_the_end_is_no_error() {
    let launched = launch("exits_fast.py 0").await;
    launched.process().exited().await;
    launched.process().signal(15).unwrap();
    launched.process().end(LONG).await;
    launched.process().signal(15).unwrap();
}

#[tokio::test]
async fn a_worker_is_reaped_without_being_asked_for() {
    let launched = launch("exits_fast.py 0").await;
    let identity = launched.process().identity().clone();
    assert_eq!(identity.pgid, identity.pid);
    eventually("no zombie is left", || {
        !ProcessIdentity::of_pid(identity.pid).is_ok_and(|now| now.start_ticks == identity.start_ticks)
    })
    .await;
}

#[tokio::test]
async fn an_exit_is_known_at_once() {
    let (mut best, mut direct) = (LONG, LONG);
    for _ in 0..20 {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let begun = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        direct = direct.min(begun.elapsed());
        let launched = launch("ignores_sigterm.py").await;
        let begun = Instant::now();
        launched.process().signal(9).unwrap();
        launched.process().exited().await;
        best = best.min(begun.elapsed());
    }
    // The best of several, since the machine may be busy; any polling would show in all of them. It may also be slow.
    let bound = Duration::from_millis(5) + 10 * direct;
    assert!(best < bound, "{best:?}, {bound:?}");
}
