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
        proc_dir::{self, EXEC_LOOKS, EXEC_PAUSE, Environ, ProcDir, is_gone},
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
    let mut scan = Scan {
        index,
        proc,
        buffer: Vec::with_capacity(16 * 1024),
        members: vec![Vec::new(); index.queries.len()],
        unreadable: Vec::new(),
    };
    let mut again: Vec<u32> = pids.into_iter().filter(|pid| !ours.contains(pid)).collect();
    for look in 0..EXEC_LOOKS {
        if look > 0 {
            std::thread::sleep(EXEC_PAUSE);
        }
        let mut empty = Vec::new();
        for pid in again {
            if scan.look_at(pid)? == Environ::Empty {
                empty.push(pid);
            }
        }
        again = empty;
        if again.is_empty() {
            break;
        }
    }
    let unreadable: Arc<[Stat]> = scan.unreadable.into();
    let found = scan.members.into_iter().map(|members| Found {
        members,
        unreadable: Arc::clone(&unreadable),
    });
    Ok(found.collect())
}

/// A scan under way.
struct Scan<'a> {
    index: &'a Index<'a>,
    proc: OwnedFd,
    buffer: Vec<u8>,
    members: Vec<Vec<Member>>,
    unreadable: Vec<Stat>,
}

impl Scan<'_> {
    /// Looks at one process; `Empty` when it is to be looked at once more.
    fn look_at(&mut self, pid: u32) -> io::Result<Environ> {
        self.buffer.clear();
        let read = match proc_dir::read_environ(&self.proc, &format!("{pid}/"), &mut self.buffer) {
            Ok(read) => read,
            Err(error) if is_gone(&error) => return Ok(Environ::None),
            Err(error) if is_refused(&error) => {
                let stat = state(&self.proc, pid, &mut self.buffer)?;
                self.unreadable.extend(stat.filter(|stat| !stat.is_dead()));
                Environ::None
            }
            Err(error) => return Err(error),
        };
        let mut wanted =
            read == Environ::Read && !self.index.askers_by_tags(&Tags::parse(&self.buffer)).is_empty();
        if !wanted && !self.index.by_group.is_empty() {
            let stat = state(&self.proc, pid, &mut self.buffer)?;
            wanted = stat.is_some_and(|stat| self.index.by_group.contains_key(&stat.pgrp));
        }
        if !wanted {
            return Ok(read);
        }
        self.note(pid)?;
        Ok(Environ::Read)
    }

    /// Takes hold of a process and reads it again: only what is read while it is held counts.
    fn note(&mut self, pid: u32) -> io::Result<()> {
        let (index, buffer) = (self.index, &mut self.buffer);
        let mut askers = HashSet::new();
        let held = Member::hold(pid, |dir: &ProcDir, stat| {
            buffer.clear();
            match dir.environ(buffer) {
                Ok(Environ::Read) => askers = index.askers_by_tags(&Tags::parse(buffer)),
                Ok(Environ::Empty | Environ::None) => {}
                Err(error) if is_refused(&error) => {}
                Err(error) => return Err(error),
            }
            askers.extend(index.askers_by_group(stat));
            Ok(!askers.is_empty())
        })?;
        if let Some(member) = held {
            for asker in askers {
                self.members[asker].push(member.clone());
            }
        }
        Ok(())
    }
}

/// The state of a process, if there is one that we may see: `/proc` mounted with `hidepid=1` refuses even this
/// for other users' processes.
fn state(proc: &OwnedFd, pid: u32, buffer: &mut Vec<u8>) -> io::Result<Option<Stat>> {
    match proc_dir::stat_of(proc, pid, buffer) {
        Err(error) if is_refused(&error) => Ok(None),
        other => other,
    }
}

/// Whether an error says that we may not look into this process, while looking at others may go on.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
