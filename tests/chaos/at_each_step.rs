//! S7 and S13: the host is killed at each step of a start, and while it starts things without end.

use std::{path::Path, thread, time::Duration};

use tokio::time::Instant;

use crate::{
    common::{PATIENCE, fixtures},
    contender::{Contender, Promise, contenders},
    orders::{Command, Orders, Step},
    round::{Round, state_dir},
    settings::{Random, few_rounds, rounds},
};

#[test]
fn a_host_that_is_killed_at_any_step_of_a_start_leaves_nothing() {
    for contender in contenders() {
        for step in Step::ALL {
            let mut orders = Orders::new(&contender);
            orders.stay_at = Some(step);
            let _dir = state_dir(&mut orders);
            let mut round = Round::start(&orders);
            round.wait_for(&format!("step {step:?}"));
            round.kill_host();
            round.must_end(Instant::now(), &format!("{contender} at {step:?}"));
        }
    }
}

/// A program that knows nothing of us and outlives end-of-file: what a gate and a ledger are for.
#[test]
fn a_foreign_program_is_held_or_recorded_at_any_step_of_its_start() {
    for contender in contenders() {
        for step in Step::ALL {
            let mut orders = Orders::new(&contender);
            orders.program = Some(foreign());
            orders.stay_at = Some(step);
            let _dir = state_dir(&mut orders);
            let mut round = Round::start(&orders);
            round.wait_for(&format!("step {step:?}"));
            round.kill_host();
            let promise = match step {
                Step::Launch => Promise::Nothing,
                _ => contender.promise_for_foreign_programs(),
            };
            round.remainder(&orders, promise, &format!("{contender} at {step:?}"));
        }
    }
}

#[test]
fn a_host_that_is_killed_while_its_rows_are_written_leaves_nothing() {
    for line in ["starting", "step Launched"] {
        at_random(line, line, Duration::from_millis(4), |_| {});
    }
}

#[test]
fn a_host_that_is_killed_during_the_handshake_and_the_imports_leaves_nothing() {
    at_random(
        "handshake",
        "step GateOpen",
        Duration::from_millis(200),
        |orders| {
            orders.adapter = Some("starts_slowly".to_owned());
        },
    );
}

/// Kills at random instants after a line.
fn at_random(name: &str, line: &str, window: Duration, set: impl Fn(&mut Orders)) {
    let mut random = Random::of(name);
    for contender in contenders() {
        for _ in 0..rounds().div_ceil(2) {
            let mut orders = Orders::new(&contender);
            set(&mut orders);
            let _dir = state_dir(&mut orders);
            let mut round = Round::start(&orders);
            round.wait_for(line);
            thread::sleep(random.within(window));
            round.kill_host();
            round.must_end(Instant::now(), &contender.to_string());
        }
    }
}

/// S13. Pools are started and dropped half-way by a host that is killed at some point.
#[test]
fn a_host_that_is_killed_while_it_starts_and_drops_pools_leaves_nothing() {
    let mut random = Random::of("S13");
    for contender in contenders() {
        for _ in 0..few_rounds() {
            let (orders, _dir) = starting(&contender);
            let mut round = Round::start(&orders);
            round.wait_ready();
            round.tell(&Command::Start(usize::MAX));
            round.wait_for("started 0");
            thread::sleep(random.within(Duration::from_millis(400)));
            round.kill_host();
            round.must_end(Instant::now(), &contender.to_string());
        }
    }
}

/// S13 with a host that lives: what it dropped half-way is gone, and so are the rows.
#[test]
fn starts_that_are_dropped_half_way_leave_nothing_in_a_host_that_goes_on() {
    for contender in contenders() {
        let (orders, _dir) = starting(&contender);
        let mut round = Round::start(&orders);
        let workers = round.wait_ready();
        let rounds = rounds();
        round.tell(&Command::Start(rounds));
        // Each of them begins and ends a pool, which has its own patience.
        round.wait_within("dropped", PATIENCE * (rounds as u32));
        let (_, _, now) = round.report();
        assert_eq!(now, workers, "{contender}: the pool that stays has changed");
        round.tell(&Command::Shutdown);
        // The host itself looks at its rows.
        round.wait_for("done");
        round.must_end(Instant::now(), &contender.to_string());
    }
}

fn starting(contender: &Contender) -> (Orders, tempfile::TempDir) {
    let mut orders = Orders::new(contender);
    orders.grace_ms = 0;
    let dir = state_dir(&mut orders);
    (orders, dir)
}

fn foreign() -> Vec<String> {
    let script = fixtures().join("ignores_sigterm.py");
    let words = [python(), "-I", "-S", script.to_str().unwrap()];
    words.map(str::to_owned).to_vec()
}

/// The system's own interpreter, which any user may run.
pub(crate) fn python() -> &'static str {
    let system = "/usr/bin/python3";
    if Path::new(system).exists() {
        system
    } else {
        "python3"
    }
}
