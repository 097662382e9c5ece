//! The cores that a worker may run on.

use std::{collections::BTreeSet, fmt, fs, io, str::FromStr};

use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::{id::SlotId, launch::LaunchError};

/// The name of the setting in errors.
const SETTING: &str = "affinity";

/// The cores that the workers of a pool run on: sched_setaffinity(2).
///
/// It is set when a worker's process exists and before its gate opens, whatever the backend, and whatever the worker starts
/// inherits it. A program without a gate, which is one that is not our runtime below the port backend, may have started
/// processes of its own by then; they are not reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Affinity {
    /// A worker runs wherever the host may. The default: the scheduler knows what else runs, and this does not.
    #[default]
    None,
    /// The cores that the host's main thread may use are shared out in their order, as evenly as it goes: 2 of 8 slots' workers
    /// get 4 cores each, 8 of 2 slots one of 2. For workers that compute all the time, with nothing else on the machine.
    Spread,
    /// The slots take these sets in turn: slot 0 the first, and so around. No set may be empty.
    Cores(Vec<CoreSet>),
}

impl Affinity {
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let Self::Cores(sets) = self else {
            return Ok(());
        };
        if sets.is_empty() || sets.iter().any(|set| set.0.is_empty()) {
            return Err("affinity has no cores: name some, or use Affinity::None".to_owned());
        }
        Ok(())
    }

    /// The cores of a slot among those that the host may use; `None` leaves the worker where the host is.
    fn of(
        &self,
        slot: SlotId,
        slots: usize,
        usable: impl FnOnce() -> io::Result<CoreSet>,
    ) -> io::Result<Option<CoreSet>> {
        let slot = usize::try_from(slot.0).unwrap_or(usize::MAX);
        Ok(match self {
            Self::None => None,
            Self::Spread => Some(usable()?.share(slot, slots)),
            Self::Cores(sets) => slot.checked_rem(sets.len()).map(|turn| sets[turn].clone()),
        })
    }

    /// Pins a process that is held at its gate, with all of its threads.
    ///
    /// # Errors
    /// [`LaunchError::Unavailable`] where the worker cannot have a core.
    pub(super) fn pin(&self, pid: u32, slot: SlotId, slots: usize) -> Result<(), LaunchError> {
        let cores = match self.of(slot, slots, usable) {
            Ok(Some(cores)) => cores,
            Ok(None) => return Ok(()),
            Err(error) => {
                return Err(unavailable(
                    "the host's own cores cannot be read".to_owned(),
                    error,
                ));
            }
        };
        match set(pid, &cores) {
            Ok(()) => Ok(()),
            // It has ended, and its exit is what will be told. The number cannot be somebody else's yet: they are given out
            // in a circle.
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
            Err(error) => Err(self.explain(pid, &cores, error)),
        }
    }

    /// Names the cores that are not to be had, which the system call does not.
    fn explain(&self, pid: u32, cores: &CoreSet, error: io::Error) -> LaunchError {
        // All there are, of which the kernel takes those that the worker's cpuset has.
        let allowed = all(pid).unwrap_or_default();
        let missing = CoreSet(cores.0.difference(&allowed.0).copied().collect());
        if missing.0.is_empty() || allowed.0.is_empty() {
            return unavailable(format!("the worker cannot be moved to the cores {cores}"), error);
        }
        unavailable(
            format!("the cores {missing} are not among those that the worker may use, {allowed}"),
            error,
        )
    }
}

fn unavailable(reason: String, source: io::Error) -> LaunchError {
    LaunchError::Unavailable {
        setting: SETTING,
        reason,
        source: Some(source),
    }
}

/// A set of cores, by the kernel's numbers from 0, written as cpuset(7) does: `0-3,8`.
///
/// ```
/// use snakepit_core::worker::CoreSet;
///
/// let cores: CoreSet = "8, 0-3".parse()?;
/// assert_eq!(cores.to_string(), "0-3,8");
/// # Ok::<(), snakepit_core::worker::ParseCoresError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreSet(BTreeSet<usize>);

/// Text that is no [`CoreSet`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no cores: numbers from 0 to {max} and ranges of them are expected, as in 0-3,8", max = CpuSet::MAX_CPU - 1)]
pub struct ParseCoresError(String);

impl CoreSet {
    /// The cores of a slot when these are shared out among `slots`.
    fn share(self, slot: usize, slots: usize) -> Self {
        let count = self.0.len();
        let slots = slots.max(1);
        // A pool that was made larger goes around.
        let slot = slot % slots;
        let from = slot * count / slots;
        let to = (slot + 1) * count / slots;
        Self(self.0.into_iter().skip(from).take((to - from).max(1)).collect())
    }

    fn mask(&self) -> CpuSet {
        let mut mask = CpuSet::new();
        for core in &self.0 {
            mask.set(*core);
        }
        mask
    }
}

