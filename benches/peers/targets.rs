//! What this project has promised itself.

use crate::{
    calls, dispatch, idle,
    kind::{Kind, Library},
    memory, ready,
    record::Record,
    recovery,
    spread::Spread,
    target::{
        Goal::{self, AtLeast, AtMost},
        Target,
    },
};

/// Every target.
pub(crate) fn list(record: &Record) -> Vec<Target> {
    let mut targets = call_targets(record);
    targets.extend(start_targets(record));
    targets.extend(host_targets(record));
    targets
}

fn times(what: &str, goal: Goal, measured: Option<Spread>) -> Target {
    Target::new(what, goal, "x", measured)
}

fn call_targets(record: &Record) -> Vec<Target> {
    let key = |size, callers, kind, what: &str| format!("{}/{what}", calls::key(size, 1, callers, kind));
    // Our median as a part of another's, its median as a multiple of ours, and our throughput as a multiple of its.
    let part = |size, kind| {
        let [ours, its] = [Kind::Snakepit, kind].map(|kind| key(size, 1, kind, "p50_us"));
        record.ratio(&ours, &its)
    };
    let faster = |size, ours, kind| {
        let [ours, its] = [ours, kind].map(|kind| key(size, 1, kind, "p50_us"));
        record.ratio(&its, &ours)
    };
    let more = |kind| {
        let [ours, its] = [Kind::Snakepit, kind].map(|kind| key("1 KiB", 16, kind, "per_s"));
        record.ratio(&ours, &its)
    };
    let one = |name| format!("1 KiB, one caller: p50 against {name}");
    let sixteen = |name| format!("1 KiB, 16 callers on one worker: throughput against {name}");
    let mut targets = vec![
        times(&one("the socket floor"), AtMost(1.15), part("1 KiB", Kind::Floor)),
        times(
            &one("ProcessPoolExecutor"),
            AtMost(0.45),
            part("1 KiB", Kind::Spawn),
        ),
        times(&one("grpcio"), AtMost(0.25), part("1 KiB", Kind::Grpcio)),
        times(&one("Ray"), AtMost(0.1), part("1 KiB", Kind::Ray)),
        times(&sixteen("grpcio"), AtLeast(8.0), more(Kind::Grpcio)),
        times(&sixteen("ProcessPoolExecutor"), AtLeast(8.0), more(Kind::Spawn)),
    ];
    for size in ["10 MB", "100 MB"] {
        let array = |what: &str| format!("{size} array there and back: {what}");
        targets.push(times(
            &array("p50 against two plain copies"),
            AtMost(2.0),
            part(size, Kind::Copies),
        ));
        for (ours, how) in [(Kind::Snakepit, "copied"), (Kind::InPlace, "in place")] {
            for (peer, least) in [(Kind::Grpcio, 8.0), (Kind::Ray, 3.0), (Kind::Spawn, 20.0)] {
                targets.push(times(
                    &array(&format!("{how}, times faster than {}", peer.short())),
                    AtLeast(least),
                    faster(size, ours, peer),
                ));
            }
        }
    }
    targets
}

fn start_targets(record: &Record) -> Vec<Target> {
    let start = |library, kind| ready::time_key(library, 100, kind);
    let weight = |kind| memory::key(Library::Nothing, 100, kind);
    let mut targets = vec![
        times(
            "100 cold workers ready: times faster than grpcio",
            AtLeast(6.0),
            record.ratio(
                &start(Library::Nothing, Kind::Grpcio),
                &start(Library::Nothing, Kind::Snakepit),
            ),
        ),
        times(
            "memory of an idle worker (PSS, 100 of them) against grpcio",
            AtMost(1.0 / 3.0),
            record.ratio(&weight(Kind::Snakepit), &weight(Kind::Grpcio)),
        ),
        Target::new(
            "worker killed to replacement answering",
            AtMost(30.0),
            " ms",
            record.spread(&recovery::time_key(Kind::Snakepit)),
        ),
    ];
    for kind in [Kind::ZygoteWarm, Kind::ZygotePort, Kind::ZygoteExec] {
        let with = format!("100 workers of {} with NumPy", kind.name());
        targets.push(times(
            &format!("{with} ready: times faster than grpcio"),
            AtLeast(35.0),
            record.ratio(&start(Library::Numpy, Kind::Grpcio), &start(Library::Numpy, kind)),
        ));
        targets.push(Target::new(
            &format!("{with}: memory of each (PSS)"),
            AtMost(4096.0),
            " KiB",
            record.spread(&memory::key(Library::Numpy, 100, kind)),
        ));
    }
    targets
}

fn host_targets(record: &Record) -> Vec<Target> {
    let mut targets = Vec::from(dispatch::WORKERS.map(|workers| {
        let what = format!("no-op dispatch, {workers} in-memory workers");
        Target::new(&what, AtMost(5.0), " us", record.spread(&dispatch::key(workers)))
    }));
    targets.push(times(
        "no-op dispatch is flat: 1,000 workers against 1",
        AtMost(1.5),
        record.ratio(&dispatch::key(1000), &dispatch::key(1)),
    ));
    targets.push(Target::new(
        "100 idle workers: host CPU, of one core",
        AtMost(1.0),
        " %",
        record.spread(idle::HOST),
    ));
    targets
}
