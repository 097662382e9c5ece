//! Hosts in processes of their own: each is this very test program, run as one.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a test that cannot go on has failed"
)]

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use snakepit_backend_port::PortLauncher;
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher, env as tags},
    ledger::{Ledger, Row},
    process::{Pidfd, ProcessIdentity, sweep::tagged},
};
use snakepit_registry::{
    Policy, Registry, Settings,
    cleanup::{self, CleanupOptions, Report, RunReport, RunState},
};
use tokio::time::Instant;

/// How long a condition may take on a machine that is busy. A bound, not an expectation.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A worker that nothing but a signal ends, with a daemon of its own.
pub const TREE: &str = "setsid sleep 600 & exec sleep 600";
/// One without.
pub const SLEEP: &str = "exec sleep 600";

/// A state directory of its own for a test, and an application that no other test has.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub app: String,
}

impl Scene {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            app: format!("t-{}", RunId::random()),
        }
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn app_dir(&self) -> PathBuf {
        self.state().join(&self.app)
    }

    pub fn settings(&self) -> Settings {
        Settings::new()
            .with_app(self.app.as_str())
            .with_state_dir(self.state())
            .with_policy(Policy::Required)
    }

    pub fn options(&self) -> CleanupOptions {
        CleanupOptions::new(self.state(), self.app.as_str())
    }

    pub async fn cleanup(&self) -> Report {
        cleanup::run(&self.options()).await.unwrap()
    }

    /// A host with a worker for each script.
    pub fn host(&self, scripts: &[&str]) -> Host {
        HostSpec::new(self, scripts).start()
    }

    /// What is in the application's directory.
    pub fn entries(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.app_dir()) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A file that a role of this program reports to.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// How a host is started.
pub struct HostSpec {
    command: Command,
}

impl HostSpec {
    pub fn new(scene: &Scene, scripts: &[&str]) -> Self {
        let mut command = role("host", &[]);
        command
            .env("HOST_STATE", scene.state())
            .env("HOST_APP", &scene.app)
            .env("HOST_SCRIPTS", scripts.join("\n"));
        Self { command }
    }

    /// A further setting of [`host`].
    pub fn with(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it behind another program, as in `unshare --pid`.
    pub fn behind(mut self, program: &[&str]) -> Self {
        let mut outer = Command::new(program[0]);
        outer
            .args(&program[1..])
            .arg(self.command.get_program())
            .args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        self.command = outer;
        self
    }

    pub fn start(mut self) -> Host {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let stdin = child.stdin.take();
        let mut unready = Unready(Some(child));
        let lines = lines_until(&mut stdout, "ready");
        let find = |word: &str| -> Vec<String> {
            let found = lines.iter().filter_map(|line| line.split_once(word));
            found.map(|(_, value)| value.trim().to_owned()).collect()
        };
        let run = find("run ").first().and_then(|id| id.parse().ok());
        let run = run.unwrap_or_else(|| panic!("it did not start: {lines:?}"));
        let workers = find("worker ").iter().map(|pid| pid.parse().unwrap()).collect();
        let pid = find("pid ")[0].parse().unwrap();
        Host {
            pid,
            child: unready.0.take().unwrap(),
            stdin,
            stdout,
            run,
            workers,
            lines,
        }
    }
}

/// A host that is not ready yet, ended if it never is.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may be dead already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn lines_until(stdout: &mut BufReader<ChildStdout>, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line).unwrap() == 0 || line.trim_end().ends_with(last) {
            return lines;
        }
        lines.push(line.trim_end().to_owned());
    }
}

