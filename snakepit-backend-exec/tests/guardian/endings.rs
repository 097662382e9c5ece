//! Ending trees while everybody lives.

use std::time::Duration;

use crate::{
    client::{Guardian, LEVELS, NOBODY, PATIENCE, assert_ends, exited, is_ready, shell},
    wire::{EndedBy, Event, Level, Message, Request, Spec, Target},
    yard::state,
};

/// A grace that is long enough for anybody.
const LONG_MS: i64 = 30_000;

/// One that nobody uses who is to be killed.
const SHORT_MS: i64 = 30;

/// Says that it is there, and waits to be ended; at its end it says nothing.
const OBEYS: &str = "echo ready; exec sleep 1000";

/// Ignores SIGTERM, and so does everything below it.
const IGNORES: &str = "trap '' TERM; echo ready; while :; do sleep 1000; done";

/// A daemon: two forks, a session of its own, and all it had let go of.
const DAEMON: &str = "(setsid sh -c 'sleep 1000 & echo daemon; exec sleep 1000' </dev/null 2>&1 &);";

#[test]
fn a_worker_that_obeys_is_ended_by_sigterm() {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            let Some(guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            let scripted = guardian.script(1, OBEYS);
            guardian.stop(1, LONG_MS);
            let (status, ended) = guardian.ended(1);
            assert_eq!(
                (status, ended.a, ended.b),
                (15, EndedBy::Term as i64, 0),
                "{level:?}"
            );
            assert_ends(scripted.worker);
            assert_ends(scripted.keeper);
            guardian.leave();
        }
    }
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_after_its_grace() {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            let Some(guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            guardian.script(1, IGNORES);
            guardian.stop(1, LONG_MS);
            guardian.assert_well();
            // The shorter grace wins.
            guardian.stop(1, SHORT_MS);
            let (status, ended) = guardian.ended(1);
            assert_eq!(
                (status, ended.a, ended.b),
                (9, EndedBy::Kill as i64, 0),
                "{level:?}"
            );
            guardian.leave();
        }
    }
}

#[test]
fn a_grace_without_sigterm_leaves_the_asking_to_others() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let scripted = guardian.script(1, "trap 'exit 5' TERM; echo ready; read line; exit 4");
        guardian.say(
            Message::new(Request::Stop, 1).with(SHORT_MS, 1, 0),
            &crate::client::NONE,
        );
        // Nobody asked, and standard input is at its end: it leaves by itself, or is killed.
        let (status, ended) = guardian.ended(1);
        match status {
            9 => assert_eq!(ended.a, EndedBy::Kill as i64),
            status => assert_eq!((status, ended.a != EndedBy::Kill as i64), (exited(4), true)),
        }
        drop(scripted);
        guardian.leave();
    }
}

#[test]
fn daemons_are_ended_with_their_worker_and_counted() {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            let Some(guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            for (id, grace, by) in [(1, LONG_MS, EndedBy::Term), (2, 0, EndedBy::Kill)] {
                let script = format!("{DAEMON} while :; do sleep 1000; done");
                assert_eq!(guardian.script(id, &script).line, "daemon");
                guardian.stop(id, grace);
                let (_, ended) = guardian.ended(id);
                assert_eq!((ended.a, ended.b), (by as i64, 2), "{level:?} {user:?}");
                // Ended means that nothing is left.
                let (left, keepers) = guardian.yard.workers_and_keepers();
                assert!(left.is_empty(), "{level:?} {user:?}");
                // The one that waits for the next worker.
                assert!(keepers.len() <= 1, "{level:?} {user:?}: {keepers:?}");
            }
            guardian.leave();
        }
    }
}

#[test]
fn what_outlives_the_worker_is_ended_when_that_is_asked_for() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for (id, script, swept) in [
            (1, "sleep 1000 >/dev/null & echo member; exit 6".to_owned(), 0),
            (2, format!("{DAEMON} exit 6"), 2),
        ] {
            guardian.script(id, &script);
            assert_eq!(guardian.expect(Event::Exited, id).message.a, exited(6));
            guardian.assert_well();
            guardian.stop(id, LONG_MS);
            let ended = guardian.expect(Event::Ended, id).message;
            assert_eq!(
                (ended.a, ended.b),
                (EndedBy::Term as i64, swept),
                "{level:?} {script}"
            );
        }
        guardian.leave();
    }
}

