//! The ids by which runs, slots and workers are known.

use std::{
    fmt,
    str::FromStr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// One life of a host: 128 random bits, printed as 32 hex digits.
///
/// It stands in the environment of everything the run starts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u128);

impl RunId {
    /// A new random id.
    ///
    /// # Panics
    /// When the kernel has no random numbers to give, which getrandom(2) excludes once a system has booted.
    pub fn random() -> Self {
        let mut bytes = [0_u8; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .expect("getrandom(2) of 16 bytes is never interrupted or short");
        Self(u128::from_be_bytes(bytes))
    }

    /// The id of this process's run: drawn once, the same for every pool of the host. A fork of the host is another
    /// process, with a run of its own.
    pub fn current() -> Self {
        static CURRENT: Mutex<Option<(u32, RunId)>> = Mutex::new(None);
        // Each use leaves it whole, also when drawing panics.
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        match *current {
            Some((pid, id)) if pid == std::process::id() => id,
            _ => current.insert((std::process::id(), Self::random())).1,
        }
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

/// Text that is not a run id: 32 hex digits are.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a run id: 32 hex digits are expected")]
pub struct ParseRunIdError(String);

impl FromStr for RunId {
    type Err = ParseRunIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(bits) if well_formed => Ok(Self(bits)),
            _ => Err(ParseRunIdError(text.to_owned())),
        }
    }
}

/// One worker slot of a pool, counted from 0. A slot outlives its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId(pub u32);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}

/// One worker: a process incarnation, never reused within a run, also not by another pool of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub u64);

impl WorkerId {
    /// The next id of this run.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {}", self.0)
    }
}

/// One session of a pool: never given twice within a run, also not by another pool of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl SessionId {
    /// The next id of this run.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_reads_back_from_its_text() {
        let id = RunId::random();
        assert_eq!(id.to_string().parse::<RunId>().unwrap(), id);
        assert_eq!(id.to_string().len(), 32);
    }

    #[test]
    fn text_that_is_no_run_id_is_named() {
        for text in [
            "",
            "12",
            "+1111111111111111111111111111111",
            "zz111111111111111111111111111111",
        ] {
            let error = text.parse::<RunId>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("32 hex digits"), "{error}");
        }
    }
}
