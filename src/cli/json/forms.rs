//! Objects that stand for what JSON has no word for.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use snakepit_core::rpc::{ArrowData, ArrowKind, NdArray, Value};

use super::{
    FORMS,
    read::{JsonError, below, into_values},
    text_forms,
    tree::Json,
};

/// People leave the padding out; it carries nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The value that `{name: content}` stands for.
pub(super) fn form(name: &str, content: Json, path: &mut String) -> Result<Value, JsonError> {
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
        ("$arrow_batch" | "$arrow_table", content) => {
            let kind = if name == "$arrow_batch" {
                ArrowKind::Batch
            } else {
                ArrowKind::Table
            };
            let stream = bytes(&content);
            let stream = stream.ok_or_else(|| wrong("base64 text of a stream of Arrow's IPC format"))?;
            Value::Arrow(ArrowData::new(kind, stream))
        }
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
