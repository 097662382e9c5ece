//! What setting a limit brings along, and why it may be refused. That each is honoured or refused is the suite's.

mod common;

use common::{LONG, NOBODY, is_root, python, settings, spec, values};
use snakepit_backend_exec::ExecLauncher;
use snakepit_core::launch::{LaunchError, LaunchLimits, LaunchSpec, Launcher};

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
