//! The processes below a process.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::Arc,
};

use super::{
    Pidfd, ProcessIdentity, Stat,
    proc_dir::{self, ProcDir},
};

/// A process found by looking around, held so that it stays the one that was found.
#[derive(Clone, Debug)]
pub struct Member {
    /// The handle on it.
    pub pidfd: Arc<Pidfd>,
    /// Its state when it was found.
    pub stat: Stat,
}

impl Member {
    /// Its full identity, as a report wants it.
    ///
    /// # Errors
    /// What reading `/proc` answers.
    pub fn identity(&self) -> io::Result<ProcessIdentity> {
        ProcessIdentity::from_parts(&self.pidfd, &self.stat)
    }

    /// Takes hold of the process with this pid if it lives and `accept` recognises it; `None` otherwise.
    ///
    /// The directory is opened before the pidfd and read after it: if it can still be read, the process was
    /// there all the time, and both are the same one.
    pub(super) fn hold(
        pid: u32,
        accept: impl FnOnce(&ProcDir, &Stat) -> io::Result<bool>,
    ) -> io::Result<Option<Self>> {
        let Some(dir) = ProcDir::open(pid)? else {
            return Ok(None);
        };
        let pidfd = match Pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(stat) = dir.stat()?.filter(|stat| !stat.is_dead()) else {
            return Ok(None);
        };
        Ok(accept(&dir, &stat)?.then(|| Self {
            pidfd: Arc::new(pidfd),
            stat,
        }))
    }
}

/// The living descendants of a process, nearest first, as far as the links from parent to child go: what was
/// orphaned has another parent now. A process whose first thread has ended is walked as well.
///
/// # Errors
/// What reading `/proc` or opening a descriptor answers, as with `EMFILE`.
pub fn descendants(root: &Pidfd) -> io::Result<Vec<Member>> {
    let mut found: Vec<Member> = Vec::new();
    // The root, then indices of what was found.
    let mut parents = VecDeque::from([None]);
    // Read only if the kernel lacks the `children` files.
    let mut by_parent: Option<HashMap<u32, Vec<u32>>> = None;
    while let Some(at) = parents.pop_front() {
        let parent = match at {
            None => None,
            Some(at) => found.get::<usize>(at).map(|member| Arc::clone(&member.pidfd)),
        };
        let parent: &Pidfd = parent.as_deref().unwrap_or(root);
        let Some(dir) = ProcDir::open(parent.pid())? else {
            continue;
        };
        // Not ended after the directory was opened: the directory is its own, and not that of a later process.
        if parent.has_exited() {
            continue;
        }
        let children = match dir.children() {
            Ok(children) => children.unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                if by_parent.is_none() {
                    by_parent = Some(children_by_scan()?);
                }
                let children = by_parent.as_ref().and_then(|map| map.get(&parent.pid()));
                children.cloned().unwrap_or_default()
            }
            Err(error) => return Err(error),
        };
        for pid in children {
            let held = Member::hold(pid, |_, stat| {
                // Asked after the child's state was read: then its parent's number still meant our parent.
                Ok(stat.ppid == parent.pid() && !parent.has_exited())
            })?;
            if let Some(member) = held {
                parents.push_back(Some(found.len()));
                found.push(member);
            }
        }
    }
    Ok(found)
}

/// Children by parent, from one look at every process.
fn children_by_scan() -> io::Result<HashMap<u32, Vec<u32>>> {
    let proc = proc_dir::open()?;
    let pids = proc_dir::pids_in(&proc)?;
    let mut map: HashMap<u32, Vec<u32>> = HashMap::new();
    let mut buffer = Vec::new();
    for pid in pids {
        if let Some(stat) = proc_dir::stat_of(&proc, pid, &mut buffer)? {
            map.entry(stat.ppid).or_default().push(pid);
        }
    }
    Ok(map)
}

/// Our own pid and those of all our ancestors: what must never be ended by us.
///
/// # Errors
/// What reading `/proc` answers.
pub fn ourselves_and_ancestors() -> io::Result<Vec<u32>> {
    let mut line = vec![std::process::id()];
    while let Some(&pid) = line.last() {
        match Stat::read(pid) {
            // 0 is the parent of what has none in this PID namespace.
            Ok(stat) if stat.ppid == 0 || line.contains(&stat.ppid) => break,
            Ok(stat) => line.push(stat.ppid),
            // An ancestor that ends while we look has handed its children to one further up; start again.
            Err(error) if proc_dir::is_gone(&error) && line.len() > 1 => line.truncate(1),
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Child, eventually},
        *,
    };

    fn pids_below(child: &Child) -> Vec<u32> {
        let root = Pidfd::open(child.pid()).unwrap();
        let found = descendants(&root).unwrap();
        found.iter().map(|member| member.stat.pid).collect()
    }

    #[test]
    fn walks_to_grandchildren_in_sessions_of_their_own() {
        let child =
            Child::start("exec 3<&0; (setsid sh -c 'read line <&3; :' & read line <&3; :) & read line");
        eventually("child, grandchild", || pids_below(&child).len() == 2);
        let root = Pidfd::open(child.pid()).unwrap();
        let members = descendants(&root).unwrap();
        assert_eq!(members[0].stat.ppid, child.pid());
        for member in &members {
            assert!(!member.pidfd.has_exited());
            member.pidfd.signal(libc::SIGKILL).unwrap();
        }
        eventually("the tree is empty", || pids_below(&child).is_empty());
    }

    #[test]
    fn agrees_with_a_scan_of_all_processes() {
        let child = Child::start("exec 3<&0; (read line <&3) & read line");
        eventually("one child", || pids_below(&child).len() == 1);
        let scanned = children_by_scan().unwrap();
        assert_eq!(scanned[&child.pid()], pids_below(&child));
    }

    #[test]
    fn our_line_begins_with_us() {
        let line = ourselves_and_ancestors().unwrap();
        assert_eq!(line[0], std::process::id());
        assert!(line.len() > 1 || line == [1]);
    }
}
