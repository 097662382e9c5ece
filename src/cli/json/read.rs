//! From JSON to values.

use snakepit_core::rpc::Value;

use super::{forms, tree::Json};

/// Text that is no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not JSON at all.
    #[error("not JSON ({reason}){hint}")]
    Syntax { reason: String, hint: String },
    /// An integer that does not fit 64 bits. JSON readers make a float of it, silently.
    #[error("the integer {0} is out of range: -9223372036854775808 to 18446744073709551615 can be sent")]
    Range(String),
    /// An object that stands for a value and is not made as it should be.
    #[error("{message}{}", at(.path))]
    Form { path: String, message: String },
}

fn at(path: &str) -> String {
    if path.is_empty() {
        String::new()
    } else {
        format!(" (at {path})")
    }
}

/// Reads an argument of a command line.
pub(crate) fn parse(text: &str) -> Result<Value, JsonError> {
    read(text, hint)
}

/// Reads a line of a file.
pub(crate) fn parse_line(text: &str) -> Result<Value, JsonError> {
    read(text, |_| String::new())
}

/// Why it is not JSON, and where: what is read is mostly a single line.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line 1 column {}", error.column());
    match text.strip_suffix(&place) {
        Some(reason) => format!("{reason} at column {}", error.column()),
        None => text,
    }
}

fn read(text: &str, hint: impl FnOnce(&str) -> String) -> Result<Value, JsonError> {
    let json: Json = serde_json::from_str(text).map_err(|error| JsonError::Syntax {
        hint: hint(text.trim()),
        reason: reason(&error),
    })?;
    if let Some(number) = integer_out_of_range(text) {
        return Err(JsonError::Range(number.to_owned()));
    }
    into_value(json, &mut String::new())
}

/// What was probably meant.
fn hint(text: &str) -> String {
    let meant = match text {
        "True" => "true".to_owned(),
        "False" => "false".to_owned(),
        "None" => "null".to_owned(),
        "NaN" | "nan" => r#"{"$float": "nan"}"#.to_owned(),
        "Infinity" | "inf" => r#"{"$float": "inf"}"#.to_owned(),
        "-Infinity" | "-inf" => r#"{"$float": "-inf"}"#.to_owned(),
        text if !text.starts_with(['{', '[', '"']) => {
            let bare = text.trim_matches('\'');
            let quoted = serde_json::to_string(bare).unwrap_or_default();
            return format!("; a string needs quotes, and the shell needs some around them: '{quoted}'");
        }
        _ => return "; in a shell, put single quotes around it: '[1, \"two\"]'".to_owned(),
    };
    format!("; write {meant}")
}

/// The first integer literal that fits neither `i64` nor `u64`. The text is known to be JSON.
fn integer_out_of_range(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(start) = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit()) {
        rest = &rest[start..];
        let length = if rest.starts_with('"') {
            string_length(rest)
        } else {
            let length = rest
                .find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)))
                .unwrap_or(rest.len());
            let number = &rest[..length];
            let integer = !number.contains(['.', 'e', 'E']);
            if integer && number.parse::<i64>().is_err() && number.parse::<u64>().is_err() {
                return Some(number);
            }
            length
        };
        rest = &rest[length..];
    }
    None
}

/// The length of the string literal that `text` begins with, quotes included.
fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The value that JSON at `path` stands for.
fn into_value(json: Json, path: &mut String) -> Result<Value, JsonError> {
    Ok(match json {
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(value),
        Json::Int(value) => Value::Int(value),
        Json::UInt(value) => Value::UInt(value),
        Json::Float(value) => Value::Float(value),
        Json::Str(value) => Value::Str(value),
        Json::Array(items) => Value::Array(into_values(items, path)?),
        Json::Object(mut entries) => {
            if entries.len() == 1 && entries[0].0.starts_with('$') {
                let (name, content) = entries.remove(0);
                return forms::form(&name, content, path);
            }
            let mut map = Vec::with_capacity(entries.len());
            for (key, item) in entries {
                let value = below(path, &format!("[{key:?}]"), |path| into_value(item, path))?;
                map.push((Value::Str(key), value));
            }
            Value::Map(map)
        }
    })
}

/// Runs `work` with `step` added to the path.
pub(super) fn below<T>(
    path: &mut String,
    step: &str,
    work: impl FnOnce(&mut String) -> Result<T, JsonError>,
) -> Result<T, JsonError> {
    let length = path.len();
    path.push_str(step);
    let result = work(path)?;
    path.truncate(length);
    Ok(result)
}

pub(super) fn into_values(items: Vec<Json>, path: &mut String) -> Result<Vec<Value>, JsonError> {
    let values = items.into_iter().enumerate();
    values
        .map(|(at, item)| below(path, &format!("[{at}]"), |path| into_value(item, path)))
        .collect()
}