#[test]
fn a_stopped_worker_is_ended_by_sigterm_as_others_are() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        guardian.script(1, "echo ready; kill -STOP $$; sleep 1000");
        guardian.stop(1, LONG_MS);
        assert_eq!(guardian.ended(1).0, 15, "{level:?}");
        guardian.leave();
    }
}

#[test]
fn a_bomb_of_daemons_ends() {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            let Some(guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            // 200 sessions, and each lets others follow it for as long as it lives.
            let script = "i=0; while [ $i -lt 200 ]; do i=$((i+1))
                (setsid sh -c 'while :; do (setsid sleep 1000 &); sleep 1000; done' >/dev/null 2>&1 &)
                done; echo ready; sleep 1000";
            guardian.script(1, script);
            guardian.stop(1, 0);
            let (_, ended) = guardian.ended(1);
            assert_eq!(ended.a, EndedBy::Kill as i64);
            guardian.leave();
        }
    }
}

#[test]
fn a_chain_of_forks_ends() {
    // Each link starts the next, in a session of its own, and leaves: there is never the same process twice.
    let script = r#"
import os, sys
sys.stdout.write("ready\n"); sys.stdout.flush()
for link in range(100000):
    if os.fork():
        os._exit(0)
    os.setsid()
"#;
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let scripted = guardian.script(1, &format!("exec python3 -S -c '{script}'"));
        assert_eq!(scripted.line, "ready");
        assert_eq!(guardian.expect(Event::Exited, 1).message.a, 0);
        guardian.stop(1, 0);
        let ended = guardian.expect(Event::Ended, 1).message;
        assert_eq!(ended.a, EndedBy::Kill as i64, "{level:?}");
        guardian.leave();
    }
}

#[test]
fn signals_reach_whom_they_are_meant_for() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let script = "trap 'echo worker' USR1
            sh -c 'trap \"echo member\" USR1; echo ready; while :; do sleep 0.01; done' &
            (setsid sh -c 'trap \"echo daemon\" USR1; echo ready; while :; do sleep 0.01; done' &)
            while :; do wait; sleep 0.01; done";
        let scripted = guardian.script(1, script);
        assert_eq!(crate::client::read_line(&scripted.output), "ready");
        let heard = |target: Target, count| {
            guardian.signal(1, 10, target as i64);
            let mut lines: Vec<_> = (0..count)
                .map(|_| crate::client::read_line(&scripted.output))
                .collect();
            lines.sort();
            assert!(
                !is_ready(&scripted.output, Duration::from_millis(50)),
                "{level:?} {lines:?}"
            );
            lines.join(" ")
        };
        assert_eq!(heard(Target::Worker, 1), "worker", "{level:?}");
        assert_eq!(heard(Target::Group, 2), "member worker", "{level:?}");
        assert_eq!(heard(Target::Tree, 3), "daemon member worker", "{level:?}");
        for (signal, target) in [(0, 0), (65, 0), (-9, 0), (9, 3), (9, -1)] {
            guardian.signal(1, signal, target);
        }
        guardian.assert_well();
        guardian.stop(1, 0);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn a_hundred_workers_end_together() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for id in 0..100 {
            guardian.spawn(id, &shell(&format!("{DAEMON} exec sleep 1000")));
        }
        // Each is held, started, has exited and ended.
        for _ in 0..400 {
            let told = guardian.hear().message;
            match told.kind {
                Event::Held => guardian.go(told.id),
                Event::Started => guardian.stop(told.id, 0),
                Event::Exited | Event::Ended => {}
                kind => panic!("{kind:?}"),
            }
        }
        guardian.assert_well();
        guardian.leave();
    }
}

#[test]
fn a_keeper_that_is_killed_takes_its_tree_with_it_and_nobody_else() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        let other = guardian.script(1, OBEYS);
        let scripted = guardian.script(2, &format!("trap '' TERM; {DAEMON} while :; do sleep 1000; done"));
        rustix::process::pidfd_send_signal(&scripted.keeper, rustix::process::Signal::KILL).unwrap();
        let (status, ended) = guardian.ended(2);
        assert_eq!((status, ended.a), (9, EndedBy::Kill as i64), "{level:?}");
        assert!(!is_ready(&other.worker, Duration::ZERO));
        let (workers, keepers) = guardian.yard.workers_and_keepers();
        assert_eq!(workers.len(), 1, "{level:?}");
        // The one that waits for the next worker may be there.
        assert!((1..=2).contains(&keepers.len()), "{level:?}: {keepers:?}");
        assert!(!guardian.yard.has_leaf(2));
        guardian.stop(1, 0);
        guardian.ended(1);
        guardian.leave();
    }
}

