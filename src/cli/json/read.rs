//! From JSON to values.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use snakepit_core::rpc::{NdArray, Value};

use super::{FORMS, text_forms};

/// People leave the padding out; it carries nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Text that is no value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not JSON at all.
    #[error("not JSON ({source}){hint}")]
    Syntax { source: serde_json::Error, hint: String },
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

/// Reads one value.
pub(crate) fn parse(text: &str) -> Result<Value, JsonError> {
    let json: Json = serde_json::from_str(text).map_err(|source| JsonError::Syntax {
        hint: hint(text.trim()),
        source,
    })?;
    if let Some(number) = integer_out_of_range(text) {
        return Err(JsonError::Range(number.to_owned()));
    }
    json.into_value(&mut String::new())
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

/// JSON with the order of its objects, which serde_json's own tree loses.
enum Json {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    Str(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    fn into_value(self, path: &mut String) -> Result<Value, JsonError> {
        Ok(match self {
            Self::Null => Value::Nil,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::UInt(value) => Value::UInt(value),
            Self::Float(value) => Value::Float(value),
            Self::Str(value) => Value::Str(value),
            Self::Array(items) => Value::Array(into_values(items, path)?),
            Self::Object(mut entries) => {
                if entries.len() == 1 && entries[0].0.starts_with('$') {
                    let (name, content) = entries.remove(0);
                    return form(&name, content, path);
                }
                let mut map = Vec::with_capacity(entries.len());
                for (key, item) in entries {
                    let value = below(path, &format!("[{key:?}]"), |path| item.into_value(path))?;
                    map.push((Value::Str(key), value));
                }
                Value::Map(map)
            }
        })
    }

    fn as_float(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::UInt(value) => Some(*value as f64),
            Self::Float(value) => Some(*value),
            Self::Str(text) => text_forms::float(text),
            Self::Object(entries) => match entries.as_slice() {
                [(name, content)] if name == "$float" => content.as_float(),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Runs `work` with `step` added to the path.
fn below<T>(
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

fn into_values(items: Vec<Json>, path: &mut String) -> Result<Vec<Value>, JsonError> {
    let values = items.into_iter().enumerate();
    values
        .map(|(at, item)| below(path, &format!("[{at}]"), |path| item.into_value(path)))
        .collect()
}

/// The value that `{name: content}` stands for.
fn form(name: &str, content: Json, path: &mut String) -> Result<Value, JsonError> {
    let wrong = |expected: &str| JsonError::Form {
        path: path.clone(),
        message: format!("{name} takes {expected}"),
    };
    let value = match (name, content) {
        ("$float", content) => Value::Float(
            content
                .as_float()
                .ok_or_else(|| wrong(r#"a number, "nan", "inf" or "-inf""#))?,
        ),
        ("$bytes", content) => Value::Bytes(bytes(&content).ok_or_else(|| wrong("base64 text"))?.into()),
        ("$set", Json::Array(items)) => Value::Set(into_values(items, path)?),
        ("$map", Json::Array(pairs)) => Value::Map(pairs_of(pairs, path)?),
        ("$datetime", Json::Str(text)) if text_forms::is_datetime(&text) => Value::DateTime(text),
        ("$date", Json::Str(text)) if text_forms::is_date(&text) => Value::Date(text),
        ("$time", Json::Str(text)) if text_forms::is_time(&text) => Value::Time(text),
        ("$decimal", Json::Str(text)) if text_forms::is_decimal(&text) => Value::Decimal(text),
        ("$uuid", Json::Str(text)) => Value::Uuid(
            text_forms::uuid(&text).ok_or_else(|| wrong("32 hex digits, with or without dashes"))?,
        ),
        ("$timedelta", Json::Array(parts)) => match parts.as_slice() {
            [Json::Int(days), Json::Int(seconds), Json::Int(microseconds)] => Value::TimeDelta {
                days: *days,
                seconds: *seconds,
                microseconds: *microseconds,
            },
            _ => return Err(wrong("three integers, [days, seconds, microseconds]")),
        },
        ("$complex", Json::Array(parts)) => match parts.as_slice() {
            [re, im] => {
                let both = re.as_float().zip(im.as_float());
                let (re, im) = both.ok_or_else(|| wrong("two numbers, [re, im]"))?;
                Value::Complex { re, im }
            }
            _ => return Err(wrong("two numbers, [re, im]")),
        },
        ("$ndarray", Json::Object(fields)) => Value::NdArray(ndarray(&fields).map_err(|message| {
            let message = format!("$ndarray: {message}");
            JsonError::Form {
                path: path.clone(),
                message,
            }
        })?),
        ("$set", _) => return Err(wrong("an array")),
        ("$map", _) => return Err(wrong("an array of [key, value]")),
        ("$datetime", _) => return Err(wrong(r#"text as of isoformat(), "2026-01-31T12:00:00+00:00""#)),
        ("$date", _) => return Err(wrong(r#"text as of isoformat(), "2026-01-31""#)),
        ("$time", _) => return Err(wrong(r#"text as of isoformat(), "12:00:00""#)),
        ("$decimal", _) => return Err(wrong(r#"text, "1.10""#)),
        ("$uuid", _) => return Err(wrong("32 hex digits, with or without dashes")),
        ("$timedelta", _) => return Err(wrong("three integers, [days, seconds, microseconds]")),
        ("$complex", _) => return Err(wrong("two numbers, [re, im]")),
        ("$ndarray", _) => return Err(wrong(r#"{"dtype": "<f8", "shape": [2], "data": "<base64>"}"#)),
        _ => {
            return Err(JsonError::Form {
                path: path.clone(),
                message: format!(
                    "unknown form {name}; known are {FORMS}; a dict with that key is {{\"$map\": [[{name:?}, ...]]}}"
                ),
            });
        }
    };
    Ok(value)
}

fn pairs_of(pairs: Vec<Json>, path: &mut String) -> Result<Vec<(Value, Value)>, JsonError> {
    let mut map = Vec::with_capacity(pairs.len());
    for (at, pair) in pairs.into_iter().enumerate() {
        let entry = below(path, &format!("[{at}]"), |path| match pair {
            Json::Array(pair) if pair.len() == 2 => into_values(pair, path),
            _ => Err(JsonError::Form {
                path: path.clone(),
                message: "$map takes pairs, [key, value]".to_owned(),
            }),
        })?;
        let mut entry = entry.into_iter();
        if let (Some(key), Some(value)) = (entry.next(), entry.next()) {
            map.push((key, value));
        }
    }
    Ok(map)
}

fn bytes(content: &Json) -> Option<Vec<u8>> {
    let Json::Str(text) = content else { return None };
    BASE64.decode(text).ok()
}

fn ndarray(fields: &[(String, Json)]) -> Result<NdArray, String> {
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| key == name);
        found
            .map(|(_, content)| content)
            .ok_or_else(|| format!("there is no {name}"))
    };
    let (dtype, shape, data) = (field("dtype")?, field("shape")?, field("data")?);
    let Json::Str(dtype) = dtype else {
        return Err("dtype takes text such as \"<f8\"".to_owned());
    };
    let size = text_forms::item_size(dtype).ok_or_else(|| {
        format!("dtype {dtype:?} is not one of NumPy's plain ones, such as \"<f8\" or \"|u1\"")
    })?;
    let Json::Array(lengths) = shape else {
        return Err("shape takes an array of integers".to_owned());
    };
    let lengths: Option<Vec<u64>> = lengths
        .iter()
        .map(|length| match length {
            Json::Int(length) => u64::try_from(*length).ok(),
            _ => None,
        })
        .collect();
    let shape = lengths.ok_or("shape takes an array of integers, none of them negative")?;
    let data = bytes(data).ok_or("data takes base64 text")?;
    let needed = shape
        .iter()
        .try_fold(size, |bytes, length| bytes.checked_mul(*length));
    match needed {
        Some(needed) if needed == data.len() as u64 => Ok(NdArray {
            dtype: dtype.clone(),
            shape,
            data: data.into(),
        }),
        Some(needed) => Err(format!(
            "shape {shape:?} of {dtype:?} takes {needed} bytes of data, {} were given",
            data.len()
        )),
        None => Err(format!("shape {shape:?} is larger than any memory")),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JsonVisitor;

        impl<'de> Visitor<'de> for JsonVisitor {
            type Value = Json;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Int(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
                Ok(i64::try_from(value).map_or(Json::UInt(value), Json::Int))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Str(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Json, E> {
                Ok(Json::Str(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
                let mut array = Vec::new();
                while let Some(item) = items.next_element()? {
                    array.push(item);
                }
                Ok(Json::Array(array))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
                let mut object = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    object.push(entry);
                }
                Ok(Json::Object(object))
            }
        }

        deserializer.deserialize_any(JsonVisitor)
    }
}
