//! A value in the file, and what is told when it is another than expected.

use std::{ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::Value;

/// A value with what is needed to read it.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value<'a>,
    /// Where relative paths begin.
    pub(super) directory: &'a Path,
}

/// What is wrong with a value, and which bytes of the text it is.
pub(super) struct Wrong {
    pub(super) at: Range<usize>,
    pub(super) message: String,
}

impl<'a> Node<'a> {
    pub(super) fn get(self) -> &'a DeValue<'a> {
        self.value.get_ref()
    }

    pub(super) fn text(self) -> Option<&'a str> {
        self.get().as_str()
    }

    /// Its elements, where it is a list.
    pub(super) fn elements(self) -> Option<impl Iterator<Item = Self>> {
        let array = self.get().as_array()?;
        let directory = self.directory;
        Some(array.iter().map(move |value| Node { value, directory }))
    }

    /// Its entries, where it is a table.
    pub(super) fn entries(self) -> Option<impl Iterator<Item = (&'a str, Self)>> {
        let table = self.get().as_table()?;
        let directory = self.directory;
        Some(entries(table).map(move |(key, _, value)| (key, Node { value, directory })))
    }

    pub(super) fn wrong(self, message: impl Into<String>) -> Wrong {
        Wrong {
            at: self.value.span(),
            message: message.into(),
        }
    }

    /// It is something else than the words describe.
    pub(super) fn expected(self, words: &str) -> Wrong {
        self.wrong(format!("expected {words}, found {}", describe(self.get())))
    }
}

/// The entries of a table, with the bytes of each key.
pub(super) fn entries<'a>(
    table: &'a DeTable<'a>,
) -> impl Iterator<Item = (&'a str, Range<usize>, &'a Value<'a>)> {
    table
        .iter()
        .map(|(key, value)| (key.get_ref().as_ref(), key.span(), value))
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text \"{}\"", text.escape_debug()),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => format!("the time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
