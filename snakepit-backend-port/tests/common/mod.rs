//! Launching the fixtures, and seeing what is left of them.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses a part of it"
)]

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use snakepit_backend_port::PortLauncher;
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    process::ProcessIdentity,
};

/// Long enough that only a hang exceeds it.
pub const LONG: Duration = Duration::from_secs(60);

pub fn python() -> PathBuf {
    let system = Path::new("/usr/bin/python3");
    if system.exists() {
        system
    } else {
        Path::new("python3")
    }
    .to_owned()
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

/// A spec for a fixture with arguments, as in `"setsid_daemon.py exit"`.
pub fn spec(line: &str) -> LaunchSpec {
    let mut words = line.split(' ');
    let script = fixture(words.next().unwrap_or_default());
    let mut args = vec!["-I".into(), "-S".into(), script.into_os_string()];
    args.extend(words.map(Into::into));
    LaunchSpec {
        run_id: RunId::current(),
        worker_id: WorkerId::next(),
        program: python(),
        args,
        env: Vec::new(),
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    }
}

/// A launched fixture that has said `ready`; what it named is killed when this is dropped.
pub struct Launched {
    pub process: Option<Arc<dyn LaunchedProcess>>,
    pub io: ProcessIo,
    pub lines: Vec<String>,
    /// Who was named, as in `member`.
    pub named: Vec<(String, ProcessIdentity)>,
}

impl Launched {
    pub fn process(&self) -> &dyn LaunchedProcess {
        self.process.as_deref().expect("not dropped yet")
    }

    /// Those of the named that still run, by name.
    pub fn survivors(&self) -> Vec<&str> {
        let alive = self
            .named
            .iter()
            .filter(|(_, who)| who.is_alive().expect("/proc is readable"));
        alive.map(|(name, _)| name.as_str()).collect()
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        for (_, who) in &self.named {
            if let Ok(Some(pidfd)) = who.open() {
                // It may end by itself meanwhile.
                let _ = pidfd.signal(9);
            }
        }
    }
}

/// Launches a fixture and waits until it is ready.
pub async fn launch(line: &str) -> Launched {
    let process = PortLauncher::new().launch(&spec(line)).await.expect("it starts");
    let mut io = process.take_io();
    let stdout = io.stdout.take().expect("a pipe");
    let read = tokio::task::spawn_blocking(move || read_until_ready(File::from(stdout)));
    let (lines, stdout) = tokio::time::timeout(LONG, read)
        .await
        .expect("it gets ready")
        .expect("no panic");
    io.stdout = Some(stdout.into());
    let named = lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| matches!(*name, "leader" | "member" | "daemon"))
        // One that has ended already has no identity, and needs none.
        .filter_map(|(name, pid)| {
            let identity = ProcessIdentity::of_pid(pid.parse().ok()?).ok()?;
            Some((name.to_owned(), identity))
        })
        .collect();
    Launched {
        process: Some(process),
        io,
        lines,
        named,
    }
}

fn read_until_ready(stdout: File) -> (Vec<String>, File) {
    let mut reader = BufReader::new(stdout);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        let len = reader.read_line(&mut line).expect("readable");
        let line = line.trim_end().to_owned();
        if len == 0 || line == "ready" {
            return (lines, reader.into_inner());
        }
        lines.push(line);
    }
}

/// Waits for a condition.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(
        tokio::time::timeout(LONG, waiting).await.is_ok(),
        "{what}: still not so"
    );
}
