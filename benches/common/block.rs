//! What a section of the document consists of, in its order.

use std::fmt;

use super::{plot::Plot, table::Table};

/// A part of a section.
#[derive(Debug)]
pub(crate) enum Block {
    /// Figures.
    Table(Table),
    /// A picture, in a file of its own.
    Plot(Plot),
    /// A heading with sentences below it.
    List(&'static str, Vec<String>),
}

impl From<Table> for Block {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => table.fmt(f),
            Self::Plot(Plot { file, alt, .. }) => writeln!(f, "![{alt}]({}/{file})\n", Plot::DIRECTORY),
            Self::List(title, items) => {
                writeln!(f, "### {title}\n")?;
                items.iter().try_for_each(|item| writeln!(f, "- {item}"))?;
                writeln!(f)
            }
        }
    }
}
