//! One host's life as its test sees it.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

use snakepit::core::{
    RunId,
    process::{Member, Pidfd, Stat, cgroup::Cgroup, descendants},
};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    common::PATIENCE,
    contender::{Contender, Promise},
    orders::{self, Command, MARK, Orders},
    witness::{WitnessOrders, end_below},
};

/// How long something may take to be gone on a machine that is busy with other things. The promised time is far
/// shorter, and the long form asserts it.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

/// How long what may be left is watched before it is cleaned up: workers end themselves within 100 ms.
const SETTLED: Duration = Duration::from_millis(100);

/// A host in a process of its own, with the witness above it. Dropping it ends everything of the round.
pub(crate) struct Round {
    witness: Child,
    hold: Pidfd,
    commands: Option<ChildStdin>,
    lines: Receiver<String>,
    log: String,
    host: Pidfd,
    cgroup: Option<Cgroup>,
}

impl Round {
    /// Starts a host; `orders.state_dir` is there and the user's.
    pub(crate) fn start(orders: &Orders) -> Self {
        let cgroup = leaf(orders);
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "witness", "--nocapture"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let witness_orders = WitnessOrders {
            cgroup: cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
            host: orders.clone(),
        };
        orders::give(&mut command, &witness_orders);
        let mut witness = command.spawn().unwrap();
        let hold = Pidfd::open(witness.id()).unwrap();
        let stdout = BufReader::new(witness.stdout.take().unwrap());
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some((_, line)) = line.split_once(MARK)
                    && sender.send(line.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        let mut round = Self {
            commands: witness.stdin.take(),
            // Until its own is known.
            host: Pidfd::open(witness.id()).unwrap(),
            witness,
            hold,
            lines,
            log: String::new(),
            cgroup,
        };
        let pid = round.wait_for("host is").parse().unwrap();
        round.host = Pidfd::open(pid).unwrap();
        round
    }

    /// Waits for a line that begins with these words and returns the rest of it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, words: &str) -> String {
        self.wait_within(words, PATIENCE)
    }

