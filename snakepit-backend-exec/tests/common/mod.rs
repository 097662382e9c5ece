//! Launching the fixtures, at whatever level this run of the tests is for, and seeing what is left of them.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test file uses a part of it"
)]

pub mod delegated;

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_core::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    process::{ContainmentLevel, Pidfd, ProcessIdentity, descendants},
};

/// Long enough that only a hang exceeds it.
pub const LONG: Duration = Duration::from_secs(60);

/// The user that owns nothing.
pub const NOBODY: u32 = 65534;

/// Which level the tests of this process are for; the strongest where it is not set.
const LEVEL: &str = "EXEC_TEST_LEVEL";

/// The levels by the names that the variable has.
pub const LEVELS: [&str; 4] = ["namespace", "shared", "cgroup", "subreaper"];

/// The cgroup that was delegated to the tests of this process.
const DELEGATED: &str = "EXEC_TEST_CGROUP";

/// Settings for the level that the tests of this process are for.
pub fn settings() -> ExecSettings {
    let settings = match std::env::var_os(DELEGATED) {
        Some(parent) => ExecSettings::default().with_cgroup_parent(parent),
        None => ExecSettings::default(),
    };
    match std::env::var(LEVEL).as_deref() {
        Err(_) => settings,
        Ok("shared") => settings
            .with_containment(ContainmentLevel::Namespace)
            .with_shared_namespace(true),
        Ok(level) => settings.with_containment(level.parse().expect("a level")),
    }
}

/// The level that the tests of this process are for.
pub fn level() -> String {
    std::env::var(LEVEL).unwrap_or_else(|_| "namespace".to_owned())
}

/// Whether this process was started by [`at_every_level`].
pub fn is_run_for_a_level() -> bool {
    std::env::var(LEVEL).is_ok()
}

/// How many processes of a guardian belong to nobody yet: the keeper that was made ahead, the process that becomes the next
/// worker if that is not to be born into a cgroup, and the first process of a shared namespace.
pub fn processes_made_ahead() -> usize {
    match level().as_str() {
        "cgroup" => 1,
        "shared" => 3,
        _ => 2,
    }
}

