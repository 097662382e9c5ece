//! From text to settings, with everything that is wrong on the way.

use std::{ops::Range, path::Path};

use snakepit_core::pool::SettingsError;
use toml::de::{DeTable, DeValue};

use super::{
    Value,
    draft::Draft,
    error::{Problem, did_you_mean},
    node::{Node, Wrong, entries},
    schema::{self, Entry},
};
use crate::Pool;

/// The table with the pools.
const POOL: &str = "pool";

/// The names of the pools, once everything in the text has been found right.
pub(super) fn names(text: &str, directory: &Path) -> Result<Vec<String>, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let problem = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start);
            Problem::at(text, at, "", error.message())
        };
        return Err(errors.into_iter().map(problem).collect());
    }
    let mut names = Vec::new();
    let mut problems = Vec::new();
    let mut tell = |at: Range<usize>, key: &str, message: String| {
        problems.push(Problem::at(text, at.start, key, message));
    };
    for (key, at, value) in entries(document.get_ref()) {
        match value.get_ref() {
            DeValue::Table(table) if key == POOL => {
                for (name, at, value) in entries(table) {
                    names.push(name.to_owned());
                    let path = format!("{POOL}.{name}");
                    let DeValue::Table(settings) = value.get_ref() else {
                        tell(
                            at,
                            &path,
                            "expected a table with the settings of a pool".to_owned(),
                        );
                        continue;
                    };
                    for (place, key, message) in check(settings, directory) {
                        let path = if key.is_empty() {
                            path.clone()
                        } else {
                            format!("{path}.{key}")
                        };
                        tell(place.unwrap_or_else(|| at.clone()), &path, message);
                    }
                }
            }
            _ if key == POOL => tell(
                at,
                key,
                "expected a table of pools, as in [pool.default]".to_owned(),
            ),
            _ => tell(
                at,
                key,
                format!("there is no such table; pools are tables named [{POOL}.NAME]"),
            ),
        }
    }
    if problems.is_empty() && names.is_empty() {
        let message = "there is no pool in it: begin one with [pool.default]";
        problems.push(Problem::at(text, 0, "", message));
    }
    if problems.is_empty() {
        Ok(names)
    } else {
        Err(problems)
    }
}

/// Reads a pool that is known to be right.
pub(super) fn pool(text: &str, name: &str, directory: &Path, draft: &mut Draft) {
    let (document, _) = DeTable::parse_recoverable(text);
    let pool = document
        .get_ref()
        .get(POOL)
        .and_then(|pools| pools.get_ref().get(name));
    if let Some(DeValue::Table(settings)) = pool.map(|pool| pool.get_ref()) {
        // What would be told was told when the file was read.
        let _ = table(settings, directory, draft);
    }
}

/// What is wrong, with its place (`None`: the pool as a whole) and its key in the pool's table.
type Told = (Option<Range<usize>>, String, String);

/// Everything that is wrong in the table of a pool.
fn check(settings: &DeTable<'_>, directory: &Path) -> Vec<Told> {
    let mut draft = Draft::of(Pool::builder());
    let mut told = table(settings, directory, &mut draft);
    if !told.is_empty() {
        // What is left of the settings is not what is meant, and judging it would confuse.
        return told;
    }
    for message in contradictions(draft) {
        // The setting that is wrong for itself; else it is about several.
        let mut place = None;
        visit(settings, "", &mut |key, _, value| {
            let mut alone = Draft::of(Pool::builder());
            if let Visited::Setting(entry) = key {
                let read = entry.read(&mut alone, Node { value, directory });
                if read.is_ok() && contradictions(alone).contains(&message) {
                    place.get_or_insert((value.span(), entry.key));
                }
            }
        });
        told.push(match place {
            Some((at, key)) => (Some(at), key.to_owned(), message),
            None => (None, String::new(), message),
        });
    }
    told
}

fn contradictions(draft: Draft) -> Vec<String> {
    let mut wrong = draft.contradictions();
    if let Err(SettingsError(more)) = draft.finish().check() {
        wrong.extend(more);
    }
    wrong
}

/// Reads the table of a pool into a draft; gives what is wrong.
fn table(settings: &DeTable<'_>, directory: &Path, draft: &mut Draft) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    visit(settings, "", &mut |visited, at, value| match visited {
        Visited::Setting(entry) => {
            let node = Node { value, directory };
            if let Err(Wrong { at, message }) = entry.read(draft, node) {
                told.push((Some(at), entry.key.to_owned(), message));
            }
        }
        Visited::NoTable(key) => {
            let wrong = Node { value, directory }.expected("a table");
            told.push((Some(wrong.at), key, wrong.message));
        }
        Visited::Unknown { key, name, known } => {
            let nearest = did_you_mean(&name, &known);
            told.push((Some(at), key, format!("there is no such setting{nearest}")));
        }
    });
    told
}

/// What a key in the table of a pool turns out to be.
enum Visited<'a> {
    Setting(&'a Entry),
    NoTable(String),
    Unknown {
        key: String,
        name: String,
        known: Vec<&'static str>,
    },
}

/// Goes through the keys of a table, those of its groups included.
fn visit(table: &DeTable<'_>, group: &str, visitor: &mut dyn FnMut(Visited<'_>, Range<usize>, &Value)) {
    let schema = schema::all();
    for (name, at, value) in entries(table) {
        let key = format!("{group}{name}");
        if let Some(entry) = schema.iter().find(|entry| entry.key == key) {
            visitor(Visited::Setting(entry), at, value);
            continue;
        }
        let inner = format!("{key}.");
        let is_group = schema.iter().any(|entry| entry.key.starts_with(&inner));
        match value.get_ref() {
            DeValue::Table(table) if is_group => visit(table, &inner, visitor),
            _ if is_group => visitor(Visited::NoTable(key), at, value),
            _ => {
                let below = schema.iter().filter_map(|entry| entry.key.strip_prefix(group));
                let known = below.filter_map(|key| key.split('.').next()).collect();
                let name = name.to_owned();
                visitor(Visited::Unknown { key, name, known }, at, value);
            }
        }
    }
}
