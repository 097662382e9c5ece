//! What a program is given by each backend, and what it does to its host: exact output, signals, a missing interpreter,
//! talk without end.

use std::{io::Read as _, sync::Arc, time::Duration};

use serde_json::json;
use snakepit::{
    Pool,
    core::{
        RunId, WorkerId,
        launch::{ChannelForm, LaunchError, LaunchLimits, LaunchSpec, LaunchedProcess},
        ledger::{Ledger as _, MemoryLedger},
        process::{ContainmentLevel, ExitOutcome},
        rpc::error_chain,
    },
};
use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use tokio::time::Instant;

use crate::{
    at_each_step::python,
    common::{PATIENCE, fixtures},
    contender::{Contender, contenders, own_contenders},
    orders::{Command, Orders},
    round::{Round, state_dir},
};

fn spec(words: &[&str]) -> LaunchSpec {
    LaunchSpec {
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
        program: words[0].into(),
        args: words[1..].iter().map(Into::into).collect(),
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    }
}

async fn launch(contender: &Contender, words: &[&str]) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
    let process = contender
        .launcher(Arc::new(MemoryLedger::new()))
        .launch(&spec(words))
        .await?;
    match process.open_gate().await {
        Ok(()) => Ok(process),
        Err(error) => {
            process.end(Duration::ZERO).await;
            Err(error)
        }
    }
}

/// Runs a program to its end and returns all it wrote to standard output.
async fn output(contender: &Contender, words: &[&str]) -> Vec<u8> {
    let process = launch(contender, words).await.unwrap();
    let mut stdout = std::fs::File::from(process.take_io().stdout.unwrap());
    let read = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        stdout.read_to_end(&mut all).unwrap();
        all
    });
    let all = tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(process.exited().await, ExitOutcome::Exited(0));
    process.end(Duration::ZERO).await;
    all
}

fn script(name: &str) -> String {
    fixtures().join(name).to_str().unwrap().to_owned()
}

/// S14. No cgroup can be made below `/proc`, so that there is no guardian for this level.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_guardian_no_worker_starts_and_nothing_is_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("it-ran");
    let settings = ExecSettings::default()
        .with_containment(ContainmentLevel::Cgroup)
        .with_cgroup_parent("/proc");
    let ledger = Arc::new(MemoryLedger::new());
    let started = Pool::builder()
        .workers(2)
        .program("/bin/sh", ["-c", &format!("echo > {}", trace.display())])
        .launcher(Arc::new(ExecLauncher::new(settings)))
        .ledger(ledger.clone())
        .start()
        .await;
    let error = error_chain(&started.unwrap_err());
    assert!(
        error.contains("containment level `cgroup` is not available here"),
        "{error}"
    );
    assert!(!trace.exists(), "a worker ran without a guardian");
    assert!(ledger.rows().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_that_a_program_prints_arrives_once() {
    for contender in own_contenders() {
        for size in [0, 1, 65_536, 3_000_001] {
            let words = [
                python(),
                "-I",
                "-S",
                &script("prints_a_lot.py"),
                &size.to_string(),
            ];
            let all = output(&contender, &words).await;
            let expected: Vec<u8> = (0..size).map(|n: usize| (n % 251) as u8).collect();
            assert!(all == expected, "{contender}: {} of {size} bytes", all.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_begins_with_no_signal_blocked_and_none_ignored_but_what_its_host_ignores() {
    let mask = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap()
    };
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    // Rust's runtime ignores SIGPIPE for itself alone. 32 and 33 are glibc's own, which its posix_spawn(3) ignores.
    let allowed = mask(&own, "SigIgn:") & !(1 << (libc::SIGPIPE - 1)) | 0b11 << 31;
    for contender in own_contenders() {
        let words = ["sh", &script("prints_signals.sh")];
        let text = String::from_utf8(output(&contender, &words).await).unwrap();
        assert_eq!(mask(&text, "SigBlk:"), 0, "{contender}");
        assert_eq!(mask(&text, "SigIgn:") & !allowed, 0, "{contender}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_executed_is_named() {
    for contender in own_contenders() {
        let program = script("fails_to_execute");
        match launch(&contender, &[&program]).await {
            Err(LaunchError::Exec {
                program: named,
                source,
            }) => {
                assert_eq!(named.to_str(), Some(&*program), "{contender}");
                assert_eq!(source.raw_os_error(), Some(libc::ENOENT), "{contender}: {source}");
            }
            other => panic!("{contender}: {other:?}"),
        }
    }
}

/// What talks all the time on the worker's own standard output and error holds up neither the pool nor its end.
#[test]
fn a_child_that_never_stops_talking_holds_up_nobody() {
    for contender in contenders() {
        for host_dies in [false, true] {
            let mut orders = Orders::new(&contender);
            orders.workers = 1;
            let _dir = state_dir(&mut orders);
            let mut round = Round::start(&orders);
            round.wait_ready();
            round.call("starts:start_talking", vec![json!("chatty.py")]);
            for n in 0..20 {
                assert_eq!(
                    round.call("slow:echo_after", vec![json!(n), json!(0.005)]),
                    json!(n)
                );
            }
            if host_dies {
                round.kill_host();
            } else {
                round.tell(&Command::Shutdown);
                round.wait_for("done");
            }
            round.must_end(Instant::now(), &contender.to_string());
        }
    }
}
