//! From values to JSON.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::ser::{Error as _, Serialize, SerializeMap as _, Serializer};
use serde_json::json;
use snakepit_core::rpc::{ArrowKind, Value};

use super::text_forms;

/// A value, to be serialized as JSON; maps keep their order.
#[derive(Debug)]
pub(crate) struct AsJson<'a>(pub(crate) &'a Value);

impl Serialize for AsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Nil => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(value) => serializer.serialize_i64(*value),
            Value::UInt(value) => serializer.serialize_u64(*value),
            Value::Float(value) => Float(*value).serialize(serializer),
            Value::Str(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => form(serializer, "$bytes", &STANDARD.encode(bytes)),
            Value::Array(items) => Items(items).serialize(serializer),
            Value::Map(entries) => map(serializer, entries),
            Value::Set(items) => form(serializer, "$set", &Items(items)),
            Value::DateTime(text) => form(serializer, "$datetime", text),
            Value::Date(text) => form(serializer, "$date", text),
            Value::Time(text) => form(serializer, "$time", text),
            Value::TimeDelta {
                days,
                seconds,
                microseconds,
            } => form(serializer, "$timedelta", &[days, seconds, microseconds]),
            Value::Decimal(text) => form(serializer, "$decimal", text),
            Value::Uuid(bytes) => form(serializer, "$uuid", &text_forms::uuid_text(*bytes)),
            Value::Complex { re, im } => form(serializer, "$complex", &[Float(*re), Float(*im)]),
            Value::NdArray(array) => {
                let data = STANDARD.encode(&array.data);
                let fields = Fields([
                    ("dtype", json!(array.dtype)),
                    ("shape", json!(array.shape)),
                    ("data", data.into()),
                ]);
                form(serializer, "$ndarray", &fields)
            }
            Value::Arrow(data) => {
                let name = match data.kind {
                    ArrowKind::Batch => "$arrow_batch",
                    _ => "$arrow_table",
                };
                form(serializer, name, &STANDARD.encode(data.stream()))
            }
            other => Err(S::Error::custom(format!(
                "this value has no JSON form: {other:?}"
            ))),
        }
    }
}

/// A dict is an object, unless a key is no string or it would read back as something else.
fn map<S: Serializer>(serializer: S, entries: &[(Value, Value)]) -> Result<S::Ok, S::Error> {
    let plain = entries.iter().all(|(key, _)| key.as_str().is_some());
    let looks_like_a_form =
        matches!(entries, [(key, _)] if key.as_str().is_some_and(|key| key.starts_with('$')));
    if !plain || looks_like_a_form {
        let pairs: Vec<_> = entries
            .iter()
            .map(|(key, value)| [AsJson(key), AsJson(value)])
            .collect();
        return form(serializer, "$map", &pairs);
    }
    let mut map = serializer.serialize_map(Some(entries.len()))?;
    for (key, value) in entries {
        map.serialize_entry(&AsJson(key), &AsJson(value))?;
    }
    map.end()
}

fn form<S: Serializer>(
    serializer: S,
    name: &'static str,
    content: &(impl Serialize + ?Sized),
) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(1))?;
    map.serialize_entry(name, content)?;
    map.end()
}

struct Items<'a>(&'a [Value]);

impl Serialize for Items<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(AsJson))
    }
}

/// A float; one that JSON has no number for is named.
struct Float(f64);

impl Serialize for Float {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match text_forms::float_name(self.0) {
            Some(name) => form(serializer, "$float", name),
            None => serializer.serialize_f64(self.0),
        }
    }
}

/// An object whose fields keep their order.
struct Fields<const N: usize>([(&'static str, serde_json::Value); N]);

impl<const N: usize> Serialize for Fields<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}
