//! From the request for a worker to the execution of its program.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
};

use crate::{
    client::{Guardian, LEVELS, NOBODY, PATIENCE, assert_ends, exited, is_ready, null, read_line, shell},
    wire::{EndedBy, Event, Spec, Step},
};

#[test]
fn a_worker_that_ends_by_itself_is_told_with_its_exact_status() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for (id, script, status) in [
            (1, "exit 7", exited(7)),
            (2, "kill -9 $$", 9),
            (3, "kill -15 $$", 15),
        ] {
            guardian.running(id, &shell(script));
            let (told, ended) = guardian.ended(id);
            assert_eq!(
                (told, ended.a, ended.b),
                (status, EndedBy::Itself as i64, 0),
                "{level:?} {script}"
            );
            assert!(!guardian.yard.has_leaf(id));
        }
        guardian.assert_well();
        guardian.leave();
    }
}

#[test]
fn cgroups_that_were_made_in_that_of_a_worker_go_with_it() {
    let Some(guardian) = Guardian::welcomed(crate::wire::Level::Cgroup) else {
        return;
    };
    guardian.running(1, &shell("exec sleep 1000"));
    let leaf = guardian.yard.leaf(1).unwrap();
    for name in ["one", "another"] {
        leaf.child(name).create().unwrap();
    }
    guardian.stop(1, 0);
    guardian.ended(1);
    // The kernel may not be through with its last process.
    let began = tokio::time::Instant::now();
    while guardian.yard.has_leaf(1) {
        assert!(began.elapsed() < PATIENCE, "it is left");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    guardian.leave();
}

#[test]
fn a_worker_that_is_never_let_go_is_ended_at_its_gate() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("has run");
        let script = format!("echo > '{}'", path.display());
        for (id, grace, status) in [(1, 5000, 15), (2, 0, 9)] {
            guardian.held(id, &shell(&script));
            guardian.stop(id, grace);
            assert_eq!(guardian.ended(id).0, status, "{level:?}");
        }
        // One that is killed there has not been started either, whatever is said later.
        let (worker, _) = guardian.held(3, &shell(&script));
        guardian.signal(3, 9, 0);
        assert_eq!(guardian.ended(3).0, 9);
        assert_ends(worker);
        guardian.go(3);
        guardian.assert_well();
        assert!(!path.exists());
        guardian.leave();
    }
}

#[test]
fn an_early_go_is_not_kept_for_later() {
    let Some(guardian) = Guardian::welcomed(crate::wire::Level::Subreaper) else {
        return;
    };
    guardian.go(1);
    let (worker, _) = guardian.held(1, &shell("exit 0"));
    guardian.assert_well();
    assert!(!is_ready(&worker, std::time::Duration::from_millis(20)));
    guardian.go(1);
    guardian.expect(Event::Started, 1);
    guardian.ended(1);
    guardian.leave();
}

#[test]
fn a_program_that_cannot_be_executed_is_named_by_its_errno() {
    let place = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode| {
        let path = place.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.into_os_string().into_encoded_bytes()
    };
    let cases = [
        (b"/nowhere/at/all".to_vec(), libc::ENOENT),
        (
            write("no interpreter", "#!/nowhere/at/all\n", 0o755),
            libc::ENOENT,
        ),
        (write("not executable", "#!/bin/sh\n", 0o644), libc::EACCES),
        (write("no program", "\x01\x02\x03", 0o755), libc::ENOEXEC),
        (place.path().to_str().unwrap().into(), libc::EACCES),
    ];
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for (id, (program, errno)) in (1..).zip(&cases) {
            let spec = Spec {
                program: program.clone(),
                ..Spec::default()
            };
            guardian.held(id, &spec);
            guardian.go(id);
            let failed = guardian.expect(Event::ExecFailed, id).message;
            let expected = (Step::Exec as i64, i64::from(*errno));
            assert_eq!((failed.a, failed.b), expected, "{level:?} {program:?}");
            assert_eq!(guardian.ended(id).0, exited(127));
        }
        guardian.leave();
    }
}

