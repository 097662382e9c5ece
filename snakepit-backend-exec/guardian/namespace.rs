//! Namespaces: user_namespaces(7), pid_namespaces(7), mount_namespaces(7).

use std::{fs, io, os::fd::OwnedFd};

use crate::{
    failure::{At, Failure, errno},
    sys::{
        self,
        constants::{
            CLONE_NEWNS, CLONE_NEWUSER, EINVAL, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC, O_PATH,
        },
    },
    wire::Step,
};

/// Makes a user namespace for this process in which its user and group have their own numbers and it may do
/// everything else. Not possible below chroot(2).
pub(crate) fn enter_user_namespace() -> Result<(), Failure> {
    // The effective ones, as they are what may be mapped without rights.
    let (uid, gid) = (sys::geteuid().at(Step::IdMap)?, sys::getegid().at(Step::IdMap)?);
    sys::unshare(CLONE_NEWUSER).at(Step::UserNamespace)?;
    // Without rights, the group can be mapped only where supplementary groups can no longer be dropped.
    write("setgroups", "deny")?;
    write("uid_map", &format!("{uid} {uid} 1"))?;
    write("gid_map", &format!("{gid} {gid} 1"))
}

fn write(file: &str, text: &str) -> Result<(), Failure> {
    fs::write(format!("/proc/self/{file}"), text).at(Step::IdMap)
}

/// Gives the first process of a PID namespace, which is this one, mounts of its own and in them a `/proc` that shows that
/// namespace, and shows it to nobody outside.
pub(crate) fn leave_mounts() -> Result<(), Failure> {
    sys::unshare(CLONE_NEWNS).at(Step::PidNamespace)?;
    keep_mounts_private().at(Step::MountProc)?;
    sys::mount(c"proc", c"/proc", c"proc", MS_NOSUID | MS_NODEV | MS_NOEXEC).at(Step::MountProc)
}

fn keep_mounts_private() -> io::Result<()> {
    let private = || sys::mount(c"none", c"/", c"none", MS_REC | MS_PRIVATE);
    match private() {
        // Below chroot(2) the root need not be a mount. Entering the mount namespace that we are in leads to its
        // real root; from there everything is made private, and then the old root is taken again.
        Err(error) if errno(&error) == EINVAL => {
            let root = sys::open(None, c"/", O_PATH)?;
            let here = sys::open(None, c".", O_PATH)?;
            let own = sys::pidfd_open(sys::getpid()?)?;
            sys::setns(&own, CLONE_NEWNS)?;
            let made = private();
            go_back(&root, &here)?;
            made
        }
        made => made,
    }
}

/// Takes a root and a directory, after a change of the mount namespace led to another.
pub(crate) fn go_back(root: &OwnedFd, here: &OwnedFd) -> io::Result<()> {
    sys::fchdir(root)?;
    sys::chroot(c".")?;
    sys::fchdir(here)
}
