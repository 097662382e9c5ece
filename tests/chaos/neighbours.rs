//! Several hosts with one state directory, cleanup while others live, and cleanup that is itself killed.

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use snakepit::core::{
    RunId, WorkerId,
    ledger::{Ledger as _, Row},
    process::{Containment, ProcessIdentity},
};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    contender::{Contender, contenders},
    host::Host,
    orders::{Command, Flaw, Orders, tell},
    round::{Round, state_dir, wait_until},
    settings::{Random, few_rounds},
};

/// A host that keeps calling, and what must not change about it.
struct Bystander {
    round: Round,
    workers: Vec<u32>,
    answered: usize,
}

impl Bystander {
    fn start(orders: &Orders) -> Self {
        Self::of(Round::start(orders))
    }

    fn of(mut round: Round) -> Self {
        let workers = round.wait_ready();
        round.tell(&Command::KeepCalling(4));
        Self {
            round,
            workers,
            answered: 0,
        }
    }

    /// Its calls go on, all were answered, by the same workers.
    #[track_caller]
    fn has_not_noticed(&mut self) {
        let before = self.answered;
        while self.answered < before + 20 {
            let (answered, lost, workers) = self.round.report();
            assert_eq!((lost, &workers), (0, &self.workers), "it was touched");
            self.answered = answered;
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn leave(mut self) {
        self.has_not_noticed();
        self.round.tell(&Command::Shutdown);
        self.round.wait_for("done");
        self.round.must_end(Instant::now(), "after its shutdown");
    }
}

/// A host that died together with its workers, so that all the workers had started may be left.
fn died_with_its_workers(orders: &Orders) -> Round {
    let mut round = Round::start(orders);
    let workers = round.wait_ready();
    round.stop_host();
    for member in round.living() {
        if workers.contains(&member.stat.pid) {
            member.pidfd.signal(libc::SIGKILL).unwrap();
            assert!(member.pidfd.wait_blocking(Duration::from_secs(20)));
        }
    }
    round.kill_host();
    round
}

fn orders(contender: &Contender) -> (Orders, TempDir) {
    let mut orders = Orders::new(contender);
    orders.adapter = Some("five_members".to_owned());
    let dir = state_dir(&mut orders);
    (orders, dir)
}

/// S16 and S9: without a guardian all ten members are left, which is what the documentation says, and cleanup takes
/// exactly them.
#[test]
fn a_host_does_not_notice_its_neighbours_death_nor_the_cleanup_after_it() {
    for contender in contenders() {
        let (orders, _dir) = orders(&contender);
        let mut bystander = Bystander::start(&orders);
        let mut dead = died_with_its_workers(&orders);
        bystander.has_not_noticed();
        if contender.has_trees_held() {
            dead.must_end(Instant::now(), &contender.to_string());
        } else {
            // The host and its template may take a moment, and a look at what is handed on from one parent to the next may
            // miss some of it.
            let what = format!("ten are left of {contender}");
            wait_until(&what, || [(); 2].map(|()| dead.survivors().len()) == [10, 10]);
        }
        orders.cleanup_succeeds();
        dead.must_end(Instant::now(), &contender.to_string());
        bystander.leave();
    }
}

#[test]
fn the_next_starts_clean_up_what_is_left_of_a_dead_host_and_nothing_else() {
    for contender in contenders() {
        let (orders, _dir) = orders(&contender);
        let mut bystander = Bystander::start(&orders);
        let mut dead = died_with_its_workers(&orders);
        // At the same time, so that both want to clean up.
        let both = [Round::start(&orders), Round::start(&orders)];
        let both = both.map(Bystander::of);
        dead.must_end(Instant::now(), &contender.to_string());
        bystander.has_not_noticed();
        both.into_iter().for_each(Bystander::leave);
        bystander.leave();
    }
}

#[test]
fn a_cleanup_that_is_killed_is_finished_by_the_next() {
    let mut random = Random::of("cleanup");
    for contender in contenders() {
        let (orders, _dir) = orders(&contender);
        let mut bystander = Bystander::start(&orders);
        for n in 0..few_rounds() {
            let mut dead = died_with_its_workers(&orders);
            let instant = random.within(Duration::from_millis(100));
            if n % 2 == 0 {
                let mut cleanup = orders.cleanup().stdout(Stdio::null()).spawn().unwrap();
                thread::sleep(instant);
                // It may have finished.
                let _ = cleanup.kill();
                cleanup.wait().unwrap();
            } else {
                let mut starting = Round::start(&orders);
                thread::sleep(instant);
                starting.kill_host();
                starting.must_end(Instant::now(), &contender.to_string());
            }
            orders.cleanup_succeeds();
            dead.must_end(Instant::now(), &contender.to_string());
            bystander.has_not_noticed();
        }
        // And once more with nothing to do.
        orders.cleanup_succeeds();
        bystander.leave();
    }
}

/// S8 and S10, with rows that a host wrote; the registry's own tests recycle a pid in earnest.
#[test]
fn a_row_from_before_a_reboot_or_with_a_recycled_pid_harms_nobody() {
    for contender in contenders() {
        for flaw in [Flaw::OtherBoot, Flaw::RecycledPid] {
            let (orders, _dir) = orders(&contender);
            let mut victim = Victim::start(&contender);
            let mut round = Round::start(&orders);
            round.wait_ready();
            round.tell(&Command::Forge {
                pid: victim.0.id(),
                flaw,
            });
            round.wait_for("forged");
            round.kill_host();
            round.must_end(Instant::now(), &contender.to_string());
            orders.cleanup_succeeds();
            assert!(
                victim.0.try_wait().unwrap().is_none(),
                "{contender}, {flaw:?}: it was killed"
            );
        }
    }
}

/// A process that nobody may touch.
struct Victim(Child);

impl Victim {
    fn start(contender: &Contender) -> Self {
        let mut command = std::process::Command::new("sleep");
        contender.user.apply(&mut command);
        Self(command.arg("100").spawn().unwrap())
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It is not reaped before, so that this cannot fail.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// In the host: records the process as if it were a worker of this run.
pub(crate) async fn forge(host: &Host, pid: u32, flaw: Flaw) {
    let mut identity = ProcessIdentity::of_pid(pid).unwrap();
    match flaw {
        Flaw::OtherBoot => identity.boot_id = "00000000-0000-4000-8000-000000000000".to_owned(),
        Flaw::RecycledPid => {
            identity.start_ticks -= 1;
            identity.handle = None;
        }
    }
    let worker_id = WorkerId::next();
    let row = Row::reserved(RunId::current(), worker_id, "sleep", host.launcher.name(), "fd:0");
    host.ledger.reserve(row).await.unwrap();
    let containment = Containment::default();
    host.ledger
        .activate(worker_id, &identity, &containment)
        .await
        .unwrap();
    tell("forged");
}
