//! Where in a value a problem is, as in `result["a"][3]`. Built only when there is one, from the inside out.

use pyo3::prelude::*;

/// At most this much of a path is shown: a value nested 128 deep has a long one.
const SHOWN: usize = 12;
/// At most this many characters of a key are shown.
const KEY: usize = 40;

/// Steps from the problem outwards.
#[derive(Debug, Default)]
pub(crate) struct Path(Vec<String>);

impl Path {
    /// Into a list or tuple.
    pub(crate) fn index(&mut self, index: usize) {
        self.0.push(format!("[{index}]"));
    }

    /// Into a dict, by key.
    pub(crate) fn key(&mut self, key: &Bound<'_, PyAny>) {
        let text = key
            .repr()
            .map_or_else(|_| "?".to_owned(), |repr| repr.to_string_lossy().into_owned());
        // Python quotes with ', the documented form of a path uses ".
        let text = match text.strip_prefix('\'').and_then(|text| text.strip_suffix('\'')) {
            Some(inner) if !inner.contains('"') => format!("\"{inner}\""),
            _ => text,
        };
        let short: String = text.chars().take(KEY).collect();
        let more = if short.len() < text.len() { "..." } else { "" };
        self.0.push(format!("[{short}{more}]"));
    }

    /// A dict's key itself, by position.
    pub(crate) fn in_key(&mut self, position: usize) {
        self.0.push(format!("[key {position}]"));
    }

    /// Into a set, whose items have no position of their own.
    pub(crate) fn item(&mut self) {
        self.0.push("{...}".to_owned());
    }

    /// The text, beginning with the name of the whole value.
    pub(crate) fn render(&self, root: &str) -> String {
        let mut text = root.to_owned();
        for step in self.0.iter().rev().take(SHOWN) {
            text.push_str(step);
        }
        if self.0.len() > SHOWN {
            text.push_str("...");
        }
        text
    }
}