#[test]
fn a_setting_that_cannot_be_made_is_named_and_leaves_nobody() {
    let limits = |limits| Spec {
        rlimits: limits,
        ..shell("exit 0")
    };
    let cases = [
        (
            Spec {
                cwd: b"/nowhere/at/all".to_vec(),
                ..shell("exit 0")
            },
            Step::Cwd,
            libc::ENOENT,
        ),
        (limits(vec![(999, 0, 0)]), Step::Rlimits, libc::EINVAL),
        (limits(vec![(7, 2, 1)]), Step::Rlimits, libc::EINVAL),
        (
            Spec {
                oom_score_adj: Some(1_000_000),
                ..shell("exit 0")
            },
            Step::OomScore,
            libc::EINVAL,
        ),
        (
            Spec {
                uid: Some(u32::MAX - 1),
                groups: Some(vec![0; 70_000]),
                ..shell("exit 0")
            },
            Step::Groups,
            libc::EINVAL,
        ),
    ];
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for (id, (spec, step, errno)) in (1..).zip(&cases) {
            guardian.spawn(id, spec);
            let failed = guardian.expect(Event::SpawnFailed, id).message;
            let expected = (*step as i64, i64::from(*errno));
            assert_eq!((failed.a, failed.b), expected, "{level:?} {step:?}");
            assert!(!guardian.yard.has_leaf(id));
        }
        guardian.assert_well();
        guardian.leave();
    }
}

#[test]
fn what_needs_other_rights_is_refused_to_a_user_without_them() {
    for level in [crate::wire::Level::Subreaper, crate::wire::Level::Namespace] {
        let Some(guardian) = Guardian::welcomed_as(level, Some(NOBODY), 0) else {
            continue;
        };
        let spec = |uid, gid, groups, nice| Spec {
            uid,
            gid,
            groups,
            nice,
            ..shell("exit 3")
        };
        let cases = [
            (spec(Some(0), None, None, None), Step::Uid),
            (spec(None, Some(0), None, None), Step::Gid),
            (spec(None, None, Some(vec![0]), None), Step::Groups),
            (spec(None, None, None, Some(-5)), Step::Nice),
        ];
        for (id, (spec, step)) in (1..).zip(cases) {
            guardian.spawn(id, &spec);
            let failed = guardian.expect(Event::SpawnFailed, id).message;
            assert_eq!(failed.a, step as i64, "{level:?} {failed:?}");
        }
        // Its own user and group are no change.
        guardian.running(9, &spec(Some(NOBODY), Some(NOBODY), None, Some(5)));
        assert_eq!(guardian.ended(9).0, exited(3));
        guardian.leave();
    }
}

#[test]
fn a_worker_is_made_as_its_spec_says() {
    let script = "exec 2>&1
        echo $(id -u) $(id -g) $(id -G) $(pwd) $(ulimit -n) $(ulimit -Hn) $(nice) $A $0 $(cat /proc/$$/oom_score_adj)
        cd /proc/$$/fd; echo *
        grep -E '^Sig(Blk|Ign)' /proc/$$/status | tr '\\n\\t' '  '; echo
        ps -o sid=,pgid=,pid= -p $$";
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let (reading, writing) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut spec = Spec {
            cwd: b"/tmp".to_vec(),
            uid: Some(NOBODY),
            gid: Some(NOBODY),
            groups: Some(vec![7, 8]),
            nice: Some(3),
            oom_score_adj: Some(500),
            rlimits: vec![(7, 100, 200)],
            ..shell(script)
        };
        spec.argv[0] = b"a name".to_vec();
        spec.argv.push(b"zero".to_vec());
        spec.environment.push(b"A=b=c".to_vec());
        guardian.spawn_with(1, &spec, [null(), writing, null()]);
        guardian.expect(Event::Held, 1);
        guardian.go(1);
        guardian.expect(Event::Started, 1);
        let settings = read_line(&reading);
        assert_eq!(
            settings, "65534 65534 65534 7 8 /tmp 100 200 3 b=c zero 500",
            "{level:?}"
        );
        // 10 is the shell's own, 3 that of the directory it lists. A pipeline would show its pipe for a moment.
        let fds = read_line(&reading);
        assert!(
            fds.split(' ')
                .all(|fd| ["0", "1", "2", "3", "10", "255"].contains(&fd)),
            "{level:?}: {fds}"
        );
        let signals = read_line(&reading);
        assert!(
            signals.contains("SigBlk: 0000000000000000 SigIgn: 0000000000000000"),
            "{signals}"
        );
        let ids = read_line(&reading);
        let ids: Vec<_> = ids.split_whitespace().collect();
        assert!(ids[0] == ids[1] && ids[1] == ids[2] && ids[0] != "1", "{ids:?}");
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn a_worker_has_the_limit_on_descriptors_that_the_host_had() {
    let Some(guardian) = Guardian::welcomed(crate::wire::Level::Subreaper) else {
        return;
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let scripted = guardian.script(1, "echo $(ulimit -Sn) $(ulimit -Hn)");
    let text = |limit: Option<u64>| limit.map_or("unlimited".to_owned(), |limit| limit.to_string());
    assert_eq!(
        scripted.line,
        format!("{} {}", text(limit.current), text(limit.maximum))
    );
    guardian.ended(1);
    guardian.leave();
}
