//! The plots of a run.

use crate::{
    block::Block,
    calls::{self, PAYLOADS},
    kind::{Kind, Library},
    plot::{
        Plot,
        dots::Dots,
        lines::{Lines, Series},
    },
    ready::{self, WORKERS},
    record::Record,
    spread::Spread,
};

/// Latency by size, and throughput by system.
pub(crate) fn calls(record: &Record) -> Vec<Block> {
    [latency(record), throughput(record)]
        .into_iter()
        .flatten()
        .map(Block::Plot)
        .collect()
}

/// Time until ready by the number of workers, a plot for each library.
pub(crate) fn ready(record: &Record) -> Vec<Block> {
    let plots = Library::ALL.map(|library| start(library, record));
    plots.into_iter().flatten().map(Block::Plot).collect()
}

fn latency(record: &Record) -> Option<Plot> {
    let title = "Echo, one caller, one worker: time of a call by size";
    let sizes = PAYLOADS.map(|payload| (payload.bytes as f64, payload.name.to_owned()));
    let at = |kind, index: usize| {
        record.spread(&format!(
            "{}/p50_us",
            calls::key(PAYLOADS[index].name, 1, 1, kind)
        ))
    };
    plot(
        "calls-latency.svg",
        title,
        Lines {
            title,
            x: ("size of the argument and of the answer (log scale)", &sizes),
            y: "p50 of a call, microseconds (log scale)",
            series: curves(&Kind::CALLED, &sizes, at),
        }
        .draw(),
    )
}

fn throughput(record: &Record) -> Option<Plot> {
    let title = "Echo of 1 KiB: calls per second";
    let conditions = calls::WORKERS.map(|workers| calls::CALLERS.map(|callers| (workers, callers)));
    let conditions = conditions.concat();
    let plural = |count: usize, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let marks: Vec<_> = conditions
        .iter()
        .map(|(workers, callers)| format!("{}, {}", plural(*workers, "worker"), plural(*callers, "caller")))
        .collect();
    let rows = Kind::CALLED.map(|kind| {
        let at = |(workers, callers): &(usize, usize)| {
            record.spread(&format!(
                "{}/per_s",
                calls::key("1 KiB", *workers, *callers, kind)
            ))
        };
        (
            kind.name().to_owned(),
            conditions.iter().map(at).collect::<Vec<_>>(),
        )
    });
    let rows = rows
        .into_iter()
        .filter(|(_, spreads)| spreads.iter().any(Option::is_some));
    plot(
        "calls-throughput.svg",
        title,
        Dots {
            title,
            x: "calls answered per second (log scale)",
            marks: &marks,
            rows: rows.collect(),
        }
        .draw(),
    )
}

fn start(library: Library, record: &Record) -> Option<Plot> {
    let name = library.name();
    let title = format!("Cold workers started at once, {name} imported: time until all have answered");
    let ticks = WORKERS.map(|workers| (workers as f64, workers.to_string()));
    let at = |kind, index: usize| record.spread(&ready::time_key(library, WORKERS[index], kind));
    plot(
        &format!("ready-{}.svg", name.to_lowercase()),
        &title,
        Lines {
            title: &title,
            x: ("workers (log scale)", &ticks),
            y: "milliseconds until ready (log scale)",
            series: curves(&Kind::STARTED, &ticks, at),
        }
        .draw(),
    )
}

/// A curve for each system of which there is anything; `at` is given the number of the tick.
fn curves(
    kinds: &[Kind],
    ticks: &[(f64, String)],
    at: impl Fn(Kind, usize) -> Option<Spread>,
) -> Vec<Series> {
    let curve = |kind: &Kind| Series {
        name: kind.name().to_owned(),
        number: kind.number(),
        strong: !kind.is_peer(),
        points: ticks
            .iter()
            .enumerate()
            .filter_map(|(index, (value, _))| Some((*value, at(*kind, index)?)))
            .collect(),
    };
    let curves = kinds.iter().map(curve);
    curves.filter(|curve| !curve.points.is_empty()).collect()
}

fn plot(file: &str, alt: &str, svg: Option<String>) -> Option<Plot> {
    Some(Plot {
        file: file.to_owned(),
        alt: alt.to_owned(),
        svg: svg?,
    })
}