    /// As [`wait_for`](Self::wait_for), for what may take this long.
    #[track_caller]
    pub(crate) fn wait_within(&mut self, words: &str, patience: Duration) -> String {
        let began = Instant::now();
        loop {
            let left = patience.saturating_sub(began.elapsed());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => panic!("never said `{words}`, but:\n{}", self.log),
                Err(RecvTimeoutError::Disconnected) => panic!("ended before `{words}`:\n{}", self.log),
            };
            let _ = writeln!(self.log, "  {line}");
            if let Some(rest) = line.strip_prefix(words) {
                return rest.trim().to_owned();
            }
            let is_over = ["host ended", "failed"].iter().any(|end| line.starts_with(end));
            let is_lost = words == "answered" && line.starts_with("lost");
            assert!(!(is_over || is_lost), "waited for `{words}`:\n{}", self.log);
        }
    }

    /// Waits until the pool is ready and returns its workers' pids.
    pub(crate) fn wait_ready(&mut self) -> Vec<u32> {
        pids(&self.wait_for("ready"))
    }

    /// Tells the host to do something.
    pub(crate) fn tell(&mut self, command: &Command) {
        let text = serde_json::to_string(command).unwrap();
        writeln!(self.commands.as_mut().unwrap(), "{text}").unwrap();
    }

    /// Calls a function and waits for its answer.
    pub(crate) fn call(&mut self, function: &str, args: Vec<serde_json::Value>) -> serde_json::Value {
        self.begin(function, args);
        serde_json::from_str(&self.wait_for("answered")).unwrap()
    }

    /// Calls a function and does not wait.
    pub(crate) fn begin(&mut self, function: &str, args: Vec<serde_json::Value>) {
        let function = function.to_owned();
        self.tell(&Command::Call { function, args });
    }

    /// Answered calls, lost calls and the workers' pids of a host that keeps calling.
    pub(crate) fn report(&mut self) -> (usize, usize, Vec<u32>) {
        self.tell(&Command::Report);
        let text = self.wait_for("report");
        let mut words = text.split(' ');
        let mut number = || words.next().unwrap().parse().unwrap();
        let (answered, lost) = (number(), number());
        (answered, lost, pids(&words.collect::<Vec<_>>().join(" ")))
    }

    /// Waits until a host that keeps calling has so many workers, none of them an old one, and answers from them.
    #[track_caller]
    pub(crate) fn wait_recovered(&mut self, workers: usize, is_old: impl Fn(u32) -> bool) {
        let began = Instant::now();
        let mut since = None;
        loop {
            let (answered, _, pids) = self.report();
            let replaced = pids.len() == workers && !pids.iter().any(|pid| is_old(*pid));
            if replaced && answered > *since.get_or_insert(answered) {
                return;
            }
            assert!(
                began.elapsed() < BOUND,
                "it did not recover:\n{}",
                self.describe()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGKILL to the host, which may have left by itself.
    pub(crate) fn kill_host(&self) {
        let _ = self.host.signal(libc::SIGKILL);
    }

    /// SIGSTOP to the host, and waits until all of its threads have stopped, or it has left by itself.
    pub(crate) fn stop_host(&self) {
        let _ = self.host.signal(libc::SIGSTOP);
        let tasks = PathBuf::from(format!("/proc/{}/task", self.host.pid()));
        wait_until("the host is stopped", || {
            let mut threads = fs::read_dir(&tasks).into_iter().flatten().flatten();
            self.host.has_exited()
                || threads.all(|thread| {
                    let stat = fs::read(thread.path().join("stat"));
                    stat.is_ok_and(|stat| Stat::parse(&stat).unwrap().state == b'T')
                })
        });
    }

    /// The guardian, which is the only child of a host that has one; `None` before it is started.
    pub(crate) fn guardian(&self) -> Option<Pidfd> {
        let all = descendants(&self.host).unwrap();
        let children: Vec<_> = all
            .iter()
            .filter(|member| member.stat.ppid == self.host.pid())
            .collect();
        assert!(
            children.len() < 2,
            "a host has one guardian and no other child: {children:?}"
        );
        Pidfd::open(children.first()?.stat.pid).ok()
    }

    /// Everything of the round that lives, the host included and the witness not.
    pub(crate) fn living(&self) -> Vec<Member> {
        descendants(&self.hold).unwrap()
    }

    /// What is left of the host.
    pub(crate) fn survivors(&self) -> Vec<Member> {
        let mut all = self.living();
        all.retain(|member| member.stat.pid != self.host.pid());
        all
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.hold.has_exited()
    }

    /// Waits until nothing is left, up to a bound; the time since `began`.
    pub(crate) fn time_until_empty(&mut self, began: Instant, bound: Duration) -> Option<Duration> {
        let left = bound.saturating_sub(began.elapsed());
        let empty = self.hold.wait_blocking(left).then(|| began.elapsed());
        if empty.is_some() {
            let status = self.witness.wait().unwrap();
            assert!(status.success(), "the witness failed: {status}");
            if let Some(cgroup) = &self.cgroup {
                assert!(
                    !cgroup.exists(),
                    "the witness saw an end, but {cgroup:?} is there"
                );
            }
        }
        empty
    }

    /// Waits until nothing is left.
    #[track_caller]
    pub(crate) fn must_end(&mut self, began: Instant, what: &str) -> Duration {
        match self.time_until_empty(began, BOUND) {
            Some(took) => took,
            None => panic!(
                "{what}: still there after {BOUND:?}:\n{}{}",
                self.describe(),
                self.log
            ),
        }
    }

    /// Checks that no more is left than promised, and that cleanup takes it. The time until nothing was left, or
    /// `None` when there was something to clean up.
    #[track_caller]
    pub(crate) fn remainder(&mut self, orders: &Orders, promise: Promise, what: &str) -> Option<Duration> {
        let began = Instant::now();
        let allowed = |member: &Member| match promise {
            Promise::Nothing => false,
            // Workers lead their groups, and what they start in these tests does not.
            Promise::WhatDeadWorkersStarted => member.stat.pid != member.stat.pgrp,
            Promise::Anything => true,
        };
        while !(self.is_empty() || self.host.has_exited() && self.survivors().iter().all(allowed)) {
            assert!(
                began.elapsed() < BOUND,
                "{what}: too much is left:\n{}",
                self.describe()
            );
            thread::sleep(Duration::from_millis(1));
        }
        if let Some(took) = self.time_until_empty(began, SETTLED) {
            return Some(took);
        }
        orders.cleanup_succeeds();
        self.must_end(Instant::now(), what);
        None
    }

    /// Who lives, for people.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for member in self.living() {
            let pid = member.stat.pid;
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let _ = writeln!(text, "  {line}: {:?}", member.stat);
        }
        text
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            // What it does not reach, the next step does.
            let _ = cgroup.kill();
        }
        end_below(&self.hold, || self.hold.has_exited());
        // It is there only if something below it cannot be ended.
        let _ = self.witness.kill();
        let _ = self.witness.wait();
        if let Some(cgroup) = &self.cgroup {
            let _ = cgroup.remove(Duration::from_secs(1));
        }
    }
}

/// Whether a host of this kind gets a worker, or what it said instead.
pub(crate) fn trial(contender: &Contender) -> Result<(), String> {
    let mut orders = Orders::new(contender);
    orders.workers = 1;
    let _dir = state_dir(&mut orders);
    let mut round = Round::start(&orders);
    let ready = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| round.wait_ready()));
    ready.map(drop).map_err(|_| round.log.clone())
}

/// A cgroup of this round's own, where one can be made. It is the user's, as a service manager would delegate it.
fn leaf(orders: &Orders) -> Option<Cgroup> {
    let own = Cgroup::own().ok()??;
    let leaf = own.child(&format!("snakepit-chaos-{}", RunId::random()));
    leaf.create().ok()?;
    for file in ["", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
        orders.contender.user.own(&leaf.path().join(file)).unwrap();
    }
    Some(leaf)
}

/// A state directory that belongs to the user of these orders, and is set in them.
pub(crate) fn state_dir(orders: &mut Orders) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    orders.contender.user.own(dir.path()).unwrap();
    orders.state_dir = dir.path().to_owned();
    dir
}

/// Waits for a condition without a runtime.
#[track_caller]
pub(crate) fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "it never came to this: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn pids(text: &str) -> Vec<u32> {
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}
