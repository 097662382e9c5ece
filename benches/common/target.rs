//! What this project has promised itself, and whether a run shows it.

use serde::Serialize;

use super::{
    spread::{Spread, figure, spread},
    table::Table,
};

/// A bound on a measured value.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Goal {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
}

/// One row of the list.
#[derive(Debug, Serialize)]
pub(crate) struct Target {
    /// What is bounded.
    pub(crate) what: String,
    /// By what.
    pub(crate) goal: Goal,
    /// The unit of goal and measurement, as it follows the number.
    pub(crate) unit: &'static str,
    /// What this run has shown; `None` when its section was left out.
    pub(crate) measured: Option<Spread>,
}

impl Target {
    /// A target and what was measured for it.
    pub(crate) fn new(what: &str, goal: Goal, unit: &'static str, measured: Option<Spread>) -> Self {
        Self {
            what: what.to_owned(),
            goal,
            unit,
            measured,
        }
    }

    /// Whether the median is within the bound.
    pub(crate) fn passed(&self) -> Option<bool> {
        let median = self.measured?.median;
        Some(match self.goal {
            Goal::AtMost(bound) => median <= bound,
            Goal::AtLeast(bound) => median >= bound,
        })
    }

    /// `pass`, `MISS`, or that it was not measured.
    pub(crate) fn verdict(&self) -> &'static str {
        match self.passed() {
            Some(true) => "pass",
            Some(false) => "MISS",
            None => "not measured",
        }
    }
}

/// The targets as a table.
pub(crate) fn table(targets: &[Target]) -> Table {
    let columns = ["promise", "target", "measured (quartiles)", "verdict"];
    let mut table = Table::new("Must reach", &columns);
    for target in targets {
        let bound = match target.goal {
            Goal::AtMost(bound) => format!("<= {}{}", figure(bound), target.unit),
            Goal::AtLeast(bound) => format!(">= {}{}", figure(bound), target.unit),
        };
        table.row([
            target.what.clone(),
            bound,
            spread(target.measured),
            target.verdict().to_owned(),
        ]);
    }
    table
}
