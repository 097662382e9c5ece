//! What setting a limit brings along, and why it may be refused. That each is honoured or refused is the suite's.

mod common;

use std::time::Duration;

use common::{LONG, NOBODY, is_root, python, settings, spec, values};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::{
    launch::{LaunchError, LaunchLimits, LaunchSpec, Launcher},
    process::ExitOutcome,
};

at_every_level!();

/// Prints what the system says about it.
const TELL: &str = "import os
print('uid', *os.getresuid())
print('gid', *os.getresgid())
print('groups', *os.getgroups())
print('cgroup', *[line.strip() for line in open('/proc/self/cgroup') if line.startswith('0::')])
print('ready', flush=True)
import sys
sys.stdin.read()
";

fn telling(limits: LaunchLimits) -> LaunchSpec {
    LaunchSpec {
        program: python(),
        args: ["-I", "-S", "-c", TELL].map(Into::into).into(),
        limits,
        ..spec("waits.py")
    }
}

async fn refused(limits: LaunchLimits) -> LaunchError {
    let launcher = ExecLauncher::new(settings());
    match launcher.launch(&telling(limits)).await {
        Err(error) => error,
        Ok(process) => process.open_gate().await.expect_err("it is refused"),
    }
}

#[tokio::test]
async fn another_user_has_none_of_the_hosts_groups() {
    if !is_root() {
        return;
    }
    let limits = LaunchLimits::default().with_uid(NOBODY).with_gid(NOBODY);
    let launched = common::launch_spec(&telling(limits.clone())).await;
    let nobody = format!("{NOBODY} {NOBODY} {NOBODY}");
    assert_eq!(values(&launched.lines, "uid"), [nobody.as_str()]);
    assert_eq!(values(&launched.lines, "gid"), [nobody.as_str()]);
    assert_eq!(values(&launched.lines, "groups"), Vec::<&str>::new());
    // It is another user, and ends as everybody does.
    assert!(launched.process().end(LONG).await.is_complete());

    let launched = common::launch_spec(&telling(limits.with_groups([7, 9]))).await;
    assert_eq!(values(&launched.lines, "groups"), ["7 9"]);
    launched.process().end(LONG).await;
}

