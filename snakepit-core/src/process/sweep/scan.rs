//! One look at every process, for all who asked.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::OwnedFd,
    sync::Arc,
};

use super::{
    super::{
        Member, Stat,
        proc_dir::{self, ProcDir, is_gone},
        tree::ourselves_and_ancestors,
    },
    Found, SweepQuery, SweepTarget,
    tags::Tags,
};
use crate::id::RunId;

/// Who asks for what, by what a process may show.
struct Index<'a> {
    queries: &'a [SweepQuery],
    by_worker: HashMap<(RunId, u64), Vec<usize>>,
    by_run: HashMap<RunId, Vec<usize>>,
    by_group: HashMap<u32, Vec<usize>>,
}

impl<'a> Index<'a> {
    fn of(queries: &'a [SweepQuery]) -> Self {
        let mut index = Self {
            queries,
            by_worker: HashMap::new(),
            by_run: HashMap::new(),
            by_group: HashMap::new(),
        };
        for (n, query) in queries.iter().enumerate() {
            match query.target {
                SweepTarget::Worker { run_id, worker_id } => {
                    index.by_worker.entry((run_id, worker_id.0)).or_default().push(n);
                }
                SweepTarget::Run(run_id) => index.by_run.entry(run_id).or_default().push(n),
            }
            if let Some(group) = &query.group {
                index.by_group.entry(group.pgid()).or_default().push(n);
            }
        }
        index
    }

    fn askers_by_tags(&self, tags: &Tags) -> HashSet<usize> {
        let mut askers = HashSet::new();
        if let (Some(run_id), Some(worker_id)) = (tags.run_id, tags.worker_id) {
            askers.extend(self.by_worker.get(&(run_id, worker_id.0)).into_iter().flatten());
        }
        for run_id in tags.run_id.iter().chain(&tags.outer_run_ids) {
            askers.extend(self.by_run.get(run_id).into_iter().flatten());
        }
        askers
    }

    fn askers_by_group(&self, stat: &Stat) -> impl Iterator<Item = usize> {
        self.by_group
            .get(&stat.pgrp)
            .into_iter()
            .flatten()
            .copied()
            // Asked after the state was read: a number that is held now was held then.
            .filter(|&n| {
                self.queries[n]
                    .group
                    .as_ref()
                    .is_some_and(super::ProcessGroup::holds_number)
            })
    }
}

/// Answers all queries from one pass over `/proc`.
pub(super) fn scan(queries: &[SweepQuery]) -> Vec<io::Result<Found>> {
    match try_scan(&Index::of(queries)) {
        Ok(found) => found.into_iter().map(Ok).collect(),
        Err(error) => queries
            .iter()
            .map(|_| {
                Err(match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(error.kind(), error.to_string()),
                })
            })
            .collect(),
    }
}

fn try_scan(index: &Index<'_>) -> io::Result<Vec<Found>> {
    let ours = ourselves_and_ancestors()?;
    let (proc, pids) = proc_dir::all_pids()?;
    let mut members = vec![Vec::new(); index.queries.len()];
    let mut unreadable = Vec::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    for pid in pids.into_iter().filter(|pid| !ours.contains(pid)) {
        buffer.clear();
        let mut wanted = match proc_dir::read_environ(&proc, &format!("{pid}/"), &mut buffer) {
            Ok(false) => false,
            Ok(true) => !index.askers_by_tags(&Tags::parse(&buffer)).is_empty(),
            Err(error) if is_gone(&error) => continue,
            Err(error) if is_refused(&error) => {
                unreadable.extend(state(&proc, pid, &mut buffer)?.filter(|stat| !stat.is_dead()));
                false
            }
            Err(error) => return Err(error),
        };
        if !wanted && !index.by_group.is_empty() {
            let stat = state(&proc, pid, &mut buffer)?;
            wanted = stat.is_some_and(|stat| index.by_group.contains_key(&stat.pgrp));
        }
        if wanted {
            note(index, pid, &mut buffer, &mut members)?;
        }
    }
    let unreadable: Arc<[Stat]> = unreadable.into();
    let found = members.into_iter().map(|members| Found {
        members,
        unreadable: Arc::clone(&unreadable),
    });
    Ok(found.collect())
}

/// The state of a process, if there is one that we may see: `/proc` mounted with `hidepid=1` refuses even this
/// for other users' processes.
fn state(proc: &OwnedFd, pid: u32, buffer: &mut Vec<u8>) -> io::Result<Option<Stat>> {
    match proc_dir::stat_of(proc, pid, buffer) {
        Err(error) if is_refused(&error) => Ok(None),
        other => other,
    }
}

/// Takes hold of a process and reads it again: only what is read while it is held counts.
fn note(index: &Index<'_>, pid: u32, buffer: &mut Vec<u8>, members: &mut [Vec<Member>]) -> io::Result<()> {
    let mut askers = HashSet::new();
    let held = Member::hold(pid, |dir: &ProcDir, stat| {
        buffer.clear();
        match dir.environ(buffer) {
            Ok(true) => askers = index.askers_by_tags(&Tags::parse(buffer)),
            Ok(false) => {}
            Err(error) if is_refused(&error) => {}
            Err(error) => return Err(error),
        }
        askers.extend(index.askers_by_group(stat));
        Ok(!askers.is_empty())
    })?;
    if let Some(member) = held {
        for asker in askers {
            members[asker].push(member.clone());
        }
    }
    Ok(())
}

/// Whether an error says that we may not look into this process, while looking at others may go on.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
