//! The host dies, the guardian dies, both die: nothing is left.
//!
//! Hosts that die are processes of their own: this program, told by its environment to be one.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{
    client::{Guardian, LEVELS, NOBODY, PATIENCE, assert_ends, is_ready, shell},
    wire::Level,
    yard::{Yard, state},
};

/// One that ignores SIGTERM, a member of its group, a daemon of two processes with sessions of their own, and one that
/// is stopped; the output of the first is held by all.
const FAMILY: &str = "trap '' TERM; sleep 1000 &
    (setsid sh -c 'sleep 1000 & exec sleep 1000' &)
    (sh -c 'kill -STOP $$; sleep 1000' &)
    echo ready; while :; do sleep 1000; done";

/// What a host process is to do.
const HOST: &str = "SNAKEPIT_TEST_HOST";

/// Not a test: a host that starts three workers and waits to be killed.
#[test]
#[ignore = "a program that other tests run"]
fn host_program() {
    let Ok(task) = env::var(HOST) else { return };
    // The test has put us into its yard when it says so.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut words = task.splitn(5, ' ');
    let mut number = || words.next().unwrap().parse::<i64>().unwrap();
    let (level, user, grace, held) = (number(), number(), number(), number() != 0);
    let level = Level::from_number(level).unwrap();
    let user = (user != 0).then_some(NOBODY);
    let guardian = Guardian::welcomed_in(Yard::of(words.next().unwrap()), level, user, grace);
    let Some(guardian) = guardian else {
        println!("HOST");
        return;
    };
    let script = env::var("SNAKEPIT_TEST_SCRIPT").unwrap();
    for id in 0..3 {
        if held {
            guardian.held(id, &shell(&script));
        } else {
            guardian.script(id, &script);
        }
    }
    // Another process with our end of the socket, as a fork of the host would have it.
    let holder = env::var_os("SNAKEPIT_TEST_HOLDER").map(|_| {
        let mut command = Command::new("sleep");
        command
            .arg("1000")
            .stdin(guardian.socket.try_clone().unwrap())
            .stdout(Stdio::null());
        command.spawn().unwrap().id()
    });
    println!("HOST {} {}", guardian.process.id(), holder.unwrap_or(0));
    loop {
        std::thread::park();
    }
}

struct Host {
    process: Child,
    _input: ChildStdin,
    pidfd: rustix::fd::OwnedFd,
    guardian: rustix::fd::OwnedFd,
    guardian_pid: u32,
    holder: u32,
    yard: Yard,
}

#[derive(Clone, Copy)]
struct Task<'a> {
    user: Option<u32>,
    grace_ms: i64,
    held: bool,
    holder: bool,
    script: &'a str,
}

const TASK: Task<'static> = Task {
    user: None,
    grace_ms: 0,
    held: false,
    holder: false,
    script: FAMILY,
};

fn open(pid: u32) -> rustix::fd::OwnedFd {
    pidfd_open(Pid::from_raw(pid.cast_signed()).unwrap(), PidfdFlags::empty()).unwrap()
}

impl Host {
    /// A host whose workers are running or held. `None`, and loudly, where the machine has no such level.
    fn start(level: Level, task: Task<'_>) -> Option<Self> {
        let yard = Yard::new();
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["deaths::host_program", "--exact", "--ignored", "--nocapture"]);
        let Task { grace_ms, held, .. } = task;
        let (user, held) = (task.user.unwrap_or(0), u8::from(held));
        let words = format!("{} {user} {grace_ms} {held} {}", level as i64, yard.describe());
        command.env(HOST, words).env("SNAKEPIT_TEST_SCRIPT", task.script);
        if task.holder {
            command.env("SNAKEPIT_TEST_HOLDER", "1");
        }
        yard.mark(&mut command);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        yard.admit(process.id());
        let pidfd = open(process.id());
        let mut input = process.stdin.take().unwrap();
        input.write_all(b"\n").unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let told = output.lines().map_while(Result::ok).find_map(|line| {
            // The name of the test may stand before it.
            let at = line.find("HOST")?;
            Some(line[at..].to_owned())
        });
        let told = told.expect("the host says what became of it");
        let mut words = told.split(' ').skip(1).map(|word| word.parse::<u32>().unwrap());
        let (Some(guardian_pid), Some(holder)) = (words.next(), words.next()) else {
            eprintln!("SKIPPED: {level:?} is refused here");
            process.wait().unwrap();
            return None;
        };
        let guardian = open(guardian_pid);
        Some(Self {
            process,
            _input: input,
            pidfd,
            guardian,
            guardian_pid,
            holder,
            yard,
        })
    }

    fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    fn signal_guardian(&self, signal: Signal) {
        pidfd_send_signal(&self.guardian, signal).unwrap();
    }

    fn assert_nothing_is_left(mut self) {
        self.process.wait().unwrap();
        assert_ends(&self.guardian);
        self.yard.assert_empty();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = self.process.wait();
    }
}

