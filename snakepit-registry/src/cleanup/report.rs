//! What a cleanup has found and done.

use std::{path::PathBuf, time::Duration};

use serde::{Serialize, Serializer};
use snakepit_core::{RunId, WorkerId};

use super::CleanupError;

/// What a cleanup has found and done.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Whether it only looked.
    pub dry_run: bool,
    /// The runs, by application.
    pub runs: Vec<RunReport>,
    /// What went wrong apart from single runs, as in a directory that cannot be read.
    pub problems: Vec<String>,
    /// How long it took, in milliseconds.
    #[serde(rename = "took_ms", serialize_with = "as_millis")]
    pub took: Duration,
}

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunReport {
    /// Its id.
    #[serde(serialize_with = "as_text")]
    pub run_id: RunId,
    /// Its application.
    pub app: String,
    /// What it is.
    pub state: RunState,
    /// Its directory, as it was found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
    /// The pid its host has or had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_pid: Option<u32>,
    /// Workers on record.
    pub rows: usize,
    /// Workers that were on record once and cannot be read any more.
    #[serde(skip_serializing_if = "is_zero")]
    pub lost_rows: usize,
    /// The processes of a dead run that were found alive.
    pub found: Vec<FoundProcess>,
    /// Processes of other users that are younger than its host and could not be looked into. Whether one of them belongs to the
    /// run is not known; most likely none does.
    #[serde(skip_serializing_if = "is_zero")]
    pub unseen: usize,
    /// What else there is to say, as in how a store was unreadable.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What keeps the run from being done with, besides processes that are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What became of its directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record: Option<RecordEnd>,
    /// How long it took, in milliseconds.
    #[serde(rename = "took_ms", serialize_with = "as_millis")]
    pub took: Duration,
}

/// What a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RunState {
    /// Its host lives; it was left alone.
    Alive,
    /// Its host is dead.
    Dead,
    /// Its host is dead, and what it recorded cannot be read.
    Unreadable,
    /// Its host is dead and has left no record; its processes were found by their environment.
    Unrecorded,
}

/// What became of the directory of a dead run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RecordEnd {
    /// It was removed.
    Removed,
    /// It was renamed, to be looked at by people.
    SetAside,
    /// It is kept for the next cleanup, since the run is not done with.
    Kept,
}

/// A process that a dead host has left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FoundProcess {
    /// Its pid.
    pub pid: u32,
    /// Its worker, where that is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_number")]
    pub worker: Option<WorkerId>,
    /// Its program's name.
    pub program: String,
    /// How it was told to belong to the run.
    pub by: FoundBy,
    /// What became of it.
    pub end: ProcessEnd,
    /// Why it is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How a process was told to belong to a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FoundBy {
    /// By its recorded identity.
    Record,
    /// As what keeps the worker's PID namespace.
    Keeper,
    /// By the run id in its environment.
    Environment,
    /// By being in a cgroup of the run.
    Cgroup,
}

/// What became of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProcessEnd {
    /// It has ended.
    Ended,
    /// It is still there.
    Left,
}

impl Report {
    /// The report of a cleanup that could not begin.
    pub fn of_failure(error: &CleanupError, dry_run: bool) -> Self {
        Self {
            dry_run,
            problems: vec![snakepit_core::rpc::error_chain(error)],
            ..Self::default()
        }
    }

    /// Whether nothing is left to do, as far as this user can [see](RunReport::unseen).
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.runs.iter().all(RunReport::is_done)
    }

    /// The runs whose hosts are dead.
    pub fn dead(&self) -> impl Iterator<Item = &RunReport> {
        self.runs.iter().filter(|run| run.state != RunState::Alive)
    }

    /// How many processes were ended.
    pub fn ended(&self) -> usize {
        self.runs.iter().map(|run| run.count(ProcessEnd::Ended)).sum()
    }

    /// How many processes are left.
    pub fn left(&self) -> usize {
        self.runs.iter().map(|run| run.count(ProcessEnd::Left)).sum()
    }

    /// What was found and done, in a line.
    pub fn summary(&self) -> String {
        let runs = self.dead().count();
        let left = self.left();
        let runs = format!("{runs} dead {}", if runs == 1 { "run" } else { "runs" });
        let took = self.took.as_secs_f64() * 1e3;
        if self.dry_run {
            return format!("{} of {runs} would be ended", processes(left));
        }
        let mut text = format!("{} of {runs} ended in {took:.0} ms", processes(self.ended()));
        if left > 0 {
            text.push_str(&format!(", {left} are left"));
        }
        let undone = self.runs.iter().filter_map(|run| run.problem.as_deref());
        for problem in self.problems.iter().map(String::as_str).chain(undone) {
            text.push_str("; ");
            text.push_str(problem);
        }
        text
    }

    /// Whether there is anything worth telling: a process, a store that cannot be read, or a problem. What a host leaves
    /// that died without workers is removed without a word.
    pub fn has_findings(&self) -> bool {
        !self.problems.is_empty()
            || self.dead().any(|run| {
                !run.found.is_empty() || run.problem.is_some() || run.state == RunState::Unreadable
            })
    }
}

impl RunReport {
    pub(super) fn new(run_id: RunId, app: &str, state: RunState) -> Self {
        Self {
            run_id,
            app: app.to_owned(),
            state,
            directory: None,
            host_pid: None,
            rows: 0,
            lost_rows: 0,
            found: Vec::new(),
            unseen: 0,
            notes: Vec::new(),
            problem: None,
            record: None,
            took: Duration::ZERO,
        }
    }

    /// Whether nothing is left to do for it.
    pub fn is_done(&self) -> bool {
        self.state == RunState::Alive
            || (self.problem.is_none()
                && self.record != Some(RecordEnd::Kept)
                && self.count(ProcessEnd::Left) == 0)
    }

    /// How many of its processes came to this end.
    pub fn count(&self, end: ProcessEnd) -> usize {
        self.found.iter().filter(|process| process.end == end).count()
    }
}

/// A number of processes, in words.
pub fn processes(number: usize) -> String {
    format!("{number} {}", if number == 1 { "process" } else { "processes" })
}

fn as_text<S: Serializer>(id: &RunId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn as_number<S: Serializer>(worker: &Option<WorkerId>, to: S) -> Result<S::Ok, S::Error> {
    worker.map(|worker| worker.0).serialize(to)
}

fn as_millis<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
    // Tenths are as exact as it makes sense to be.
    to.serialize_f64((time.as_secs_f64() * 1e4).round() / 10.0)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes the field by reference"
)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}
