//! What came of a run of the suite.

use std::{fmt, time::Duration};

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CaseKind {
    /// A rule that every backend keeps.
    Contract,
    /// What some backends do and others cannot.
    Promise,
}

/// One thing that is tried, said as a sentence: `when`, then `what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Case {
    /// Whether it must pass.
    pub kind: CaseKind,
    /// What it belongs to, as in `the host is killed`.
    pub when: &'static str,
    /// What is tried, as in `its daemon`.
    pub what: &'static str,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.when, self.what)
    }
}

/// What came of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The rule is kept; or the promise is, and this is what was measured.
    Passed(String),
    /// A rule is broken, and this shows it.
    Failed(String),
    /// The backend does not promise this, and this is what was measured.
    NotPromised(String),
    /// There is nothing that it could be tried on.
    NotApplicable(String),
    /// It could not be tried here, and this is why.
    Skipped(String),
}

/// A case and its verdict.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// What was tried.
    pub case: Case,
    /// What came of it.
    pub verdict: Verdict,
    /// How long trying took.
    pub took: Duration,
}

/// What came of all cases.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Which candidate.
    pub name: String,
    /// In the order in which the cases are documented.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// The cases that have failed, with the evidence.
    pub fn failures(&self) -> impl Iterator<Item = (&Case, &str)> {
        self.outcomes.iter().filter_map(|outcome| match &outcome.verdict {
            Verdict::Failed(evidence) => Some((&outcome.case, evidence.as_str())),
            _ => None,
        })
    }

    /// Whether nothing has failed. What was skipped has not.
    pub fn is_conformant(&self) -> bool {
        self.failures().next().is_none()
    }
}

/// Where these are counted.
const NOT_APPLICABLE: usize = 3;

impl fmt::Display for Report {
    /// A line for each case.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "conformance of `{}`", self.name)?;
        let mut count = [0_usize; 5];
        let mut when = "";
        for Outcome { case, verdict, took } in &self.outcomes {
            let (at, word, text) = match verdict {
                Verdict::Passed(text) => (0, "yes", text),
                Verdict::Failed(text) => (1, "FAILED", text),
                Verdict::NotPromised(text) => (2, "no", text),
                Verdict::NotApplicable(text) => (NOT_APPLICABLE, "", text),
                Verdict::Skipped(text) => (4, "SKIPPED", text),
            };
            count[at] += 1;
            let is_first = when != case.when;
            when = case.when;
            // Once for all that would have been tried.
            if at == NOT_APPLICABLE {
                if is_first {
                    writeln!(f, "  {when}: not applicable, {text}")?;
                }
                continue;
            }
            if is_first {
                writeln!(f, "  {when}")?;
            }
            write!(f, "    {word:7} {}", case.what)?;
            if case.kind == CaseKind::Contract {
                write!(f, " [{} ms]", took.as_millis())?;
            }
            let separator = if text.is_empty() { "" } else { ": " };
            writeln!(f, "{separator}{text}")?;
        }
        let [passed, failed, not_promised, not_applicable, skipped] = count;
        writeln!(
            f,
            "  {passed} kept, {failed} failed, {not_promised} not promised, {not_applicable} not applicable, \
             {skipped} skipped"
        )
    }
}
