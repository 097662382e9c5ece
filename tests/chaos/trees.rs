//! S5, S6, S11 and S15: what workers start in order to be left alone, and what becomes of it.

use std::{
    collections::HashMap,
    fs, iter,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use snakepit::core::process::Member;
use tokio::time::Instant;

use crate::{
    at_each_step::python,
    common::is_gone,
    contender::{Contender, Promise, User, contenders},
    orders::{Command, Orders},
    round::{BOUND, Round, state_dir, wait_until},
    settings::is_long,
};

/// How a worker comes to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The host ends its pool.
    Shutdown,
    /// The worker gets SIGTERM from a stranger, and leaves.
    Term,
    /// The worker gets SIGKILL from a stranger.
    Kill,
    /// The host is killed.
    HostDies,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Shutdown, Self::Term, Self::Kill, Self::HostDies];
}

/// A host with one worker that has started something.
struct Grove {
    orders: Orders,
    round: Round,
    worker: u32,
    _dir: tempfile::TempDir,
}

impl Grove {
    fn plant(contender: &Contender, function: &str, args: &[Value]) -> Self {
        let mut orders = Orders::new(contender);
        orders.workers = 1;
        let dir = state_dir(&mut orders);
        let mut round = Round::start(&orders);
        let worker = round.wait_ready()[0];
        round.call(function, args.to_vec());
        Self {
            orders,
            round,
            worker,
            _dir: dir,
        }
    }

    /// Ends the worker; a host that lives has to replace it, and then ends everything.
    fn fell(&mut self, ending: Ending, promise: Promise) {
        let what = format!("{}, {ending:?}", self.orders.contender);
        match ending {
            Ending::Shutdown => {}
            Ending::HostDies => {
                self.round.kill_host();
                self.round.remainder(&self.orders, promise, &what);
                return;
            }
            Ending::Term | Ending::Kill => {
                let old = self.tree();
                let signal = if ending == Ending::Term {
                    libc::SIGTERM
                } else {
                    libc::SIGKILL
                };
                let leader = old.iter().find(|member| member.stat.pid == self.worker);
                leader.unwrap().pidfd.signal(signal).unwrap();
                let began = Instant::now();
                self.await_replacement();
                // A slot is refilled when nothing of the worker before is left.
                let alive: Vec<_> = old.iter().filter(|member| !member.pidfd.has_exited()).collect();
                assert!(alive.is_empty(), "{what}: {alive:?}");
                assert!(began.elapsed() < BOUND, "{what}");
            }
        }
        self.round.tell(&Command::Shutdown);
        self.round.wait_for("done");
        self.round.must_end(Instant::now(), &what);
    }

    /// The worker, all that it has started, and the helper of its own that a backend may have put above it.
    fn tree(&self) -> Vec<Member> {
        let mut all = self.round.survivors();
        if self.orders.contender.has_guardian() {
            let guardian = self.round.guardian().unwrap().pid();
            let parents: HashMap<_, _> = all
                .iter()
                .map(|member| (member.stat.pid, member.stat.ppid))
                .collect();
            let helper_of = |pid| {
                let mut above = iter::successors(Some(pid), |pid| parents.get(pid).copied());
                above.find(|pid| parents.get(pid) == Some(&guardian))
            };
            let helper = helper_of(self.worker);
            all.retain(|member| helper.is_some() && helper_of(member.stat.pid) == helper);
        }
        if self.orders.contender.has_template() {
            // What is above it serves other workers too.
            let parents: HashMap<_, _> = all
                .iter()
                .map(|member| (member.stat.pid, member.stat.ppid))
                .collect();
            let above: Vec<_> = iter::successors(parents.get(&self.worker), |pid| parents.get(pid)).collect();
            all.retain(|member| !above.contains(&&member.stat.pid));
        }
        assert!(all.iter().any(|member| member.stat.pid == self.worker));
        all
    }

