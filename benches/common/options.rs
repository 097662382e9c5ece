//! The command line of a benchmark.

use std::path::{Path, PathBuf};

use super::Result;

/// What differs between the benchmarks' command lines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bench {
    /// Its name, as `cargo bench --bench` takes it.
    pub(crate) name: &'static str,
    /// The names of its sections.
    pub(crate) sections: &'static [&'static str],
    /// Rounds of a measurement, and of a look.
    pub(crate) rounds: (usize, usize),
    /// What cargo has to be told besides, with a space after it; empty for nothing.
    pub(crate) cargo: &'static str,
}

impl Bench {
    /// Printed for `--help` and after a mistake.
    pub(crate) fn usage(&self) -> String {
        let Self {
            name,
            sections,
            rounds: (rounds, quick),
            cargo,
        } = self;
        format!(
            "usage: cargo bench {cargo}--bench {name} -- [--quick] [--rounds N] [--only PATTERN] [--json FILE] [--write]
  --quick         fewer and shorter rounds: a look, not a measurement
  --rounds N      interleaved rounds of each section (default {rounds}, quick {quick})
  --only PATTERN  only sections whose name contains PATTERN: {}
  --json FILE     write every value of every round to FILE
  --write         write its section of docs/benchmarks.md, and its plots beside it
  --to DIR        write both below DIR instead: to look at",
            sections.join(", ")
        )
    }
}

/// What to measure and where to put it.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The benchmark.
    pub(crate) bench: Bench,
    /// Fewer and shorter rounds.
    pub(crate) quick: bool,
    /// Interleaved rounds of each section.
    pub(crate) rounds: usize,
    /// Only sections whose name contains this.
    pub(crate) only: Option<String>,
    /// Where to write every value.
    pub(crate) json: Option<PathBuf>,
    /// The directory of the document that is to be written.
    pub(crate) to: Option<PathBuf>,
    /// The arguments as given, for the document.
    given: Vec<String>,
}

impl Options {
    /// Reads the arguments that follow `--`; `None` when help was asked for.
    ///
    /// # Errors
    /// Names the argument that is wrong.
    pub(crate) fn parse(bench: Bench, args: impl Iterator<Item = String>) -> Result<Option<Self>> {
        // cargo bench itself adds this one.
        let given: Vec<_> = args.filter(|arg| arg != "--bench").collect();
        let (mut quick, mut rounds, mut only, mut json, mut to) = (false, None, None, None, None);
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let mut args = given.iter().cloned();
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => quick = true,
                "--write" => to = Some(docs.clone()),
                "--to" => to = Some(PathBuf::from(value()?)),
                "--rounds" => rounds = Some(value()?.parse().map_err(|_| "--rounds needs a number")?),
                "--only" => only = Some(value()?),
                "--json" => json = Some(PathBuf::from(value()?)),
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        if rounds == Some(0) {
            return Err("--rounds needs at least 1".into());
        }
        if to.as_ref() == Some(&docs) && only.is_some() {
            return Err("--write describes a whole run; leave --only away".into());
        }
        let (thorough, look) = bench.rounds;
        Ok(Some(Self {
            bench,
            quick,
            rounds: rounds.unwrap_or(if quick { look } else { thorough }),
            only,
            json,
            to,
            given,
        }))
    }

    /// Whether a section is to be measured.
    pub(crate) fn wants(&self, section: &str) -> bool {
        self.only.as_ref().is_none_or(|pattern| section.contains(pattern))
    }

    /// The command line that repeats this run.
    pub(crate) fn command(&self) -> String {
        let mut command = format!("cargo bench {}--bench {}", self.bench.cargo, self.bench.name);
        if !self.given.is_empty() {
            command = format!("{command} -- {}", self.given.join(" "));
        }
        command
    }
}