impl From<CpuSet> for CoreSet {
    fn from(mask: CpuSet) -> Self {
        Self((0..CpuSet::MAX_CPU).filter(|core| mask.is_set(*core)).collect())
    }
}

impl FromStr for CoreSet {
    type Err = ParseCoresError;

    fn from_str(text: &str) -> Result<Self, ParseCoresError> {
        let range = |part: &str| {
            let number = |text: &str| text.trim().parse().ok().filter(|core| *core < CpuSet::MAX_CPU);
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(first..=last)
        };
        let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
        let ranges = ranges.ok_or_else(|| ParseCoresError(text.to_owned()))?;
        Ok(Self(ranges.into_iter().flatten().collect()))
    }
}

impl fmt::Display for CoreSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cores = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = cores.next() {
            let mut last = first;
            while let Some(next) = cores.next_if(|next| *next == last + 1) {
                last = next;
            }
            write!(f, "{separator}{first}")?;
            if last > first {
                write!(f, "-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// What the host may use: its main thread, as others may be pinned for reasons of their own.
fn usable() -> io::Result<CoreSet> {
    Ok(sched_getaffinity(Some(rustix::process::getpid()))?.into())
}

/// Sets the cores of every thread of a process, and makes sure that it has them all.
fn set(pid: u32, cores: &CoreSet) -> io::Result<()> {
    let mask = cores.mask();
    let main = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
    sched_setaffinity(Some(main), &mask)?;
    // The kernel sets what a mask and the cpuset have in common, and is content when that is something.
    if sched_getaffinity(Some(main))? != mask {
        return Err(Errno::INVAL.into());
    }
    for thread in other_threads(main) {
        match sched_setaffinity(Some(thread), &mask) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Our runtime has none at its gate; a module that is imported by each start of Python may have started some.
fn other_threads(main: Pid) -> impl Iterator<Item = Pid> {
    let tasks = fs::read_dir(format!("/proc/{main}/task"));
    let names = tasks.into_iter().flatten().flatten().map(|task| task.file_name());
    let threads = names.filter_map(|name| Pid::from_raw(name.to_str()?.parse().ok()?));
    threads.filter(move |thread| *thread != main)
}

/// Lets a process that is going to be ended use whatever it may, and tells what that is.
fn all(pid: u32) -> io::Result<CoreSet> {
    let main = Pid::from_raw(pid.cast_signed());
    sched_setaffinity(main, &CoreSet((0..CpuSet::MAX_CPU).collect()).mask())?;
    Ok(sched_getaffinity(main)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(text: &str) -> CoreSet {
        text.parse().unwrap()
    }

    #[test]
    fn cores_are_read_and_written_as_the_kernel_does() {
        for (text, written) in [
            ("0", "0"),
            ("0-3,8", "0-3,8"),
            ("3, 1,2 ,7-9,8", "1-3,7-9"),
            ("1023", "1023"),
        ] {
            assert_eq!(cores(text).to_string(), written, "{text}");
        }
        for text in ["", ",", "a", "-1", "3-1", "1024", "1-2-3"] {
            let error = text.parse::<CoreSet>().unwrap_err().to_string();
            let expected =
                "names no cores: numbers from 0 to 1023 and ranges of them are expected, as in 0-3,8";
            assert_eq!(error, format!("`{text}` {expected}"));
        }
    }

    #[test]
    fn cores_are_shared_out_whole_and_evenly() {
        for (usable, slots, shares) in [
            ("0-7", 2, &["0-3", "4-7"][..]),
            ("0-4", 2, &["0-1", "2-4"]),
            ("0,2,4", 3, &["0", "2", "4"]),
            ("3-4", 4, &["3", "3", "4", "4"]),
            ("5", 3, &["5", "5", "5"]),
        ] {
            for (slot, share) in shares.iter().enumerate() {
                let slot = SlotId(u32::try_from(slot).unwrap());
                let found = Affinity::Spread
                    .of(slot, slots, || Ok(cores(usable)))
                    .unwrap()
                    .unwrap();
                assert_eq!(found.to_string(), *share, "{slot} of {slots} on {usable}");
            }
        }
    }

    #[test]
    fn sets_of_cores_are_taken_in_turn() {
        let affinity = Affinity::Cores(vec![cores("0-1"), cores("2")]);
        for (slot, set) in [(0, "0-1"), (1, "2"), (2, "0-1")] {
            let found = affinity.of(SlotId(slot), 9, || panic!("nobody asks")).unwrap();
            assert_eq!(found.unwrap().to_string(), set);
        }
        assert_eq!(affinity.check(), Ok(()));
        for empty in [vec![], vec![CoreSet::default()]] {
            let wrong = Affinity::Cores(empty).check().unwrap_err();
            assert_eq!(wrong, "affinity has no cores: name some, or use Affinity::None");
        }
        assert!(
            Affinity::None
                .of(SlotId(0), 1, || panic!("nobody asks"))
                .unwrap()
                .is_none()
        );
    }
}
