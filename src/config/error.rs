//! What can be wrong with a file, and how people are told.

use std::{fmt, io, path::PathBuf};

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something in it is wrong. The text has a line for each problem.
    #[error("{}", Lines(path, problems))]
    Wrong {
        /// The file.
        path: PathBuf,
        /// Everything that is wrong, in the order of the file.
        problems: Vec<Problem>,
    },
    /// It has no pool of this name.
    #[error("{} has no pool `{name}`; there are: {}{}", path.display(), names.join(", "), did_you_mean(name, names))]
    NoPool {
        /// The file.
        path: PathBuf,
        /// The name that was asked for.
        name: String,
        /// The names that there are.
        names: Vec<String>,
    },
    /// It has several pools, none of them is called `default`, and none was asked for.
    #[error("{} has several pools, name one of: {}", path.display(), names.join(", "))]
    Which {
        /// The file.
        path: PathBuf,
        /// Their names.
        names: Vec<String>,
    },
}

/// Something wrong in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
    /// What it is about, as `pool.images.workers`; empty where the text is no TOML.
    pub key: String,
    /// What is wrong, and where it can be said, what would be right.
    pub message: String,
}

impl Problem {
    /// A problem at a byte of the text.
    pub(super) fn at(text: &str, byte: usize, key: impl Into<String>, message: impl Into<String>) -> Self {
        let before = &text[..text.floor_char_boundary(byte)];
        let line = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line..].chars().count() + 1,
            key: key.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    /// `3:1: pool.images.worker: there is no such setting`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

struct Lines<'a>(&'a PathBuf, &'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.1.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.0.display())?;
        }
        Ok(())
    }
}

/// A question that names what may have been meant, or nothing.
pub(super) fn did_you_mean<S: AsRef<str>>(name: &str, known: &[S]) -> String {
    /// Two names that are less alike are two things.
    const ALIKE: f64 = 0.8;
    let alike = |known: &S| {
        (
            strsim::jaro_winkler(name, known.as_ref()),
            known.as_ref().to_owned(),
        )
    };
    let nearest = known.iter().map(alike).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness >= ALIKE => format!("; did you mean `{nearest}`?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "a = 1\nü = 2\n";
        for (byte, line, column) in [(0, 1, 1), (4, 1, 5), (6, 2, 1), (9, 2, 3), (text.len(), 3, 1)] {
            let problem = Problem::at(text, byte, "", "");
            assert_eq!((problem.line, problem.column), (line, column), "{byte}");
        }
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let known = ["workers", "queue_limit", "queue_timeout"];
        assert_eq!(did_you_mean("wrokers", &known), "; did you mean `workers`?");
        assert_eq!(
            did_you_mean("queue-limit", &known),
            "; did you mean `queue_limit`?"
        );
        assert_eq!(did_you_mean("colour", &known), "");
        assert_eq!(did_you_mean("x", &[""; 0]), "");
    }
}