pub fn level_has_namespace() -> bool {
    matches!(level().as_str(), "namespace" | "shared")
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs the tests of this program again for each level that there is here, as we are and as a user without
/// privileges. Does nothing in such a run.
pub async fn at_every_level(this_test: &str) {
    if std::env::var(LEVEL).is_ok() {
        return;
    }
    let program = std::env::current_exe().expect("a path");
    let mut users = vec![None];
    if is_root() {
        users.push(Some(NOBODY));
    }
    for user in users {
        let delegated = user.and_then(delegated::Delegated::to);
        let again = |level| again(&program, level, user, delegated.as_ref());
        for level in LEVELS {
            // Whether the level is there is asked in such a process, as it is about the user.
            let mut asking = again(level);
            let asked = asking.args(["--exact", "--ignored", "is_available"]).output();
            let asked = asked.expect("setpriv is installed");
            let text = String::from_utf8_lossy(&asked.stdout).into_owned();
            if !asked.status.success() {
                eprintln!("SKIPPED: level {level} for {user:?}: {text}");
                assert!(
                    (level == "cgroup" && delegated.as_ref().is_none_or(|one| !one.is_enough()))
                        || (user.is_none() && !is_root()),
                    "{level} for {user:?}: {text}"
                );
                continue;
            }
            let mut running = again(level);
            let ran = running
                .args(["--skip", this_test])
                .output()
                .expect("it ran before");
            assert!(
                ran.status.success(),
                "level {level} for {user:?}:\n{}\n{}",
                String::from_utf8_lossy(&ran.stdout),
                String::from_utf8_lossy(&ran.stderr)
            );
        }
    }
}

fn again(
    program: &Path,
    level: &str,
    user: Option<u32>,
    delegated: Option<&delegated::Delegated>,
) -> Command {
    let mut command = delegated.map_or_else(|| Command::new("env"), delegated::Delegated::command);
    if let Some(user) = user {
        command.args([
            "setpriv",
            &format!("--reuid={user}"),
            &format!("--regid={user}"),
            "--clear-groups",
        ]);
        command.env("TMPDIR", "/tmp");
    }
    command.arg(program).env(LEVEL, level);
    if let Some(delegated) = delegated {
        command.env(DELEGATED, delegated.path());
    }
    command
}

/// Whether the level of this process is there; for [`at_every_level`].
pub async fn is_available() {
    if let Err(error) = ExecLauncher::new(settings()).ready().await {
        panic!(
            "{error}: {:?}",
            std::error::Error::source(&error).map(ToString::to_string)
        );
    }
}

/// The two tests by which a file is run at every level.
#[macro_export]
macro_rules! at_every_level {
    () => {
        #[tokio::test]
        async fn also_at_every_other_level_and_without_privileges() {
            common::at_every_level("also_at_every_other_level_and_without_privileges").await;
        }

        #[tokio::test]
        #[ignore = "run by the other tests of this file, to see what there is"]
        async fn is_available() {
            common::is_available().await;
        }
    };
}

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
    pub launcher: ExecLauncher,
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

    pub fn names(&self) -> Vec<&str> {
        self.named.iter().map(|(name, _)| name.as_str()).collect()
    }

    pub fn guardian(&self) -> Pidfd {
        Pidfd::open(self.launcher.guardian_pid().expect("it lives")).expect("it lives")
    }

    pub fn keeper(&self) -> Pidfd {
        let keeper = self.process().containment().keeper.expect("each has one");
        keeper.open().expect("/proc is readable").expect("it lives")
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
    launch_spec(&spec(line)).await
}

pub async fn launch_spec(spec: &LaunchSpec) -> Launched {
    launch_with(&ExecLauncher::new(settings()), spec).await
}

pub async fn launch_with(launcher: &ExecLauncher, spec: &LaunchSpec) -> Launched {
    let process = launcher.launch(spec).await.expect("it starts");
    // What names itself is looked for before it can end: a worker's own numbers are not ours.
    let keeper = process.containment().keeper.expect("each has one");
    let keeper = keeper.open().expect("/proc is readable").expect("it lives");
    let mut io = process.take_io();
    process.open_gate().await.expect("it executes");
    let stdout = io.stdout.take().expect("a pipe");
    let read = tokio::task::spawn_blocking(move || read_until_ready(File::from(stdout)));
    let (lines, stdout) = tokio::time::timeout(LONG, read)
        .await
        .expect("it gets ready")
        .expect("no panic");
    io.stdout = Some(stdout.into());
    let named = identify(&keeper, &lines).await;
    Launched {
        launcher: launcher.clone(),
        process: Some(process),
        io,
        lines,
        named,
    }
}

/// Who the named are. One that has ended already has no identity, and needs none; one that is just being orphaned
/// is found by the next look.
async fn identify(keeper: &Pidfd, lines: &[String]) -> Vec<(String, ProcessIdentity)> {
    let named: Vec<(&str, u32)> = lines
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter(|(name, _)| matches!(*name, "leader" | "member" | "daemon"))
        .filter_map(|(name, pid)| Some((name, pid.parse().ok()?)))
        .collect();
    let mut hosts = HashMap::new();
    for _ in 0..20 {
        hosts.extend(numbers(keeper));
        if named.iter().all(|(_, pid)| hosts.contains_key(pid)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let found = named.iter();
    found
        .filter_map(|(name, pid)| Some(((*name).to_owned(), hosts.get(pid)?.clone())))
        .collect()
}

/// Who a keeper's processes are, by the number they know themselves by.
pub fn numbers(keeper: &Pidfd) -> HashMap<u32, ProcessIdentity> {
    // One that ends in the midst of being looked at makes the look fail.
    let members = descendants(keeper).unwrap_or_default();
    let named = members.iter().filter_map(|member| {
        let status = std::fs::read_to_string(format!("/proc/{}/status", member.stat.pid)).ok()?;
        let own = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let own = own.split_whitespace().last()?.parse().ok()?;
        Some((own, member.identity().ok()?))
    });
    named.collect()
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

/// The values of lines that begin with this word.
pub fn values<'a>(lines: &'a [String], word: &str) -> Vec<&'a str> {
    let found = lines.iter().filter_map(|line| line.split_once(' '));
    found
        .filter(|(first, _)| *first == word)
        .map(|(_, rest)| rest)
        .collect()
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
