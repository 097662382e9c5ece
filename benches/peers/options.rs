//! The command line of the benchmark.

use std::{path::PathBuf, time::Duration};

use crate::Result;

/// Printed for `--help` and after a mistake.
pub(crate) const USAGE: &str = "usage: cargo bench --bench peers -- [--quick] [--rounds N] [--only PATTERN] \
[--json FILE] [--write]
  --quick         fewer and shorter rounds: a look, not a measurement
  --rounds N      interleaved rounds of each section (default 11, quick 3)
  --only PATTERN  only sections whose name contains PATTERN: calls, ready, recovery, idle, dispatch
  --json FILE     write every value of every round to FILE
  --write         write docs/benchmarks.md";

/// What to measure and where to put it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Fewer and shorter rounds.
    pub(crate) quick: bool,
    /// Interleaved rounds of each section.
    pub(crate) rounds: usize,
    /// Only sections whose name contains this.
    pub(crate) only: Option<String>,
    /// Where to write every value.
    pub(crate) json: Option<PathBuf>,
    /// Whether to write the document.
    pub(crate) write: bool,
    /// The arguments as given, for the document.
    pub(crate) given: Vec<String>,
}

impl Options {
    /// Reads the arguments that follow `--`; `None` when help was asked for.
    ///
    /// # Errors
    /// Names the argument that is wrong.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        // cargo bench itself adds this one.
        let given: Vec<_> = args.filter(|arg| arg != "--bench").collect();
        let (mut quick, mut rounds, mut only, mut json, mut write) = (false, None, None, None, false);
        let mut args = given.iter().cloned();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => quick = true,
                "--write" => write = true,
                "--rounds" => rounds = Some(value()?.parse().map_err(|_| "--rounds needs a number")?),
                "--only" => only = Some(value()?),
                "--json" => json = Some(PathBuf::from(value()?)),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        if rounds == Some(0) {
            return Err("--rounds needs at least 1".into());
        }
        if write && only.is_some() {
            return Err("--write describes a whole run; leave --only away".into());
        }
        Ok(Some(Self {
            quick,
            rounds: rounds.unwrap_or(if quick { 3 } else { 11 }),
            only,
            json,
            write,
            given,
        }))
    }

    /// Whether a section is to be measured.
    pub(crate) fn wants(&self, section: &str) -> bool {
        self.only.as_ref().is_none_or(|pattern| section.contains(pattern))
    }

    /// How long each cell of calls lasts in each round.
    pub(crate) fn cell(&self) -> Duration {
        Duration::from_millis(if self.quick { 250 } else { 800 })
    }

    /// How many workers are killed.
    pub(crate) fn kills(&self) -> usize {
        if self.quick { 10 } else { 40 }
    }

    /// How long idleness is watched, and how often.
    pub(crate) fn idle(&self) -> (Duration, usize) {
        if self.quick {
            (Duration::from_secs(3), 1)
        } else {
            (Duration::from_secs(10), 3)
        }
    }

    /// The command line that repeats this run.
    pub(crate) fn command(&self) -> String {
        let mut command = "cargo bench --bench peers".to_owned();
        if !self.given.is_empty() {
            command = format!("{command} -- {}", self.given.join(" "));
        }
        command
    }
}