    fn await_replacement(&mut self) {
        let began = Instant::now();
        loop {
            let (_, _, workers) = self.round.report();
            if workers.first().is_some_and(|pid| *pid != self.worker) {
                return;
            }
            assert!(
                began.elapsed() < BOUND,
                "no replacement:\n{}",
                self.round.describe()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Each of these is a program of `tests/fixtures` that a worker starts.
#[test]
fn whatever_a_worker_starts_ends_with_it() {
    let fixtures: [&[&str]; 7] = [
        &["same_group_child.py"],
        &["ignores_sigterm.py"],
        &["setsid_daemon.py", "ignore", "detached"],
        &["holds_stdout.py"],
        &["stops_itself.py"],
        &["forks_a_lot.py", "5"],
        &["many_daemons.py", "20"],
    ];
    for (m, contender) in contenders().iter().enumerate() {
        for (n, fixture) in fixtures.iter().enumerate() {
            // Each fixture with each ending, over all contenders at least.
            let endings = if is_long() {
                Ending::ALL.to_vec()
            } else {
                vec![Ending::ALL[(m + n) % 4], Ending::ALL[(m + n + 2) % 4]]
            };
            for ending in endings {
                let args: Vec<Value> = fixture.iter().map(|word| json!(word)).collect();
                Grove::plant(contender, "starts:start", &args).fell(ending, Promise::Nothing);
            }
        }
    }
}

/// S6.
#[test]
fn a_chain_of_forks_that_runs_away_ends_with_its_worker() {
    for contender in contenders() {
        for ending in [Ending::Shutdown, Ending::HostDies] {
            let mut grove = Grove::plant(&contender, "starts:start", &[json!("forks_in_a_chain.py")]);
            grove.fell(ending, contender.promise_for_runaways());
        }
    }
}

/// S6: a bomb of processes in sessions of their own that takes the place of each that is killed, bounded by
/// RLIMIT_NPROC under a user of its own where the worker may change to one.
#[test]
fn a_fork_bomb_ends_with_its_worker() {
    let size = if is_long() { 200 } else { 50 };
    for contender in contenders() {
        for ending in [Ending::Shutdown, Ending::HostDies] {
            let args = [json!("bounded_bomb.py"), json!(size)];
            let mut grove = Grove::plant(&contender, "starts:start", &args);
            let found = grove.round.survivors().len();
            if found < size / 2 {
                // Others that run as this user count, and that cannot be helped.
                assert!(
                    !contender.user.is_root(),
                    "{contender}: no bomb, only {found} processes"
                );
                eprintln!("SKIPPED: {contender}: the user's other processes leave no room for a bomb");
            }
            grove.fell(ending, contender.promise_for_runaways());
        }
    }
}

/// S11: no descriptor, no environment and no name of ours is left on it, only who it is.
#[test]
fn a_worker_that_turns_into_another_program_is_noticed_and_ended() {
    for contender in contenders() {
        let mut grove = Grove::plant(&contender, "exits:pid", &[]);
        grove.round.begin("disguises:become_another", vec![json!(0)]);
        grove.round.wait_for("lost");
        grove.await_replacement();
        grove.round.tell(&Command::Shutdown);
        grove.round.wait_for("done");
        grove.round.must_end(Instant::now(), &contender.to_string());
    }
}

/// S11 with a host that is stopped meanwhile and then killed, so that nobody notices in time.
#[test]
fn a_worker_that_turns_into_another_program_before_its_host_dies_is_found() {
    for contender in contenders() {
        let mut grove = Grove::plant(&contender, "exits:pid", &[]);
        grove.round.begin("disguises:become_another", vec![json!(0.3)]);
        grove.round.wait_for("calling");
        thread::sleep(Duration::from_millis(100));
        grove.round.stop_host();
        let worker = grove.worker;
        wait_until("it is another program", || {
            fs::read(format!("/proc/{worker}/cmdline")).is_ok_and(|line| line.starts_with(b"innocent\0"))
        });
        grove.round.kill_host();
        let what = contender.to_string();
        let promise = contender.promise_for_foreign_programs();
        grove.round.remainder(&grove.orders, promise, &what);
    }
}

/// A child in its own session, without descriptors or a variable of ours, under another name.
#[test]
fn a_child_that_hides_everything_ends_with_its_worker() {
    for contender in contenders() {
        for ending in [Ending::Shutdown, Ending::Term, Ending::HostDies] {
            Grove::plant(&contender, "disguises:hide_child", &[]).fell(ending, Promise::Nothing);
        }
    }
}

/// S16: the hole that the port backend documents. With a keeper for each worker there is none.
#[test]
fn a_hidden_child_whose_worker_is_killed_is_left_where_it_has_no_keeper() {
    for contender in contenders() {
        let mut grove = Grove::plant(&contender, "disguises:hide_child", &[]);
        if contender.has_keepers() {
            grove.fell(Ending::Kill, Promise::Nothing);
            continue;
        }
        let old = grove.tree();
        let leader = old.iter().find(|member| member.stat.pid == grove.worker);
        leader.unwrap().pidfd.signal(libc::SIGKILL).unwrap();
        grove.await_replacement();
        grove.round.tell(&Command::Shutdown);
        grove.round.wait_for("done");
        let left = || grove.round.survivors().len();
        // What contains the template ends with it, and so with the pool.
        let expected = usize::from(!contender.has_guardian());
        wait_until("the host is gone", || left() <= expected);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(left(), expected, "{contender}:\n{}", grove.round.describe());
    }
}

/// S15. A setuid program can make itself somebody whom its host may not signal.
#[test]
fn a_descendant_that_became_root_is_ended_or_told() {
    let suid = match SuidPython::make() {
        Ok(suid) => suid,
        Err(why) => return eprintln!("SKIPPED: no setuid program can be made: {why}"),
    };
    for contender in contenders() {
        if contender.user != User::Nobody {
            continue;
        }
        let args = [json!(suid.path), json!("suid_full.py")];
        let mut grove = Grove::plant(&contender, "starts:start_with", &args);
        grove.round.kill_host();
        if contender.promise_for_other_users() == Promise::Nothing {
            grove.round.must_end(Instant::now(), &contender.to_string());
            continue;
        }
        wait_until("the worker is gone", || is_gone(grove.worker));
        // Its own user may neither see that it belongs to the run nor end it; root may do both.
        grove.orders.cleanup().output().unwrap();
        let left = grove.round.survivors();
        assert!(
            left.iter().any(|member| !member.pidfd.has_exited()),
            "{contender}: {left:?}"
        );
        let mut orders = grove.orders.clone();
        orders.contender.user = User::Own;
        orders.cleanup_succeeds();
        grove.round.must_end(Instant::now(), &contender.to_string());
    }
}

/// A copy of the interpreter that runs with its owner's rights, root's.
struct SuidPython {
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl SuidPython {
    fn make() -> Result<Self, String> {
        if !User::Own.is_root() {
            return Err("that takes root".to_owned());
        }
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
        let path = dir.path().join("python3");
        let made = mode(dir.path(), 0o755)
            .and_then(|()| fs::copy(python(), &path))
            .and_then(|_| mode(&path, 0o4755));
        made.map_err(|error| error.to_string())?;
        let mut trial = std::process::Command::new(&path);
        User::Nobody.apply(&mut trial);
        let output = trial
            .args(["-I", "-S", "-c", "import os; print(os.geteuid())"])
            .output()
            .map_err(|error| error.to_string())?;
        if output.stdout != b"0\n" {
            return Err(format!("it ran without root's rights: {output:?}"));
        }
        Ok(Self { path, _dir: dir })
    }
}
