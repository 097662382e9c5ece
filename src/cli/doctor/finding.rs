//! One thing that was looked at, and how all of them are shown.

use crate::cli::{failure::Failure, output};

/// What was found of one thing.
#[derive(Debug, serde::Serialize)]
pub(super) struct Finding {
    /// The group it is shown in.
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) state: State,
    /// What was seen.
    pub(super) found: String,
    /// What would help, where something is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// How good it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// As it should be.
    Good,
    /// Worth knowing; nothing has to be done.
    Note,
    /// A pool runs without it, and does less or is slower.
    Weak,
    /// Without it no pool runs.
    Missing,
}

impl Finding {
    pub(super) fn good(section: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self::new(section, name, State::Good, found.into(), None)
    }

    pub(super) fn note(section: &'static str, name: &'static str, found: impl Into<String>) -> Self {
        Self::new(section, name, State::Note, found.into(), None)
    }

    pub(super) fn weak(
        section: &'static str,
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(section, name, State::Weak, found.into(), Some(remedy.into()))
    }

    pub(super) fn missing(
        section: &'static str,
        name: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(section, name, State::Missing, found.into(), Some(remedy.into()))
    }

    fn new(
        section: &'static str,
        name: &'static str,
        state: State,
        found: String,
        remedy: Option<String>,
    ) -> Self {
        Self {
            section,
            name,
            state,
            found,
            remedy,
        }
    }
}

/// Shows the findings by section, and the verdict.
pub(super) fn print(findings: &[Finding], can_run: bool) -> Result<(), Failure> {
    let style = output::Style::of_stdout();
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or(0);
    let mut section = "";
    for finding in findings {
        if finding.section != section {
            if !section.is_empty() {
                output::line("")?;
            }
            section = finding.section;
            output::line(style.bold(section))?;
        }
        let mark = match finding.state {
            State::Good => style.green("ok  "),
            State::Note => style.dim("-   "),
            State::Weak => style.yellow("weak"),
            State::Missing => style.red("MISS"),
        };
        let indent = " ".repeat(2 + 4 + 2 + width + 2);
        let found = finding.found.replace('\n', &format!("\n{indent}"));
        output::line(format_args!("  {mark}  {:width$}  {found}", finding.name))?;
        if let Some(remedy) = &finding.remedy {
            let remedy = remedy.replace('\n', &format!("\n{indent}   "));
            output::line(format_args!("{indent}{} {remedy}", style.bold("->")))?;
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let verdict = match (can_run, count(State::Weak)) {
        (true, 0) => style.green("A pool can run here."),
        (true, weak) => format!("{} ({weak} weak above)", style.green("A pool can run here.")),
        (false, _) => style.red(format_args!(
            "No pool can run here: see MISS above ({}).",
            count(State::Missing)
        )),
    };
    output::line(format_args!("\n{verdict}"))
}
