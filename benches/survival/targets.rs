//! What this project has promised itself.

use crate::{
    cleanup::{self, By},
    kill::Victim,
    ledger, left,
    peers::ERLEXEC_STOP_MS,
    record::Record,
    shutdown, size, spawn,
    spread::Spread,
    systems::System,
    target::{Goal, Target},
    work::Work,
};

/// Every target, in the order they were set.
pub(crate) fn list(record: &Record) -> Vec<Target> {
    let against_kernel = |work| {
        let victim = Victim::Host(System::Namespace, work);
        record.ratio(&victim.key(), &victim.base().key())
    };
    vec![
        Target::new(
            "host killed, 100 foreign programs gone: against the kernel",
            Goal::AtMost(1.3),
            "x",
            against_kernel(Work::Sleepers),
        ),
        Target::new(
            "host killed, 100 Python workers gone: against the kernel",
            Goal::AtMost(1.3),
            "x",
            against_kernel(Work::Python),
        ),
        Target::new(
            "the guardian's spawn reply, host of 1 GiB",
            Goal::AtMost(0.5),
            " ms",
            record.spread(&spawn::key(System::Namespace, spawn::Program::Idle)),
        ),
        Target::new(
            "the port backend's launch, host of 1 GiB",
            Goal::AtMost(0.3),
            " ms",
            record.spread(&spawn::key(System::Port, spawn::Program::Idle)),
        ),
        Target::new(
            "the guardian, resident",
            Goal::AtMost(3.0 * 1024.0),
            " KiB",
            record.spread(&size::key("guardian", "Rss")),
        ),
        Target::new(
            "100 cold Python workers ready: durable ledger against memory",
            Goal::AtMost(1.05),
            "x",
            record.ratio(
                &ledger::key(System::Port, true),
                &ledger::key(System::Port, false),
            ),
        ),
        Target::new(
            "`snakepit cleanup` of 100 orphan trees",
            Goal::AtMost(500.0),
            " ms",
            record.spread(&cleanup::key(By::Command, true)),
        ),
        Target::new(
            "10 workers stopped, exec: erlexec takes 10 s",
            Goal::AtMost(ERLEXEC_STOP_MS),
            " ms",
            record.spread(&shutdown::key(System::Namespace, "foreign programs")),
        ),
        Target::new(
            "left of five, namespace: host, guardian or both killed",
            Goal::AtMost(0.0),
            "",
            Spread::of(&left::counts(record, System::Namespace)),
        ),
    ]
}
