//! Ending what hosts have left behind that died.
//!
//! [`run`] is what a pool does when it starts and what `snakepit cleanup` does. It can be interrupted at any instant,
//! also by SIGKILL: what it has not come to is done by the next. Several at a time do not get in each other's way.
//!
//! For each run on record it asks whether the host lives: it does as long as it holds the lock in its directory, unless its
//! identity says that it is gone for certain. A run that is alive is left alone. Of one that is dead
//!
//! - nothing is looked for if it belongs to an earlier boot;
//! - what was recorded is ended if it is still identified: cgroups of the run as a whole, PID namespaces by their first process,
//!   workers with everything below them;
//! - then everything that carries the run in its environment, until nothing of the kind is found any more;
//! - then its directory is removed, or set aside if its store could not be read.
//!
//! After that come processes of the application whose run has no record, and whose host is gone for certain. Their
//! environment tells the application and its state directory ([`Settings::tag`]) and the host.
//!
//! It never ends itself nor an ancestor of its own.
//!
//! Only root, or who has the capability to trace them, may look into the processes of other users, and so into a program
//! that a worker started and that runs as another user. [`RunReport::unseen`] counts those that could belong to a run.

mod end;
mod read;
mod report;
mod survey;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use report::{FoundBy, FoundProcess, ProcessEnd, RecordEnd, Report, RunReport, RunState, processes};
use snakepit_core::{
    RunId,
    process::{
        ProcessIdentity,
        sweep::{Tagged, tagged},
    },
};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};

use self::{
    end::{Ending, Ourselves, carries},
    read::Place,
    survey::{Found, Look},
};
use crate::{
    host::{self, Life},
    layout::{self, Kind},
    settings::{AppNameError, Settings, absolute, check_app, parse_tag},
};

/// Stores read at a time: each keeps threads of sled busy.
const READERS: usize = 8;

/// Whose runs are cleaned up after.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Apps {
    One(String),
    All,
}

/// What to clean up, and how.
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a cleanup is run with them"]
pub struct CleanupOptions {
    state_dir: PathBuf,
    apps: Apps,
    dry_run: bool,
    bound: Duration,
    grace: Duration,
    unrecorded: bool,
}

impl CleanupOptions {
    /// All dead runs of an application: at most 60 s, SIGKILL at once.
    pub fn new(state_dir: impl Into<PathBuf>, app: impl Into<String>) -> Self {
        Self {
            state_dir: absolute(state_dir.into()),
            apps: Apps::One(app.into()),
            dry_run: false,
            bound: Duration::from_secs(60),
            grace: Duration::ZERO,
            unrecorded: true,
        }
    }

    /// What a pool does when it starts.
    pub fn at_start(settings: &Settings) -> Self {
        Self::new(settings.state_dir(), settings.app()).with_bound(settings.cleanup_bound())
    }

    /// Every application in the state directory.
    pub fn with_all_apps(self) -> Self {
        Self {
            apps: Apps::All,
            ..self
        }
    }

    /// Only looks: nothing is ended, removed or written. Default no.
    pub fn with_dry_run(self, dry_run: bool) -> Self {
        Self { dry_run, ..self }
    }

    /// How long it may take; what is not done by then is reported as left. Default 60 s.
    pub fn with_bound(self, bound: Duration) -> Self {
        Self { bound, ..self }
    }

    /// From SIGTERM to SIGKILL. Default zero, which is SIGKILL at once: nobody is left for whom they could finish anything.
    pub fn with_grace(self, grace: Duration) -> Self {
        Self { grace, ..self }
    }

    /// Whether all processes are looked at only to find those whose run has no record. Where a dead run is on record they
    /// are looked at anyway. Default yes; it takes milliseconds.
    pub fn with_unrecorded(self, unrecorded: bool) -> Self {
        Self { unrecorded, ..self }
    }
}

