//! Becoming what the host asked for, and proving it: a guardian that cannot hold its workers refuses to run.

use crate::{
    failure::{At, Failure},
    namespace,
    proc::{Stat, open_children},
    sys::{
        self, Forked,
        constants::{CLONE_NEWPID, EINVAL, EIO, EPERM, PR_SET_CHILD_SUBREAPER, RLIMIT_NOFILE, SIGUSR1},
    },
    wire::{Level, Step},
};

/// The namespaces that are made for each keeper of this level.
pub(crate) fn namespaces(level: Level) -> u64 {
    match level {
        Level::Namespace => CLONE_NEWPID,
        Level::Subreaper | Level::Cgroup | Level::SharedNamespace => 0,
    }
}

/// Leaves the host's session, and takes over the orphans of keepers that are killed.
pub(crate) fn leave_session() -> Result<(), Failure> {
    sys::setsid().at(Step::Session)?;
    sys::prctl(PR_SET_CHILD_SUBREAPER, 1).at(Step::Subreaper)?;
    Ok(())
}

/// Each worker takes two descriptors here, so that as many as possible are allowed; the limit as it was.
pub(crate) fn raise_descriptors() -> Result<sys::Limit, Failure> {
    let limit = sys::limit(RLIMIT_NOFILE).at(Step::Rlimits)?;
    let raised = sys::Limit {
        soft: limit.hard,
        ..limit
    };
    sys::set_limit(RLIMIT_NOFILE, raised).at(Step::Rlimits)?;
    Ok(limit)
}

/// Makes sure that workers can be held at this level.
pub(crate) fn prove(level: Level) -> Result<(), Failure> {
    match level {
        Level::Subreaper | Level::Cgroup => prove_sweeps(),
        Level::Namespace | Level::SharedNamespace => prove_namespaces(),
    }
}

/// A sweep needs a `/proc` of this PID namespace that lists children.
fn prove_sweeps() -> Result<(), Failure> {
    let own = sys::getpid().at(Step::Subreaper)?;
    open_children(own, own).at(Step::Subreaper)?;
    let parent = sys::getppid().at(Step::Subreaper)?;
    match Stat::of(own) {
        Some(stat) if stat.parent == parent => Ok(()),
        _ => Err(Failure::new(Step::Subreaper, EINVAL)),
    }
}

/// Makes a namespace as a keeper's, in a user namespace where that is what it takes.
fn prove_namespaces() -> Result<(), Failure> {
    match try_namespaces() {
        Err(Failure {
            step: Step::PidNamespace,
            errno: EPERM,
        }) => {
            namespace::enter_user_namespace()?;
            try_namespaces()
        }
        tried => tried,
    }
}

fn try_namespaces() -> Result<(), Failure> {
    let (reading, writing) = sys::pipe().at(Step::Plumbing)?;
    match sys::fork(namespaces(Level::Namespace), SIGUSR1).at(Step::PidNamespace)? {
        Forked::Child => {
            let left = namespace::leave_mounts();
            let (step, errno) = left.map_or_else(|failure| failure.numbers(), |()| (0, 0));
            // Its end says the same, without a reason.
            let _ = sys::write(&writing, [step.to_ne_bytes(), errno.to_ne_bytes()].as_flattened());
            sys::exit(0)
        }
        Forked::Parent { pid, .. } => {
            drop(writing);
            let mut told = [[0; 8]; 2];
            let len = sys::read(&reading, told.as_flattened_mut());
            sys::wait_for(pid).at(Step::Fork)?;
            let [step, errno] = told.map(i64::from_ne_bytes);
            match (len, errno, Step::from_number(step)) {
                (Ok(16), 0, _) => Ok(()),
                (Ok(16), errno, Some(step)) => Err(Failure::new(step, errno as i32)),
                _ => Err(Failure::new(Step::MountProc, EIO)),
            }
        }
    }
}
