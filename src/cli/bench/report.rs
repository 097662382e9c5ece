//! The figures of a run.

use std::time::Duration;

use serde_json::json;

use super::Histogram;
use crate::cli::{
    failure::Failure,
    output::{self, Style, bytes, duration, grouped},
};

/// What was measured, and under which conditions.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) function: &'static str,
    /// `None` for another program.
    pub(super) python: Option<String>,
    pub(super) backend: String,
    pub(super) workers: usize,
    /// Of each worker, where it has several.
    pub(super) threads: Option<u32>,
    /// Of each worker's event loop, where calls run on one.
    pub(super) asyncio: Option<u32>,
    pub(super) concurrency: usize,
    pub(super) payload_bytes: usize,
    /// From nothing to all workers ready.
    pub(super) start: Duration,
    pub(super) elapsed: Duration,
    pub(super) latencies: Histogram,
    /// PSS of each worker after the load.
    pub(super) memory: Vec<u64>,
}

impl Report {
    fn per_second(&self) -> f64 {
        self.latencies.total() as f64 / self.elapsed.as_secs_f64()
    }

    fn memory_per_worker(&self) -> Option<u64> {
        let total: u64 = self.memory.iter().sum();
        total.checked_div(self.memory.len() as u64)
    }

    pub(super) fn as_json(&self) -> serde_json::Value {
        let microseconds = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
        let quantile = |share| microseconds(self.latencies.quantile(share));
        json!({
            "function": self.function,
            "python": self.python,
            "backend": self.backend,
            "workers": self.workers,
            "threads": self.threads,
            "asyncio": self.asyncio,
            "concurrency": self.concurrency,
            "payload_bytes": self.payload_bytes,
            "start_ms": (self.start.as_secs_f64() * 1e4).round() / 10.0,
            "duration_s": self.elapsed.as_secs_f64(),
            "calls": self.latencies.total(),
            "calls_per_second": self.per_second().round(),
            "latency_us": {
                "p50": quantile(0.5),
                "p90": quantile(0.9),
                "p99": quantile(0.99),
                "max": microseconds(self.latencies.max()),
            },
            "memory_per_worker_bytes": self.memory_per_worker(),
        })
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        let style = Style::of_stdout();
        let plural = |number: usize, word: &str| match number {
            1 => format!("1 {word}"),
            _ => format!("{number} {word}s"),
        };
        let kind = match (self.threads, self.asyncio) {
            (Some(threads), _) => format!(" of {}", plural(threads as usize, "thread")),
            (None, Some(tasks)) => format!(" of {}", plural(tasks as usize, "task")),
            (None, None) => String::new(),
        };
        output::line(format_args!(
            "{} to {}{kind} ({} backend{}), {} each way, {}\n",
            style.bold(plural(self.concurrency, "caller")),
            style.bold(plural(self.workers, "worker")),
            self.backend,
            self.python
                .as_ref()
                .map_or(String::new(), |version| format!(", Python {version}")),
            bytes(self.payload_bytes as u64),
            duration(self.elapsed),
        ))?;
        let quantile = |share| duration(self.latencies.quantile(share));
        let mut rows = vec![
            (
                "start",
                duration(self.start),
                "until every worker was ready".to_owned(),
            ),
            (
                "throughput",
                format!("{}/s", grouped(self.per_second() as u64)),
                format!("{} calls", grouped(self.latencies.total())),
            ),
            ("p50", quantile(0.5), String::new()),
            ("p90", quantile(0.9), String::new()),
            ("p99", quantile(0.99), String::new()),
            ("max", duration(self.latencies.max()), String::new()),
        ];
        if let Some(memory) = self.memory_per_worker() {
            rows.push((
                "memory",
                bytes(memory),
                "per worker, its share of what is shared (PSS)".to_owned(),
            ));
        }
        for (name, figure, remark) in rows {
            let line = format!("  {name:<11} {figure:>11}   {}", style.dim(remark));
            output::line(line.trim_end())?;
        }
        Ok(())
    }
}
