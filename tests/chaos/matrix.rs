//! S1 to S4 of the acceptance set: the host, its guardian or both are killed at random instants, while every worker
//! has a tree of five: one that ignores SIGTERM, a child in its group, a daemon, a stopped child, one that holds
//! standard output.

use std::{thread, time::Duration};

use snakepit::core::process::{Pidfd, descendants};
use tokio::time::Instant;

use crate::{
    contender::{Contender, Death, Phase, Promise, contenders, guarded},
    names::{MADE_AHEAD, has_name},
    orders::{Command, Orders},
    round::{BOUND, Round, state_dir},
    settings::{Random, few_rounds, is_long, rounds},
};

/// After the grace, which is none when the host dies.
const PROMISED: Duration = Duration::from_millis(100);

#[test]
fn nothing_is_left_of_a_host_that_is_killed() {
    all(Death::Host, &contenders());
}

#[test]
fn nothing_is_left_of_a_host_that_is_stopped_and_then_killed() {
    all(Death::StoppedHost, &contenders());
}

#[test]
fn nothing_is_left_when_the_guardian_and_then_the_host_are_killed() {
    all(Death::GuardianThenHost, &guarded());
}

#[test]
fn nothing_is_left_when_the_host_and_then_the_guardian_are_killed() {
    all(Death::HostThenGuardian, &guarded());
}

/// S2.
#[test]
fn a_guardian_that_is_killed_takes_its_workers_along_and_the_host_goes_on() {
    helper_fails("S2", few_rounds(), libc::SIGKILL, |round| {
        round.guardian().unwrap()
    });
}

#[test]
fn a_guardian_that_hangs_is_noticed_and_replaced_with_all_it_had() {
    // Each waits for a deadline to pass.
    helper_fails("hang", rounds().div_ceil(8), libc::SIGSTOP, |round| {
        round.guardian().unwrap()
    });
}

/// What stands between the guardian and one worker, as the kernel kills it when memory runs out.
#[test]
fn a_child_of_the_guardian_that_is_killed_takes_its_worker_along_and_the_host_goes_on() {
    helper_fails("keeper", few_rounds(), libc::SIGKILL, |round| {
        let guardian = round.guardian().unwrap();
        let below = descendants(&guardian).unwrap();
        // One more may have made the next worker ahead.
        let has_worker = |pid| {
            let mut children = below.iter().filter(|member| member.stat.ppid == pid);
            children.any(|child| !has_name(child, MADE_AHEAD))
        };
        let child = below
            .iter()
            .find(|member| member.stat.ppid == guardian.pid() && has_worker(member.stat.pid));
        Pidfd::open(child.unwrap().stat.pid).unwrap()
    });
}

/// A helper process fails and the host lives: what the helper had below it is gone, and the host is back with workers
/// for all slots.
fn helper_fails(name: &str, rounds: usize, signal: i32, helper: impl Fn(&Round) -> Pidfd) {
    let mut random = Random::of(name);
    for contender in guarded() {
        for _ in 0..rounds {
            let mut orders = Orders::new(&contender);
            orders.adapter = Some("five_members".to_owned());
            let _dir = state_dir(&mut orders);
            let mut round = Round::start(&orders);
            round.wait_ready();
            round.tell(&Command::KeepCalling(4));
            thread::sleep(random.within(Duration::from_millis(50)));
            let helper = helper(&round);
            let below = descendants(&helper).unwrap();
            let began = Instant::now();
            helper.signal(signal).unwrap();
            for victim in below.iter().map(|member| &*member.pidfd).chain([&helper]) {
                let left = BOUND.saturating_sub(began.elapsed());
                assert!(
                    victim.wait_blocking(left),
                    "{contender}: outlived the failure:\n{}",
                    round.describe()
                );
            }
            round.wait_recovered(orders.workers, |pid| below.iter().any(|old| old.stat.pid == pid));
            round.tell(&Command::Shutdown);
            round.wait_for("done");
            round.must_end(Instant::now(), &contender.to_string());
        }
    }
}

fn all(death: Death, contenders: &[Contender]) {
    let mut random = Random::of(&format!("{death:?}"));
    for contender in contenders {
        let mut times = Vec::new();
        let mut left = 0;
        for phase in (0..rounds()).map(|n| Phase::ALL[n % Phase::ALL.len()]) {
            match one(death, contender, phase, &mut random) {
                Some(time) => times.push(time),
                None => left += 1,
            }
        }
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let longest = times.last().copied().unwrap_or_default();
        eprintln!(
            "{death:?}, {contender}: {} rounds, nothing left after {median:.1?} (median), {longest:.1?} (longest); \
             {left} times the documented remainder",
            rounds()
        );
        assert!(
            !is_long() || median < PROMISED,
            "{death:?}, {contender}: {median:?} is too long"
        );
    }
}

/// The time until nothing was left, or `None` when there was a remainder, which then is cleaned up.
fn one(death: Death, contender: &Contender, phase: Phase, random: &mut Random) -> Option<Duration> {
    let mut orders = Orders::new(contender);
    orders.adapter = Some("five_members".to_owned());
    let _dir = state_dir(&mut orders);
    let mut round = Round::start(&orders);
    round.wait_for("starting");
    let window = if phase == Phase::Start {
        Duration::from_millis(150)
    } else {
        round.wait_ready();
        match phase {
            Phase::Call => round.tell(&Command::KeepCalling(4)),
            Phase::Recycle => {
                round.tell(&Command::KeepRecycling);
                round.wait_for("recycling");
            }
            Phase::Start | Phase::Shutdown => {
                round.tell(&Command::Shutdown);
                round.wait_for("shutting down");
            }
        }
        Duration::from_millis(60)
    };
    thread::sleep(random.within(window));
    let what = format!("{death:?} while {phase:?}, {contender}");
    // A shutdown may be over before the host is killed, and then nothing is there to die.
    let began = strike(death, &round, random);
    let promise = contender.promise(phase);
    if promise == Promise::Nothing {
        return Some(round.must_end(began, &what));
    }
    round.remainder(&orders, promise, &what)
}

/// Kills, and says when the last of them was.
fn strike(death: Death, round: &Round, random: &mut Random) -> Instant {
    let guardian = if death.needs_guardian() {
        round.guardian()
    } else {
        None
    };
    let kill_guardian = || {
        if let Some(guardian) = &guardian {
            // It leaves by itself at the end of a shutdown.
            let _ = guardian.signal(libc::SIGKILL);
        }
    };
    // At once, or so much later that whoever is left has begun to act.
    let gap = random
        .within(Duration::from_millis(4))
        .saturating_sub(Duration::from_millis(2));
    match death {
        Death::Host => round.kill_host(),
        Death::StoppedHost => {
            round.stop_host();
            round.kill_host();
        }
        Death::GuardianThenHost => {
            kill_guardian();
            thread::sleep(gap);
            round.kill_host();
        }
        Death::HostThenGuardian => {
            round.kill_host();
            thread::sleep(gap);
            kill_guardian();
        }
    }
    Instant::now()
}