/// Why a cleanup could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CleanupError {
    /// The application's name.
    #[error(transparent)]
    App(#[from] AppNameError),
    /// The state directory cannot be read.
    #[error("cannot read {}{}", path.display(), owned_by(*.owner))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The user it belongs to, where that can be seen.
        owner: Option<u32>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Processes cannot be looked at.
    #[error("cannot look at processes")]
    Processes(#[source] io::Error),
}

fn owned_by(owner: Option<u32>) -> String {
    let us = rustix::process::geteuid().as_raw();
    owner
        .filter(|owner| *owner != us)
        .map_or_else(String::new, |owner| {
            format!(", which belongs to user {owner} (this is user {us}): run the cleanup as that user, or as root")
        })
}

/// The user a directory belongs to, or what is above it where that cannot be seen.
fn owner_of(path: &Path) -> Option<u32> {
    path.ancestors()
        .find_map(|path| fs::symlink_metadata(path).ok())
        .map(|found| found.uid())
}

fn unreadable(path: &Path, source: io::Error) -> CleanupError {
    CleanupError::Directory {
        path: path.to_owned(),
        owner: owner_of(path),
        source,
    }
}

/// Cleans up.
///
/// # Errors
/// When it could not begin. What goes wrong with single runs is in the report.
///
/// # Panics
/// Outside a tokio runtime with I/O and time enabled.
///
/// # Cancel safety
/// Dropping the future stops it where it is; the next cleanup does the rest.
pub async fn run(options: &CleanupOptions) -> Result<Report, CleanupError> {
    let began = Instant::now();
    let deadline = began + options.bound;
    let ours = Ourselves::look().map_err(CleanupError::Processes)?;
    let mut report = Report {
        dry_run: options.dry_run,
        ..Report::default()
    };
    let surveyed = blocking({
        let options = options.clone();
        move || survey_all(&options)
    })
    .await?;
    report.problems = surveyed.problems;

    let mut looks = JoinSet::new();
    for run in surveyed.runs {
        looks.spawn(async move { (survey::look(&run, deadline).await, run) });
    }
    let mut dead = Vec::new();
    for (look, run) in join_all(looks).await {
        match look {
            Ok(Look::Alive(host)) => {
                let mut alive = RunReport::new(run.run_id, &run.app, RunState::Alive);
                alive.rows = crate::store::read_count(&run.path).unwrap_or(0);
                alive.host_pid = host.map(|host| host.pid);
                alive.directory = Some(run.path);
                report.runs.push(alive);
            }
            Ok(Look::Dead(host)) => dead.push((run, host)),
            Ok(Look::Vanished) => {}
            Err(error) => report.problems.push(of_directory(&run.path, &error)),
        }
    }
    if !dead.is_empty() || options.unrecorded {
        let tagged = blocking(tagged).await.map_err(CleanupError::Processes)?;
        let job = Arc::new(Job {
            options: options.clone(),
            ours,
            tagged,
            deadline,
            readers: Semaphore::new(READERS),
        });
        let known: BTreeSet<RunId> = report.runs.iter().map(|run| run.run_id).collect();
        let known = dead.iter().map(|(run, _)| run.run_id).chain(known).collect();
        report.runs.extend(job.recorded(dead).await);
        report.runs.extend(job.unrecorded(&known).await);
    }
    report
        .runs
        .sort_by(|a, b| (&a.app, a.state as u8, a.run_id).cmp(&(&b.app, b.state as u8, b.run_id)));
    report.took = began.elapsed();
    Ok(report)
}

/// The applications in a state directory that have runs of dead hosts, with how many.
///
/// # Errors
/// When the directory cannot be read.
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Cancel safety
/// Safe; it only looks.
pub async fn dead_runs(state_dir: &Path) -> Result<BTreeMap<String, usize>, CleanupError> {
    let options = CleanupOptions::new(state_dir, "all")
        .with_all_apps()
        .with_dry_run(true);
    let surveyed = blocking(move || survey_all(&options)).await?;
    let mut dead = BTreeMap::new();
    for run in surveyed.runs {
        // No patience: it is only told.
        if let Ok(Look::Dead(_)) = survey::look(&run, Instant::now()).await {
            *dead.entry(run.app).or_default() += 1;
        }
    }
    Ok(dead)
}

/// All runs of the applications that are meant.
#[derive(Debug, Default)]
struct Surveyed {
    runs: Vec<Found>,
    problems: Vec<String>,
}

fn survey_all(options: &CleanupOptions) -> Result<Surveyed, CleanupError> {
    let state_dir = &options.state_dir;
    let apps = match &options.apps {
        Apps::One(app) => {
            check_app(app)?;
            vec![app.clone()]
        }
        Apps::All => survey::apps(state_dir).map_err(|error| unreadable(state_dir, error))?,
    };
    let mut all = Surveyed::default();
    for app in apps {
        let app_dir = state_dir.join(&app);
        let survey = match survey::survey(&app, &app_dir) {
            Ok(survey) => survey,
            Err(error) => match options.apps {
                Apps::One(_) => return Err(unreadable(&app_dir, error)),
                Apps::All => {
                    let error = unreadable(&app_dir, error);
                    all.problems.push(snakepit_core::rpc::error_chain(&error));
                    continue;
                }
            },
        };
        if survey.set_aside > 0 {
            tracing::debug!(
                app,
                stores = survey.set_aside,
                "stores that could not be read are kept"
            );
        }
        for leftover in survey.leftovers.iter().filter(|_| !options.dry_run) {
            if let Err(error) = survey::remove_leftover(&app_dir, leftover) {
                all.problems.push(of_directory(&leftover.2, &error));
            }
        }
        all.runs.extend(survey.runs);
    }
    Ok(all)
}

fn of_directory(path: &Path, error: &io::Error) -> String {
    format!("{}{}: {error}", path.display(), owned_by(owner_of(path)))
}

/// A cleanup under way.
#[derive(Debug)]
struct Job {
    options: CleanupOptions,
    ours: Ourselves,
    tagged: Vec<Tagged>,
    deadline: Instant,
    readers: Semaphore,
}

impl Job {
    /// Cleans up after runs on record, all at a time.
    async fn recorded(self: &Arc<Self>, dead: Vec<(Found, Option<ProcessIdentity>)>) -> Vec<RunReport> {
        let mut jobs = JoinSet::new();
        for (run, host) in dead {
            let job = Arc::clone(self);
            jobs.spawn(async move {
                let began = Instant::now();
                let mut report = RunReport::new(run.run_id, &run.app, RunState::Dead);
                report.directory = Some(run.path.clone());
                report.host_pid = host.as_ref().map(|host| host.pid);
                if !job.clean(&run, host.as_ref(), &mut report).await {
                    return None;
                }
                report.took = began.elapsed();
                Some(report)
            });
        }
        join_all(jobs).await.into_iter().flatten().collect()
    }

    /// Cleans up after one run. `false` when somebody else has done so meanwhile.
    async fn clean(&self, run: &Found, host: Option<&ProcessIdentity>, report: &mut RunReport) -> bool {
        let dry_run = self.options.dry_run;
        let _claim = if dry_run {
            None
        } else {
            match survey::claim(run, self.deadline).await {
                Ok(Some(claim)) => Some(claim),
                Ok(None) => return false,
                Err(error) => {
                    report.problem = Some(of_directory(&run.path, &error));
                    report.record = Some(RecordEnd::Kept);
                    return true;
                }
            }
        };
        let place = if dry_run { Place::Temporary } else { Place::Run };
        let path = run.path.clone();
        let contents = {
            // Never closed.
            let _turn = self.readers.acquire().await;
            blocking(move || read::contents(&path, place)).await
        };
        let rows = match contents {
            Ok(contents) => {
                report.rows = contents.rows.len();
                report.lost_rows = contents.lost;
                if contents.lost > 0 {
                    report.notes.push(format!(
                        "{} recorded workers cannot be read any more; they were looked for by their environment",
                        contents.lost
                    ));
                }
                contents.rows
            }
            Err(error) => {
                report.state = RunState::Unreadable;
                report.notes.push(snakepit_core::rpc::error_chain(&error));
                Vec::new()
            }
        };
        let identities = rows.iter().filter_map(|row| row.identity.as_ref());
        let other_boot = host.map(host::is_of_another_boot).unwrap_or_else(|| {
            let mut boots = identities.map(host::is_of_another_boot).peekable();
            boots.peek().is_some() && boots.all(|other| other)
        });
        if other_boot {
            report
                .notes
                .push("it was before the machine started anew".to_owned());
        } else {
            let ending = Ending {
                run_id: run.run_id,
                since: host.map(|host| host.start_ticks),
                rows: &rows,
                tagged: &self.tagged,
                ours: &self.ours,
                grace: self.options.grace,
                deadline: self.deadline,
            };
            self.end(&ending, report).await;
        }
        if !dry_run {
            self.close(run, report).await;
        }
        true
    }

    async fn end(&self, ending: &Ending<'_>, report: &mut RunReport) {
        let ended = if self.options.dry_run {
            ending.look().await
        } else {
            ending.run().await
        };
        report.found = ended.found;
        report.notes.extend(ended.notes);
        report.problem = ended.problem;
        report.unseen = ended.unseen;
        if ended.unseen > 0 {
            report.notes.push(format!(
                "{} of other users, younger than its host, could not be looked into; as root they can be",
                processes(ended.unseen)
            ));
        }
        if self.options.dry_run {
            // Nothing was tried.
            for process in &mut report.found {
                process.why = None;
            }
        }
    }

    /// Removes the record of a run, sets it aside, or keeps it for the next time.
    async fn close(&self, run: &Found, report: &mut RunReport) {
        if report.problem.is_some() || report.count(ProcessEnd::Left) > 0 {
            report.record = Some(RecordEnd::Kept);
            return;
        }
        let set_aside = report.state == RunState::Unreadable;
        let (run_id, path) = (run.run_id, run.path.clone());
        let app_dir = self.options.state_dir.join(&run.app);
        let closed = blocking(move || {
            if set_aside {
                let aside = Kind::Unreadable.path(&app_dir, run_id);
                // Of the same run, so that it can only be what a restored backup has brought back.
                layout::remove_all(&aside)?;
                fs::rename(&path, &aside)?;
                Ok(aside)
            } else {
                layout::remove(&app_dir, &path, run_id).map(|()| path)
            }
        })
        .await;
        match closed {
            Ok(path) if set_aside => {
                report.record = Some(RecordEnd::SetAside);
                report
                    .notes
                    .push(format!("its directory is kept as {}", path.display()));
            }
            Ok(_) => report.record = Some(RecordEnd::Removed),
            Err(error) => {
                report.problem = Some(of_directory(&run.path, &error));
                report.record = Some(RecordEnd::Kept);
            }
        }
    }

    /// Ends processes of runs without a record, whose hosts are gone for certain.
    async fn unrecorded(&self, known: &BTreeSet<RunId>) -> Vec<RunReport> {
        let mut orphaned: BTreeMap<RunId, (String, ProcessIdentity)> = BTreeMap::new();
        for process in &self.tagged {
            let tags = &process.tags;
            let app = tags.app.as_deref().and_then(parse_tag);
            let (Some(run_id), Some((app, state_dir)), Some(host)) = (tags.run_id, app, &tags.host) else {
                continue;
            };
            let wanted = match &self.options.apps {
                Apps::One(one) => one == app,
                Apps::All => true,
            };
            let ours = state_dir == self.options.state_dir.to_string_lossy();
            if !wanted || !ours || known.contains(&run_id) {
                continue;
            }
            // One that began after we looked is the next cleanup's.
            let app_dir = self.options.state_dir.join(app);
            if Kind::Run.path(&app_dir, run_id).exists() {
                continue;
            }
            let Some(host) = host::parse_host(host) else {
                continue;
            };
            if host::life(&host) == Life::Gone {
                orphaned.insert(run_id, (app.to_owned(), host));
            }
        }
        let mut reports = Vec::new();
        for (run_id, (app, host)) in orphaned {
            let began = Instant::now();
            let mut report = RunReport::new(run_id, &app, RunState::Unrecorded);
            report.host_pid = Some(host.pid);
            let ending = Ending {
                run_id,
                since: Some(host.start_ticks),
                rows: &[],
                tagged: &self.tagged,
                ours: &self.ours,
                grace: self.options.grace,
                deadline: self.deadline,
            };
            debug_assert!(self.tagged.iter().any(|process| carries(process, run_id)));
            self.end(&ending, &mut report).await;
            report.took = began.elapsed();
            reports.push(report);
        }
        reports
    }
}

/// The results of all tasks. A panic of one goes on here.
async fn join_all<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut results = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done {
            Ok(result) => results.push(result),
            // Nobody aborts them, so that it is a panic or the end of the runtime.
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    results
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
