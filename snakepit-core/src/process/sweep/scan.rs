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

/// How often one scan lists the processes: after the first time only what is new since is looked at, so that a
/// process is not missed for having been forked during the scan. On a busy machine there is always something new.
const LISTINGS: u32 = 6;

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
    let mut scan = Scan {
        index,
        proc: proc_dir::open()?,
        buffer: Vec::with_capacity(16 * 1024),
        found: vec![Finds::default(); index.queries.len()],
        unreadable: Vec::new(),
    };
    let mut seen: HashSet<u32> = ours.into_iter().collect();
    let mut empty = Vec::new();
    for _ in 0..LISTINGS {
        let mut pids = proc_dir::pids_in(&scan.proc)?;
        pids.retain(|pid| seen.insert(*pid));
        if pids.is_empty() {
            break;
        }
        // Newest first, as far as numbers tell: what was there for long will stay for this long.
        for pid in pids.into_iter().rev() {
            if scan.look_at(pid)? == Environ::Empty {
                empty.push(pid);
            }
        }
    }
    for _ in 1..EXEC_LOOKS {
        if empty.is_empty() {
            break;
        }
        std::thread::sleep(EXEC_PAUSE);
        let mut still = Vec::new();
        for pid in empty {
            if scan.look_at(pid)? == Environ::Empty {
                still.push(pid);
            }
        }
        empty = still;
    }
    let unreadable: Arc<[Stat]> = scan.unreadable.into();
    let found = scan.found.into_iter().map(|finds| Found {
        members: finds.members,
        fleeting: finds.fleeting,
        unreadable: Arc::clone(&unreadable),
    });
    Ok(found.collect())
}

/// A scan under way.
struct Scan<'a> {
    index: &'a Index<'a>,
    proc: OwnedFd,
    buffer: Vec<u8>,
    /// By asker.
    found: Vec<Finds>,
    unreadable: Vec<Stat>,
}

#[derive(Clone, Default)]
struct Finds {
    members: Vec<Member>,
    fleeting: u32,
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
        let by_tags = match read {
            Environ::Read => self.index.askers_by_tags(&Tags::parse(&self.buffer)),
            Environ::Empty | Environ::None => HashSet::new(),
        };
        let mut wanted = !by_tags.is_empty();
        if !wanted && !self.index.by_group.is_empty() {
            let stat = state(&self.proc, pid, &mut self.buffer)?;
            wanted = stat.is_some_and(|stat| self.index.by_group.contains_key(&stat.pgrp));
        }
        if !wanted {
            return Ok(read);
        }
        if !self.note(pid)? {
            for asker in by_tags {
                self.found[asker].fleeting += 1;
            }
        }
        Ok(Environ::Read)
    }

    /// Takes hold of a process and reads it again: only what is read while it is held counts. `false`
    /// when it is gone, or is not what was read before.
    fn note(&mut self, pid: u32) -> io::Result<bool> {
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
        let Some(member) = held else {
            return Ok(false);
        };
        for asker in askers {
            if let Some(signal) = index.queries[asker].signal {
                // Refused or ended: whoever asked looks at it again.
                let _ = member.pidfd.signal(signal);
            }
            self.found[asker].members.push(member.clone());
        }
        Ok(true)
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
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM))
}