/// Every level and both users.
fn each(task: Task<'_>, check: impl Fn(Host)) {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            if let Some(host) = Host::start(level, Task { user, ..task }) {
                eprintln!("{level:?} {user:?}");
                check(host);
            }
        }
    }
}

#[test]
fn the_host_is_killed() {
    each(TASK, |host| {
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_host_is_killed_while_its_workers_wait_at_their_gates() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("has run");
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = format!("echo > '{}'", path.display());
    let task = Task {
        held: true,
        script: &script,
        ..TASK
    };
    each(task, |host| {
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
        assert!(!path.exists());
    });
}

#[test]
fn the_host_is_stopped_and_then_killed() {
    each(TASK, |host| {
        host.signal(Signal::STOP);
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_host_is_killed_while_another_process_holds_its_socket() {
    each(Task { holder: true, ..TASK }, |host| {
        let holder = open(host.holder);
        host.signal(Signal::KILL);
        assert_ends(&host.guardian);
        assert!(!is_ready(&holder, Duration::ZERO));
        pidfd_send_signal(&holder, Signal::KILL).unwrap();
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_guardian_is_killed_and_then_the_host() {
    each(TASK, |host| {
        host.signal_guardian(Signal::KILL);
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_host_is_killed_and_then_the_guardian() {
    each(TASK, |host| {
        host.signal(Signal::KILL);
        host.signal_guardian(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_guardian_is_stopped_and_then_the_host_is_killed() {
    each(TASK, |host| {
        host.signal_guardian(Signal::STOP);
        let began = tokio::time::Instant::now();
        while state(host.guardian_pid) != Some('T') {
            assert!(began.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_host_is_killed_and_workers_have_the_grace_to_end_by_themselves() {
    let place = tempfile::tempdir().unwrap();
    std::fs::set_permissions(place.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let script = format!(
        "trap 'echo > {}/$$; exit' TERM; echo ready; while :; do sleep 0.01; done",
        place.path().display()
    );
    let task = Task {
        grace_ms: 30_000,
        script: &script,
        ..TASK
    };
    each(task, |host| {
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
        let mut told = 0;
        for entry in std::fs::read_dir(place.path()).unwrap() {
            std::fs::remove_file(entry.unwrap().path()).unwrap();
            told += 1;
        }
        // Where each has a namespace of its own, they have the same number.
        assert!((1..=3).contains(&told), "{told}");
    });
    let task = Task {
        grace_ms: 100,
        ..TASK
    };
    each(task, |host| {
        host.signal(Signal::KILL);
        host.assert_nothing_is_left();
    });
}

#[test]
fn the_guardian_is_killed_and_its_host_lives() {
    for level in LEVELS {
        for user in [None, Some(NOBODY)] {
            let Some(mut guardian) = Guardian::welcomed_as(level, user, 0) else {
                continue;
            };
            let scripted = guardian.script(1, FAMILY);
            guardian.process.kill().unwrap();
            assert!(guardian.try_hear(PATIENCE).is_none());
            assert_ends(scripted.worker);
            guardian.process.wait().unwrap();
            guardian.yard.assert_empty();
        }
    }
}

#[test]
fn the_host_closes_its_socket_and_lives() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        guardian.script(1, FAMILY);
        guardian.held(2, &shell("exit 0"));
        guardian.leave();
    }
}

#[test]
fn the_first_process_of_a_shared_namespace_is_killed() {
    let Some(guardian) = Guardian::welcomed(Level::SharedNamespace) else {
        return;
    };
    let scripted = guardian.script(1, FAMILY);
    let first = guardian.yard.processes().into_iter().find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "snakepit-init\n")
    });
    pidfd_send_signal(open(first.unwrap()), Signal::KILL).unwrap();
    assert_ends(scripted.worker);
    // No worker can be started there any more: the guardian leaves, which its host sees.
    while guardian.try_hear(PATIENCE).is_some() {}
    guardian.leave();
}

#[test]
fn a_hundred_trees_end_with_their_host() {
    for level in LEVELS {
        let Some(guardian) = Guardian::welcomed(level) else {
            continue;
        };
        for id in 0..100 {
            guardian.spawn(id, &shell("(setsid sleep 1000 &); exec sleep 1000"));
        }
        for _ in 0..200 {
            let told = guardian.hear().message;
            if told.kind == crate::wire::Event::Held {
                guardian.go(told.id);
            }
        }
        guardian.leave();
    }
}

#[test]
fn the_host_was_gone_before_it_said_hello() {
    let Some(guardian) = Guardian::started(Level::Subreaper) else {
        return;
    };
    guardian.leave();
    // One that is dead by its pidfd while its socket is open.
    let Some(mut guardian) = Guardian::started(Level::Namespace) else {
        return;
    };
    let mut child = Command::new("true").spawn().unwrap();
    let pid = Pid::from_child(&child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    child.wait().unwrap();
    let hello = crate::wire::Message::new(crate::wire::Request::Hello, 0);
    let hello = hello.with(crate::wire::VERSION.into(), Level::Namespace as i64, 0);
    guardian.say(hello, &[pidfd]);
    assert!(guardian.process.wait().unwrap().success());
}
