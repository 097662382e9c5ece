//! Control groups: whether a worker can be given one of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::Finding;

const SECTION: &str = "Containment";
const NAME: &str = "cgroup v2";
/// What lets us make groups.
pub(super) const DELEGATE: &str = "start under systemd with Delegate=yes (systemd-run --user --scope -p Delegate=yes snakepit ...), \
                                   or mount it writable into the container";

/// Looks for our own group in the unified hierarchy and tries to make one below it.
pub(super) fn look(findings: &mut Vec<Finding>) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(dir) = own_group(&mounts, &membership) else {
        findings.push(Finding::weak(
            SECTION,
            NAME,
            "not mounted",
            "mount it (mount -t cgroup2 cgroup2 /sys/fs/cgroup), or rely on namespaces",
        ));
        return;
    };
    findings.push(match try_out(&dir) {
        Ok(true) => Finding::good(
            SECTION,
            NAME,
            format!("{}: groups can be made and killed", dir.display()),
        ),
        Ok(false) => Finding::weak(
            SECTION,
            NAME,
            format!("{}: groups can be made, but not killed at once", dir.display()),
            "Linux 5.14 has cgroup.kill; until then each process is signalled",
        ),
        Err(error) => Finding::weak(
            SECTION,
            NAME,
            format!("{}: no group can be made: {error}", dir.display()),
            DELEGATE,
        ),
    });
}

/// Makes a group below `dir` and removes it; tells whether it could be killed as a whole.
fn try_out(dir: &Path) -> io::Result<bool> {
    let group = dir.join(format!("snakepit-doctor-{}", std::process::id()));
    fs::create_dir(&group)?;
    let can_kill = group.join("cgroup.kill").exists();
    fs::remove_dir(&group)?;
    Ok(can_kill)
}

/// The directory of our group. The mount may be anywhere (hybrid mounts have it at `unified`) and may show only a
/// part of the hierarchy, as it does in containers.
fn own_group(mounts: &str, membership: &str) -> Option<PathBuf> {
    let own = membership.lines().find_map(|line| line.strip_prefix("0::"))?;
    mounts.lines().find_map(|line| {
        // proc_pid_mountinfo(5): optional fields stand before a lone dash, the type after it.
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, mount) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        Some(Path::new(mount).join(below))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_found_in_unified_hybrid_and_container_mounts() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let part = "50 40 0:26 /docker/ab /sys/fs/cgroup ro - cgroup2 cgroup rw";
        let own = "0::/user.slice/a.scope\n";
        let found = |mounts, own| own_group(mounts, own);
        assert_eq!(
            found(unified, own).unwrap(),
            Path::new("/sys/fs/cgroup/user.slice/a.scope")
        );
        assert_eq!(
            found(hybrid, "4:memory:/x\n0::/\n").unwrap(),
            Path::new("/sys/fs/cgroup/unified/")
        );
        assert_eq!(
            found(part, "0::/docker/ab\n").unwrap(),
            Path::new("/sys/fs/cgroup/")
        );
        assert!(found("", own).is_none() && found(unified, "1:name=systemd:/\n").is_none());
    }
}