#[test]
fn a_keeper_that_is_stopped_by_its_worker_ends_all_the_same() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed_as(level, Some(NOBODY), 0) else {
            continue;
        };
        // Where the keeper is the first process of the namespace, it cannot be stopped from within.
        let script = "trap '' TERM; echo ready; while kill -STOP $PPID; do :; done; sleep 1000";
        guardian.script(1, script);
        guardian.stop(1, 50);
        let (status, ended) = guardian.ended(1);
        assert_eq!((status, ended.a), (9, EndedBy::Kill as i64), "{level:?}");
        guardian.leave();
    }
}

#[test]
fn the_worker_sees_a_proc_of_its_namespace_and_is_not_its_first_process() {
    for user in [None, Some(NOBODY)] {
        for level in [Level::Namespace, Level::SharedNamespace] {
            let Some(guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            let scripted = guardian.script(
                1,
                "read pid rest < /proc/self/stat; echo $$ $pid $(cat /proc/1/comm)",
            );
            let words: Vec<_> = scripted.line.split(' ').collect();
            let first = if level == Level::Namespace {
                "snakepit-keeper"
            } else {
                "snakepit-init"
            };
            assert!(
                words[0] == words[1] && words[0] != "1" && words[2] == first,
                "{words:?}"
            );
            guardian.ended(1);
            guardian.leave();
        }
    }
}

#[test]
fn managed_processes_are_watched_signalled_and_ended() {
    let Some(mut guardian) = Guardian::welcomed(Level::Subreaper) else {
        return;
    };
    let start = || {
        let mut command = std::process::Command::new("sleep");
        command.arg("1000");
        guardian.yard.mark(&mut command);
        let child = command.spawn().unwrap();
        guardian.yard.admit(child.id());
        let pid = rustix::process::Pid::from_child(&child);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        (child, pidfd)
    };
    let manage = |id, pidfd| guardian.say(Message::new(Request::Manage, id), &[pidfd]);
    let mut children: Vec<_> = (0..4).map(|_| start()).collect();
    for (id, (_, pidfd)) in (0..).zip(&children) {
        manage(id, pidfd);
    }
    guardian.stop(0, LONG_MS);
    let (status, ended) = guardian.ended(0);
    assert_eq!((status, ended.a), (-1, EndedBy::Term as i64));
    guardian.stop(1, 0);
    assert_eq!(guardian.ended(1).1.a, EndedBy::Kill as i64);
    // Stopped, it takes the signal and does not end by it.
    guardian.signal(2, 19, Target::Worker as i64);
    guardian.assert_well();
    while state(children[2].0.id()) != Some('T') {
        std::thread::sleep(Duration::from_millis(1));
    }
    guardian.say(Message::new(Request::Release, 3), &crate::client::NONE);
    guardian.assert_well();
    let (mut released, released_pidfd) = children.pop().unwrap();
    // Dropping the socket is the host's leave: the one that is managed is killed, the other is not.
    guardian.disconnect();
    assert!(is_ready(&children[2].1, PATIENCE));
    assert!(!is_ready(&released_pidfd, Duration::ZERO));
    released.kill().unwrap();
    released.wait().unwrap();
    for (mut child, _) in children {
        child.wait().unwrap();
    }
}

#[test]
fn limits_of_a_spec_bound_a_bomb() {
    let Some(guardian) = Guardian::welcomed(Level::Subreaper) else {
        return;
    };
    // A user of its own, so that the limit counts nobody else's processes.
    let spec = Spec {
        uid: Some(54_321),
        gid: Some(54_321),
        groups: Some(Vec::new()),
        rlimits: vec![(6, 40, 40)],
        ..shell("while :; do (setsid sh -c 'while :; do sleep 1000 & done' &) ; done 2>/dev/null")
    };
    guardian.running(1, &spec);
    while guardian.yard.processes().len() < 30 {
        std::thread::sleep(Duration::from_millis(1));
    }
    guardian.stop(1, 0);
    assert_eq!(guardian.ended(1).1.a, EndedBy::Kill as i64);
    guardian.leave();
}