/// This program, as another role.
pub fn role(name: &str, wrapper: &[&str]) -> Command {
    let this = env::current_exe().unwrap();
    let mut command = match wrapper.split_first() {
        Some((program, args)) => {
            let mut command = Command::new(program);
            command.args(args).arg(this);
            command
        }
        None => Command::new(this),
    };
    command.args([
        "--include-ignored",
        "--exact",
        name,
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Runs a role to its end and fails with it.
#[track_caller]
pub fn run_role(name: &str, wrapper: &[&str], settings: &[(&str, &OsStr)]) {
    let mut command = role(name, wrapper);
    command.envs(settings.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name} failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether namespaces can be made here; a test that needs them says that it was skipped where not.
pub fn can_unshare(what: &[&str]) -> bool {
    let tried = Command::new("unshare").args(what).arg("true").output();
    let can = tried.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("SKIPPED: unshare {what:?} is not possible here");
    }
    can
}

/// A host in a process of its own. Everything that carries its run is killed with it.
pub struct Host {
    pub child: Child,
    stdin: Option<ChildStdin>,
    pub stdout: BufReader<ChildStdout>,
    pub run: RunId,
    /// Its pid in its own PID namespace.
    pub pid: u32,
    /// Theirs, likewise.
    pub workers: Vec<u32>,
    pub lines: Vec<String>,
}

impl Host {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end in order.
    #[track_caller]
    pub fn close(&mut self) {
        drop(self.stdin.take());
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.stdout, &mut rest).unwrap();
        assert!(self.child.wait().unwrap().success(), "{rest}");
    }

    /// Says a word to it and returns what it answers.
    pub fn ask(&mut self, word: &str) -> String {
        writeln!(self.stdin.as_mut().unwrap(), "{word}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// The processes that carry its run.
    pub fn family(&self) -> Vec<ProcessIdentity> {
        family(self.run)
    }

    /// Waits until there are this many.
    #[track_caller]
    pub fn await_family(&self, count: usize) -> Vec<ProcessIdentity> {
        eventually("the family is there", || self.family().len() == count);
        self.family()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It may be dead already, which is what most tests are about.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for _ in 0..3 {
            for who in self.family() {
                kill(&who);
            }
        }
    }
}

/// The processes that carry a run.
pub fn family(run: RunId) -> Vec<ProcessIdentity> {
    let all = tagged().unwrap();
    all.into_iter()
        .filter(|process| process.tags.run_id == Some(run))
        .map(|process| process.identity)
        .collect()
}

pub fn kill(who: &ProcessIdentity) {
    if let Ok(Some(pidfd)) = who.open() {
        // It may end by itself meanwhile.
        let _ = pidfd.signal(libc::SIGKILL);
    }
}

pub fn all_alive(family: &[ProcessIdentity]) -> bool {
    family.iter().all(|who| who.is_alive().unwrap())
}

pub fn all_gone(family: &[ProcessIdentity]) -> bool {
    family.iter().all(|who| !who.is_alive().unwrap())
}

/// Waits for a condition.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "{what}: still not so");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The report about one run.
#[track_caller]
pub fn of_run(report: &Report, run: RunId) -> &RunReport {
    let found = report.runs.iter().find(|found| found.run_id == run);
    found.unwrap_or_else(|| panic!("{run} is not in {report:#?}"))
}

/// It was dead, and nothing of it is left.
#[track_caller]
pub fn assert_cleaned(report: &Report, run: RunId) {
    let found = of_run(report, run);
    assert_eq!(found.state, RunState::Dead, "{report:#?}");
    assert!(found.is_done() && report.is_clean(), "{report:#?}");
}

/// What a worker is started with.
pub fn spec(worker_id: WorkerId, script: &str, tag: &str) -> LaunchSpec {
    LaunchSpec {
        run_id: RunId::current(),
        worker_id,
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        env: vec![(tags::APP.into(), tag.into())],
        env_remove: Vec::new(),
        cwd: None,
        channel: ChannelForm::Inherited,
        limits: LaunchLimits::default(),
    }
}

pub fn row(worker_id: WorkerId) -> Row {
    Row::reserved(RunId::current(), worker_id, "/bin/sh", "port", "fd:0")
}

/// Starts a recorded worker as a pool does.
pub async fn start(registry: &Registry, script: &str) -> (WorkerId, Arc<dyn LaunchedProcess>) {
    let worker = WorkerId::next();
    registry.reserve(row(worker)).await.unwrap();
    let spec = spec(worker, script, &registry.settings().tag());
    let process = PortLauncher::new().launch(&spec).await.unwrap();
    let mut identity = process.identity().clone();
    if env::var_os("HOST_NO_HANDLES").is_some() {
        identity.handle = None;
    }
    if let Ok(boot_id) = env::var("HOST_BOOT_ID") {
        identity.boot_id = boot_id;
    }
    let containment = match env::var_os("HOST_CGROUP") {
        Some(cgroup) => {
            let cgroup = Path::new(&cgroup).join(format!("snakepit-{}", RunId::current()));
            let cgroup = cgroup.join(worker.0.to_string());
            fs::create_dir_all(&cgroup).unwrap();
            fs::write(cgroup.join("cgroup.procs"), identity.pid.to_string()).unwrap();
            process.containment().with_cgroup(cgroup)
        }
        None => process.containment(),
    };
    registry.activate(worker, &identity, &containment).await.unwrap();
    (worker, process)
}

/// The role of a host: starts workers, tells who they are, and ends them in order when its standard input ends.
pub fn host(answer: fn(&str, &Arc<Registry>) -> String) {
    let Ok(app) = env::var("HOST_APP") else { return };
    let settings = Settings::new()
        .with_app(app)
        .with_state_dir(env::var_os("HOST_STATE").unwrap());
    let settings = match env::var_os("HOST_BEST_EFFORT") {
        Some(_) => settings,
        None => settings.with_policy(Policy::Required),
    };
    let scripts = env::var("HOST_SCRIPTS").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let resident: usize = env::var("HOST_MIB").map_or(0, |text| text.parse().unwrap());
    let memory = vec![1_u8; resident << 20];
    runtime.block_on(async {
        let registry = Registry::open(&settings).unwrap();
        println!("\nrun {}", registry.run_id());
        println!("pid {}", std::process::id());
        let mut workers = Vec::new();
        for script in scripts.lines() {
            workers.push(start(&registry, script).await);
        }
        for (_, process) in &workers {
            println!("worker {}", process.identity().pid);
        }
        println!("ready");
        let registry = tokio::task::spawn_blocking(move || {
            for line in std::io::stdin().lines() {
                println!("{}", answer(&line.unwrap(), &registry));
            }
            registry
        });
        let registry = registry.await.unwrap();
        for (worker, process) in workers {
            registry.ending(worker).await.unwrap();
            assert!(process.end(Duration::ZERO).await.is_complete());
            registry.release(worker).await.unwrap();
        }
        registry.close().await;
    });
    drop(memory);
}

/// The role of somebody who cleans up, and writes his report to a file.
pub fn cleaner() {
    let (Ok(app), Some(report)) = (env::var("CLEAN_APP"), env::var_os("CLEAN_REPORT")) else {
        return;
    };
    if let Some(go) = env::var_os("CLEAN_WHEN") {
        eventually("it may begin", || Path::new(&go).exists());
    }
    let options = CleanupOptions::new(env::var_os("CLEAN_STATE").unwrap(), app);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let done = runtime.block_on(cleanup::run(&options)).unwrap();
    let part = Path::new(&report).with_extension("part");
    fs::write(&part, serde_json::to_vec(&done).unwrap()).unwrap();
    fs::rename(part, report).unwrap();
}

/// Holds on to a process that lives now.
pub fn hold(pid: u32) -> Pidfd {
    Pidfd::open(pid).unwrap()
}
