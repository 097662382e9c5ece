//! Whether each setting of [`LaunchLimits`] is honoured or refused by name, and never ignored.

use std::{path::Path, sync::Arc};

use rustix::process::{geteuid, getpriority_process};

use super::{
    evidence::{Evidence, ensure},
    ground::{Ground, LONG},
    report::Verdict,
};
use crate::{
    launch::{LaunchError, LaunchLimits, LaunchedProcess, ResourceLimit},
    process::{ContainmentLevel, cgroup},
};

/// `nobody` on most systems; need not exist.
const NOBODY: u32 = 65_534;
/// `RLIMIT_CORE` on every architecture: `asm-generic/resource.h`.
const RLIMIT_CORE: u32 = 4;

/// What shows whether a setting is in force.
enum Shown {
    /// The fixture prints this file of its own, and a line of it has these words in this order.
    InFile(&'static str, Vec<String>),
    /// The fixture's niceness.
    AsNiceness(i32),
    /// This file of its cgroup has this text.
    InCgroup(&'static str, &'static str),
}

/// A setting and how it is checked.
struct Setting {
    limits: LaunchLimits,
    shown: Shown,
    /// Why it cannot be checked here.
    hindrance: Option<String>,
}

/// The settings by name, as [`LaunchLimits::named`] names them.
pub(super) const NAMES: [&str; 9] = [
    "uid",
    "gid",
    "groups",
    "nice",
    "rlimits",
    "oom_score_adj",
    "memory_bytes",
    "pids",
    "cpu_cores",
];

fn setting(name: &str) -> Result<Setting, Evidence> {
    let none = LaunchLimits::default();
    let line = |file, first: &str, rest: &[u32]| {
        let words = rest.iter().map(u32::to_string);
        Shown::InFile(file, [first.to_owned()].into_iter().chain(words).collect())
    };
    let needs_root = || (!geteuid().is_root()).then(|| "takes root".to_owned());
    let needs_controller = |name| controller(name);
    let (limits, shown, hindrance) = match name {
        "uid" => (
            none.with_uid(NOBODY),
            line("status", "Uid:", &[NOBODY; 4]),
            needs_root(),
        ),
        "gid" => (
            none.with_gid(NOBODY),
            line("status", "Gid:", &[NOBODY; 4]),
            needs_root(),
        ),
        "groups" => {
            let groups = [NOBODY - 1, NOBODY];
            (
                none.with_groups(groups),
                line("status", "Groups:", &groups),
                needs_root(),
            )
        }
        "nice" => {
            let nice = (getpriority_process(None)? + 3).min(19);
            (none.with_nice(nice), Shown::AsNiceness(nice), None)
        }
        "rlimits" => {
            let limit = ResourceLimit {
                resource: RLIMIT_CORE,
                soft: 0,
                hard: 0,
            };
            let words = ["Max", "core", "file", "size", "0", "0", "bytes"].map(str::to_owned);
            (
                none.with_rlimit(limit),
                Shown::InFile("limits", words.to_vec()),
                None,
            )
        }
        "oom_score_adj" => {
            let own = std::fs::read_to_string("/proc/self/oom_score_adj")?
                .trim()
                .parse::<i32>()?;
            let adj = (own + 10).min(1000);
            let shown = Shown::InFile("oom_score_adj", vec![adj.to_string()]);
            (none.with_oom_score_adj(adj), shown, None)
        }
        "memory_bytes" => {
            let shown = Shown::InCgroup("memory.max", "268435456");
            (
                none.with_memory_bytes(256 << 20),
                shown,
                needs_controller("memory")?,
            )
        }
        "pids" => (
            none.with_pids(64),
            Shown::InCgroup("pids.max", "64"),
            needs_controller("pids")?,
        ),
        "cpu_cores" => (
            none.with_cpu_cores(0.5),
            Shown::InCgroup("cpu.max", "50000 100000"),
            needs_controller("cpu")?,
        ),
        other => return Err(Evidence(format!("there is no setting `{other}`"))),
    };
    Ok(Setting {
        limits,
        shown,
        hindrance,
    })
}

/// Why nobody can set a limit of this controller here.
fn controller(name: &str) -> Result<Option<String>, Evidence> {
    let Some(mount) = cgroup::mount_point()? else {
        return Ok(Some("takes cgroup v2".to_owned()));
    };
    let offered = std::fs::read_to_string(mount.join("cgroup.controllers"))?;
    let is_offered = offered.split_whitespace().any(|offered| offered == name);
    Ok((!is_offered).then(|| format!("takes the {name} controller in cgroup v2")))
}

/// Whether this launcher honours this setting.
pub(super) async fn measure(ground: Arc<Ground>, name: &'static str) -> Result<Verdict, Evidence> {
    let Setting {
        limits,
        shown,
        hindrance,
    } = setting(name)?;
    let file = match &shown {
        Shown::InFile(file, _) => file,
        Shown::AsNiceness(_) => "stat",
        Shown::InCgroup(..) => "cgroup",
    };
    let lines = format!("cat /proc/self/{file}; echo ready; {}", ground.marks.stay());
    let mut spec = ground.spec(&lines);
    spec.limits = limits;
    match ground.launch_or_refusal(&spec).await? {
        Err(LaunchError::Unsupported { setting, .. }) => {
            ensure!(setting == name, "{name} is refused as `{setting}`");
            ground.leaves_no_worker(&spec, "the refusal").await?;
            ground.is_empty("the refusal")?;
            Ok(match hindrance {
                // One that contains nothing could not do it elsewhere either.
                Some(why) if ground.contains_something().await? => Verdict::Skipped(why),
                _ => Verdict::NotPromised("refused".into()),
            })
        }
        Err(error) => match hindrance {
            Some(why) => Ok(Verdict::Skipped(why)),
            None => Err(error.into()),
        },
        Ok(mut launched) => {
            let mut printed = Vec::new();
            loop {
                match launched.line().await?.as_str() {
                    "ready" => break,
                    "" => return Err(Evidence(format!("the fixture ended after {printed:?}"))),
                    line => printed.push(line.to_owned()),
                }
            }
            check(&shown, &printed, &*launched.process)?;
            launched.end(LONG).await?;
            Ok(Verdict::Passed(String::new()))
        }
    }
}

fn check(shown: &Shown, printed: &[String], process: &dyn LaunchedProcess) -> Result<(), Evidence> {
    match shown {
        Shown::InFile(_, words) => {
            let is_there = printed
                .iter()
                .any(|line| line.split_whitespace().eq(words.iter().map(String::as_str)));
            ensure!(is_there, "accepted and ignored: no line {words:?} in {printed:?}");
        }
        Shown::AsNiceness(nice) => {
            // Field 19 of proc_pid_stat(5), 17 fields after the name.
            let (_, fields) = printed
                .first()
                .and_then(|line| line.rsplit_once(')'))
                .unwrap_or_default();
            let found = fields
                .split_whitespace()
                .nth(16)
                .and_then(|field| field.parse::<i32>().ok());
            ensure!(
                found == Some(*nice),
                "accepted and ignored: its niceness is {found:?}, not {nice}"
            );
        }
        Shown::InCgroup(file, text) => {
            let cgroup = process.containment().cgroup;
            let cgroup = cgroup.ok_or_else(|| Evidence("accepted, and no cgroup is told".into()))?;
            let found = read_trimmed(&cgroup.join(file))?;
            ensure!(
                found == *text,
                "accepted and ignored: {file} is `{found}`, not `{text}`"
            );
        }
    }
    Ok(())
}

fn read_trimmed(path: &Path) -> Result<String, Evidence> {
    Ok(std::fs::read_to_string(path)?.trim().to_owned())
}

impl Ground {
    /// Launches, with the launcher's refusal kept apart from everything else that can go wrong.
    async fn launch_or_refusal(
        &self,
        spec: &crate::launch::LaunchSpec,
    ) -> Result<Result<super::ground::Launched, LaunchError>, Evidence> {
        match self.launcher.launch(spec).await {
            Ok(process) => Ok(Ok(Self::past_the_gate(process).await?)),
            Err(error) => Ok(Err(error)),
        }
    }

    /// Whether the launcher keeps processes together by more than their group.
    async fn contains_something(&self) -> Result<bool, Evidence> {
        let launched = self.launch_staying("").await?;
        let level = launched.process.containment().level;
        launched.end(LONG).await?;
        Ok(level != ContainmentLevel::None)
    }
}
