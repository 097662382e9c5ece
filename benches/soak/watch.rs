//! Who watches: memory, descriptors, threads and latency, of the host and its workers.

use std::{fs, sync::Arc, time::Duration};

use snakepit::{Event, EventKind, Pool};
use tokio::sync::broadcast::{self, error::TryRecvError};

use super::{Result, Summary, load::Tally, trend::quantile};

/// One look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) at: Duration,
    /// What the host has for itself: its heap, its stacks.
    pub(crate) host_own_mib: f64,
    /// What it shares with workers. It follows what large values happened to be under way, up to 16 MiB each way and worker.
    pub(crate) host_shared_mib: f64,
    pub(crate) host_fds: f64,
    pub(crate) host_threads: f64,
    /// The mean of the workers.
    pub(crate) worker_rss_mib: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Looks, and counts what happens to workers.
#[derive(Debug)]
pub(crate) struct Watch {
    pool: Pool,
    tally: Arc<Tally>,
    events: broadcast::Receiver<Event>,
    looks: Vec<Look>,
    deaths: u64,
    replaced: u64,
}

impl Watch {
    pub(crate) fn new(pool: &Pool, tally: Arc<Tally>) -> Self {
        Self {
            pool: pool.clone(),
            tally,
            events: pool.events(),
            looks: Vec::new(),
            deaths: 0,
            replaced: 0,
        }
    }

    /// Looks now, `at` after the beginning.
    pub(crate) async fn look(&mut self, at: Duration) -> Result<()> {
        self.listen();
        let status = self.pool.status().await;
        let pids = status.workers.iter().filter_map(|worker| worker.child.status.pid);
        // One may end just now.
        let resident: Vec<_> = pids.filter_map(|pid| rss_mib(&pid.to_string()).ok()).collect();
        let probes = self.tally.take_probes();
        let before = self.looks.last();
        self.looks.push(Look {
            at,
            host_own_mib: own_mib("RssAnon:")?,
            host_shared_mib: own_mib("RssShmem:")?,
            host_fds: count("/proc/self/fd")?,
            host_threads: count("/proc/self/task")?,
            worker_rss_mib: resident.iter().sum::<f64>() / resident.len().max(1) as f64,
            p50_us: quantile(probes.clone(), 0.5)
                .or(before.map(|look| look.p50_us))
                .unwrap_or(0.0),
            p99_us: quantile(probes, 0.99)
                .or(before.map(|look| look.p99_us))
                .unwrap_or(0.0),
        });
        Ok(())
    }

    fn listen(&mut self) {
        loop {
            match self.events.try_recv() {
                Ok(event) => match event.kind {
                    EventKind::WorkerReplaced { .. } => self.replaced += 1,
                    EventKind::WorkerDown { down, .. } if !down.reason.is_normal() => self.deaths += 1,
                    _ => {}
                },
                // The numbers of a look that comes late are too small, and the soak goes on.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    /// The last look, for people.
    pub(crate) fn line(&self) -> String {
        let Some(look) = self.looks.last() else {
            return String::new();
        };
        format!(
            "{:>5} s: host {:.1} MiB and {:.1} shared, {} fds, {} threads; workers {:.1} MiB; p50 {:.0} us, p99 {:.0} us; {} calls, \
             {} workers died, {} replaced",
            look.at.as_secs(),
            look.host_own_mib,
            look.host_shared_mib,
            look.host_fds,
            look.host_threads,
            look.worker_rss_mib,
            look.p50_us,
            look.p99_us,
            self.tally.calls(),
            self.deaths,
            self.replaced
        )
    }

    pub(crate) fn summary(mut self) -> Summary {
        self.listen();
        Summary::new(&self.looks, &self.tally, (self.deaths, self.replaced))
    }
}

/// Resident memory of this process, of one kind.
fn own_mib(kind: &str) -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(kind));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.ok_or_else(|| format!("no {kind} in /proc/self/status"))? / 1024.0)
}

/// Resident memory of a process.
fn rss_mib(pid: &str) -> Result<f64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = statm.split(' ').nth(1).ok_or("statm has a second field")?;
    let bytes = pages.parse::<f64>()? * rustix::param::page_size() as f64;
    Ok(bytes / f64::from(1 << 20))
}

/// Entries of a directory.
fn count(directory: &str) -> Result<f64> {
    Ok(fs::read_dir(directory)?.count() as f64)
}
