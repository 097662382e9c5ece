//! The table as the page has it, and as it was measured.

use std::{collections::BTreeMap, fmt::Write};

use snakepit::core::conformance::{Report, Verdict};

const BEGIN: &str = "<!-- promises:begin -->";
const END: &str = "<!-- promises:end -->";

/// What stands in a cell of a launcher that nobody could measure yet.
const UNKNOWN: &str = "not measured";
/// What stands in a cell where the launcher has nothing to try it on.
const NOTHING: &str = "-";

/// Whether a row is about what a launcher can do, and not about what survives.
fn is_ability(when: &str) -> bool {
    when.starts_with("the launcher")
}

/// Cells by row (when, what) and column.
#[derive(Debug, Default)]
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<(String, String)>,
    cells: BTreeMap<(String, String, String), String>,
}

impl Table {
    fn cell(&self, row: &(String, String), column: &str) -> Option<&str> {
        let key = (row.0.clone(), row.1.clone(), column.to_owned());
        self.cells.get(&key).map(String::as_str)
    }

    /// The table between the markers of a page; an empty one if nothing is there yet.
    pub(super) fn from_page(page: &str) -> Result<Self, String> {
        let (_, rest) = page
            .split_once(BEGIN)
            .ok_or_else(|| format!("the page has no {BEGIN}"))?;
        let (text, _) = rest
            .split_once(END)
            .ok_or_else(|| format!("the page has no {END}"))?;
        let mut table = Self::default();
        let mut lines = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
        let words = |line: &str| {
            line.split('|')
                .map(|word| word.trim().to_owned())
                .collect::<Vec<_>>()
        };
        let Some(head) = lines.next() else {
            return Ok(table);
        };
        table.columns = words(head).split_off(2);
        let mut when = String::new();
        // The line below the head only draws.
        for line in lines.skip(1) {
            let mut row = words(line);
            if row.len() != table.columns.len() + 2 {
                return Err(format!("a row of {} columns: {line}", row.len()));
            }
            let cells = row.split_off(2);
            if let Some(first) = row.first().filter(|first| !first.is_empty()) {
                when.clone_from(first);
            }
            let what = row.swap_remove(1);
            table.rows.push((when.clone(), what.clone()));
            for (column, cell) in table.columns.iter().zip(cells) {
                table
                    .cells
                    .insert((when.clone(), what.clone(), column.clone()), cell);
            }
        }
        Ok(table)
    }

    /// What was measured, and for launchers that could not be, what is documented.
    pub(super) fn measured(columns: Vec<String>, reports: &[Report], documented: &Self) -> Self {
        let mut table = Self {
            columns,
            ..Self::default()
        };
        for report in reports {
            for outcome in &report.outcomes {
                let row = (outcome.case.when.to_owned(), outcome.case.what.to_owned());
                if !table.rows.contains(&row) {
                    table.rows.push(row.clone());
                }
                let is_death = !is_ability(&row.0);
                let cell = match &outcome.verdict {
                    Verdict::Passed(_) if is_death => "gone",
                    Verdict::NotPromised(_) if is_death => "**left**",
                    Verdict::Passed(_) => "yes",
                    Verdict::NotPromised(_) => "no",
                    Verdict::NotApplicable(_) => NOTHING,
                    _ => continue,
                };
                table
                    .cells
                    .insert((row.0, row.1, report.name.clone()), cell.to_owned());
            }
        }
        for row in &documented.rows {
            if !table.rows.contains(row) {
                table.rows.push(row.clone());
            }
        }
        for row in &table.rows {
            for column in &table.columns {
                let key = (row.0.clone(), row.1.clone(), column.clone());
                let cell = documented.cell(row, column).unwrap_or(UNKNOWN);
                table.cells.entry(key).or_insert_with(|| cell.to_owned());
            }
        }
        // What no launcher has is not worth a row.
        let mut rows = std::mem::take(&mut table.rows);
        rows.sort_by_key(|(when, _)| is_ability(when));
        rows.retain(|row| {
            table
                .columns
                .iter()
                .any(|column| !matches!(table.cell(row, column), Some(NOTHING | UNKNOWN) | None))
        });
        table.rows = rows;
        table
    }

    /// The cells in which the page is wrong.
    pub(super) fn differences(&self, measured: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.columns != measured.columns {
            found.push(format!(
                "the columns are {:?}, measured are {:?}",
                self.columns, measured.columns
            ));
        }
        let gone = self.rows.iter().filter(|row| !measured.rows.contains(row));
        found.extend(gone.map(|(when, what)| format!("nobody measures `{when}: {what}`")));
        for row in &measured.rows {
            for column in &measured.columns {
                let (says, is) = (self.cell(row, column), measured.cell(row, column));
                if says != is {
                    let [says, is] = [says, is].map(|cell| cell.unwrap_or("nothing"));
                    found.push(format!(
                        "`{}: {}` with `{column}`: it says {says}, it is {is}",
                        row.0, row.1
                    ));
                }
            }
        }
        found
    }

    /// The page with this table in it.
    pub(super) fn into_page(self, page: &str) -> Result<String, String> {
        let (before, rest) = page
            .split_once(BEGIN)
            .ok_or_else(|| format!("the page has no {BEGIN}"))?;
        let (_, after) = rest
            .split_once(END)
            .ok_or_else(|| format!("the page has no {END}"))?;
        let mut text = format!("{before}{BEGIN}\n\n| when | what |");
        let mut line = String::from("|---|---|");
        for column in &self.columns {
            // Writing to a string does not fail.
            let _ = write!(text, " {column} |");
            line.push_str("---|");
        }
        text.push('\n');
        text.push_str(&line);
        let mut above = "";
        for row in &self.rows {
            let when = if row.0 == above { "" } else { &row.0 };
            let _ = write!(text, "\n| {when} | {} |", row.1);
            above = &row.0;
            for column in &self.columns {
                let _ = write!(text, " {} |", self.cell(row, column).unwrap_or(UNKNOWN));
            }
        }
        let _ = write!(text, "\n\n{END}{after}");
        Ok(text)
    }
}