#[tokio::test]
async fn a_user_that_cannot_be_had_without_privileges_is_refused_clearly() {
    if is_root() {
        return;
    }
    let launcher = ExecLauncher::new(settings());
    let report = launcher.ready().await.unwrap();
    for (setting, limits) in [
        ("groups", LaunchLimits::default().with_uid(1)),
        ("gid", LaunchLimits::default().with_gid(1)),
        ("groups", LaunchLimits::default().with_groups([1])),
    ] {
        let error = refused(limits).await;
        match error {
            LaunchError::Unavailable {
                setting: named,
                reason,
                ..
            } => {
                assert_eq!(named, setting);
                assert_eq!(
                    reason.contains("user namespace"),
                    report.user_namespace,
                    "{reason}"
                );
                assert!(reason.contains("root"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    let error = refused(LaunchLimits::default().with_nice(-5)).await;
    assert!(error.is_definite());
    assert_eq!(
        error.to_string(),
        "cannot set nice: the host is not privileged to; leave it unset or run the host as root"
    );
}

#[tokio::test]
async fn limits_of_the_tree_are_set_or_refused_with_the_reason() {
    for (setting, limits) in [
        (
            "memory_bytes",
            LaunchLimits::default().with_memory_bytes(512 << 20),
        ),
        ("pids", LaunchLimits::default().with_pids(64)),
        ("cpu_cores", LaunchLimits::default().with_cpu_cores(0.5)),
    ] {
        let launcher = ExecLauncher::new(settings());
        match launcher.launch(&telling(limits)).await {
            Ok(process) => {
                let cgroup = process.containment().cgroup.expect("limits need one");
                process.open_gate().await.unwrap();
                assert!(cgroup.exists());
                assert!(process.end(LONG).await.is_complete());
                common::eventually("the cgroup is removed", || !cgroup.exists()).await;
            }
            Err(LaunchError::Unavailable {
                setting: named,
                reason,
                ..
            }) => {
                assert_eq!(named, setting);
                assert!(reason.contains("cgroup"), "{reason}");
                eprintln!("SKIPPED: {setting}: {reason}");
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

/// Launches a script with limits of its tree, and says what it printed; `None`, and said so, where such a limit cannot be
/// had: then the controller is the reason.
async fn limited(script: &str, limits: LaunchLimits) -> Option<common::Launched> {
    let limited = LaunchSpec {
        args: ["-I", "-S", "-c", script].map(Into::into).into(),
        ..telling(limits)
    };
    let launcher = ExecLauncher::new(settings());
    // The same launch twice: the one that is refused leaves nothing.
    match launcher.launch(&limited).await {
        Ok(process) => {
            process.end(Duration::ZERO).await;
            Some(common::launch_with(&launcher, &limited).await)
        }
        Err(LaunchError::Unavailable { reason, .. }) => {
            assert!(reason.contains("cgroup"), "{reason}");
            eprintln!("SKIPPED: {reason}");
            None
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_tree_that_takes_too_much_memory_is_killed_and_that_is_told() {
    const TAKES_MEMORY: &str = "import sys
print('ready', flush=True)
sys.stdin.read()
taken = [b'x' * (1 << 20) for _ in range(256)]
sys.exit(7)
";
    for (limit, expected) in [
        (1 << 30, ExitOutcome::Exited(7)),
        (64 << 20, ExitOutcome::OutOfMemory),
    ] {
        let limits = LaunchLimits::default().with_memory_bytes(limit);
        let Some(mut launched) = limited(TAKES_MEMORY, limits).await else {
            return;
        };
        let cgroup = launched.process().containment().cgroup.expect("limits need one");
        let swap = cgroup.join("memory.swap.max");
        if swap.exists() {
            std::fs::write(swap, "0").unwrap();
        }
        drop(launched.io.channel.take());
        let outcome = launched.process().exited().await;
        assert_eq!(outcome, expected);
        let report = launched.process().end(LONG).await;
        assert_eq!(report.outcome, expected);
    }
    assert_eq!(
        ExitOutcome::OutOfMemory.to_string(),
        "killed by SIGKILL; its cgroup reports an OOM kill"
    );
}

#[tokio::test]
async fn a_tree_has_as_many_processes_as_it_may_and_no_more() {
    const FORKS: &str = "import os, signal
children = 0
try:
    while children < 100:
        if os.fork() == 0:
            signal.pause()
        children += 1
except BlockingIOError:
    pass
print('processes', 1 + children)
print('ready', flush=True)
signal.pause()
";
    let Some(launched) = limited(FORKS, LaunchLimits::default().with_pids(5)).await else {
        return;
    };
    assert_eq!(values(&launched.lines, "processes"), ["5"]);
    assert!(launched.process().end(LONG).await.is_complete());
}

#[tokio::test]
async fn a_tree_gets_its_share_of_a_core_and_no_more() {
    // However busy the machine is: three tenths of a second of CPU take three seconds at a tenth of a core.
    const COMPUTES: &str = "import time
begun, spent = time.monotonic(), time.process_time()
while time.process_time() - spent < 0.3:
    pass
print('took_ms', int((time.monotonic() - begun) * 1000))
print('ready', flush=True)
import sys
sys.stdin.read()
";
    let limits = LaunchLimits::default().with_cpu_cores(0.1);
    let Some(launched) = limited(COMPUTES, limits).await else {
        return;
    };
    let took: u32 = values(&launched.lines, "took_ms")[0].parse().unwrap();
    assert!(took > 1000, "{took} ms");
    assert!(launched.process().end(LONG).await.is_complete());
}

#[tokio::test]
async fn a_parent_with_processes_of_its_own_is_refused_and_stays_as_it_was() {
    let Some(parent) = common::delegated::Delegated::inhabited() else {
        return;
    };
    for (setting, limits) in [
        ("memory_bytes", LaunchLimits::default().with_memory_bytes(1 << 30)),
        ("pids", LaunchLimits::default().with_pids(64)),
        ("cpu_cores", LaunchLimits::default().with_cpu_cores(0.5)),
    ] {
        let launcher = ExecLauncher::new(settings().with_cgroup_parent(parent.path()));
        let error = launcher.launch(&telling(limits)).await.unwrap_err();
        assert!(error.is_definite());
        let LaunchError::Unavailable {
            setting: named,
            reason,
            ..
        } = error
        else {
            panic!("{error:?}");
        };
        assert_eq!(named, setting);
        if reason.contains("is not available in") {
            eprintln!("SKIPPED: {reason}");
        } else {
            assert!(reason.contains("has processes itself"), "{reason}");
        }
        let handed_on = parent.path().join("cgroup.subtree_control");
        assert_eq!(std::fs::read_to_string(handed_on).unwrap().trim(), "");
    }
    // Without a limit there is no need of a controller.
    let launcher = ExecLauncher::new(settings().with_cgroup_parent(parent.path()));
    let launched = common::launch_with(&launcher, &telling(LaunchLimits::default())).await;
    assert!(launched.process().end(LONG).await.is_complete());
    launcher.shutdown(LONG).await;
}

#[tokio::test]
async fn at_the_cgroup_level_each_worker_has_one_and_it_goes_with_it() {
    if common::level() != "cgroup" {
        return;
    }
    let launcher = ExecLauncher::new(settings());
    let mut paths = Vec::new();
    for _ in 0..2 {
        let launched = common::launch_with(&launcher, &telling(LaunchLimits::default())).await;
        let cgroup = launched.process().containment().cgroup.expect("each has one");
        let name = cgroup.file_name().unwrap().to_str().unwrap();
        assert!(values(&launched.lines, "cgroup")[0].ends_with(name), "{name}");
        assert!(!paths.contains(&cgroup));
        launched.process().end(LONG).await;
        paths.push(cgroup);
    }
    launcher.shutdown(LONG).await;
    for path in paths {
        let run = path.parent().unwrap().to_owned();
        common::eventually("the cgroups are removed", || !path.exists() && !run.exists()).await;
    }
}
