//! Serde for [`Value`] and [`NdArray`], with the extension codes of VALUES.md.

use std::{cell::Cell, fmt};

use bytes::Bytes;
use rmp_serde::MSGPACK_EXT_STRUCT_NAME;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};

use super::{ArrowData, ArrowKind, FilledArray, NdArray, SharedArray, Value};
use crate::rpc::codec::{self, Part};

const DATETIME: i8 = 1;
const DATE: i8 = 2;
const TIME: i8 = 3;
const TIMEDELTA: i8 = 4;
const DECIMAL: i8 = 5;
const UUID: i8 = 6;
const COMPLEX: i8 = 7;
const SET: i8 = 8;
const NDARRAY: i8 = 9;
const NDARRAY_ELSEWHERE: i8 = 10;
const BYTES_ELSEWHERE: i8 = 11;
const ARROW: i8 = 12;
const ARROW_ELSEWHERE: i8 = 13;

/// Bytes that serialize as MessagePack bin (or as an extension's payload).
struct Bin<'a>(&'a [u8]);

impl Serialize for Bin<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Owned bytes read from bin.
struct Blob(Bytes);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct BlobVisitor;
        impl Visitor<'_> for BlobVisitor {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(codec::owned(bytes)))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes.into()))
            }
        }
        deserializer.deserialize_bytes(BlobVisitor)
    }
}

/// Writes an extension: the newtype name is how rmp-serde is told to.
fn ext<S: Serializer>(serializer: S, code: i8, payload: &[u8]) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(MSGPACK_EXT_STRUCT_NAME, &(code, Bin(payload)))
}

fn ext_of<S: Serializer, T: Serialize + ?Sized>(
    serializer: S,
    code: i8,
    payload: &T,
) -> Result<S::Ok, S::Error> {
    let encoded = codec::encode(payload).map_err(serde::ser::Error::custom)?;
    ext(serializer, code, &encoded)
}

/// Refers to a buffer that is kept aside, or has it in its place.
fn aside_or<S: Serializer>(
    buffer: &Bytes,
    serializer: S,
    refer: impl FnOnce(S, u32) -> Result<S::Ok, S::Error>,
    inline: impl FnOnce(S) -> Result<S::Ok, S::Error>,
) -> Result<S::Ok, S::Error> {
    match codec::place_of(buffer.len()) {
        Some(place) => place.keep(|| Part::Bytes(buffer.clone()), |number| refer(serializer, number)),
        None => inline(serializer),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Nil => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::UInt(value) => serializer.serialize_u64(*value),
            Self::Float(value) => serializer.serialize_f64(*value),
            Self::Str(value) => serializer.serialize_str(value),
            Self::Bytes(value) => aside_or(
                value,
                serializer,
                |serializer, number| ext_of(serializer, BYTES_ELSEWHERE, &number),
                |serializer| serializer.serialize_bytes(value),
            ),
            Self::Array(items) => serializer.collect_seq(items),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
            Self::Set(items) => ext_of(serializer, SET, items),
            Self::DateTime(text) => ext(serializer, DATETIME, text.as_bytes()),
            Self::Date(text) => ext(serializer, DATE, text.as_bytes()),
            Self::Time(text) => ext(serializer, TIME, text.as_bytes()),
            Self::TimeDelta {
                days,
                seconds,
                microseconds,
            } => ext_of(serializer, TIMEDELTA, &(days, seconds, microseconds)),
            Self::Decimal(text) => ext(serializer, DECIMAL, text.as_bytes()),
            Self::Uuid(bytes) => ext(serializer, UUID, bytes),
            Self::Complex { re, im } => ext(
                serializer,
                COMPLEX,
                &[re.to_be_bytes(), im.to_be_bytes()].concat(),
            ),
            Self::NdArray(array) => array.serialize(serializer),
            Self::Arrow(data) => data.serialize(serializer),
        }
    }
}

impl Serialize for NdArray {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let head = (&self.dtype, &self.shape);
        aside_or(
            &self.data,
            serializer,
            |serializer, number| ext_of(serializer, NDARRAY_ELSEWHERE, &(head.0, head.1, number)),
            |serializer| ext_of(serializer, NDARRAY, &(head.0, head.1, Bin(&self.data))),
        )
    }
}

impl Serialize for ArrowData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let kind = self.kind.code();
        match codec::place_of(self.stream.len()) {
            Some(place) => place.keep(
                || Part::Pieces(self.stream.clone()),
                |number| ext_of(serializer, ARROW_ELSEWHERE, &(kind, number)),
            ),
            None => ext_of(serializer, ARROW, &(kind, Bin(&self.stream.to_bytes()))),
        }
    }
}

impl<'de> Deserialize<'de> for ArrowData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Arrow(data) => Ok(data),
            other => Err(de::Error::custom(format!(
                "expected data of Arrow, found {other:?}"
            ))),
        }
    }
}

fn arrow_data(kind: u8, stream: Bytes) -> Result<Value, String> {
    let known = ArrowKind::of_code(kind);
    let kind = known.ok_or_else(|| format!("data of Arrow is of the unknown kind {kind}"))?;
    Ok(Value::Arrow(ArrowData::new(kind, stream)))
}

impl Serialize for FilledArray {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { dtype, shape, filler } = self;
        match codec::place_of(filler.len()) {
            Some(place) => place.keep(
                || Part::Filled(filler.clone()),
                |number| ext_of(serializer, NDARRAY_ELSEWHERE, &(dtype, shape, number)),
            ),
            None => ext_of(serializer, NDARRAY, &(dtype, shape, Bin(&filler.to_vec()))),
        }
    }
}

/// An array whose reference this is.
fn array_elsewhere(payload: &[u8]) -> Result<SharedArray, String> {
    let decoded = codec::decode::<(String, Vec<u64>, usize)>(payload);
    let (dtype, shape, number) =
        decoded.map_err(|error| format!("extension {NDARRAY_ELSEWHERE}: {error}"))?;
    let held = codec::take_array(number).ok_or("an array did not come along")?;
    Ok(SharedArray::shared(dtype, shape, held))
}

impl<'de> Deserialize<'de> for SharedArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArrayVisitor;
        impl<'de> Visitor<'de> for ArrayVisitor {
            type Value = SharedArray;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of NumPy")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(
                self,
                deserializer: D,
            ) -> Result<SharedArray, D::Error> {
                let (code, Blob(payload)) = <(i8, Blob)>::deserialize(deserializer)?;
                if code == NDARRAY_ELSEWHERE {
                    return array_elsewhere(&payload).map_err(de::Error::custom);
                }
                match from_ext(code, &payload).map_err(de::Error::custom)? {
                    Value::NdArray(array) => Ok(array.into()),
                    other => Err(de::Error::custom(format!(
                        "expected an array of NumPy, found {other:?}"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(ArrayVisitor)
    }
}

impl<'de> Deserialize<'de> for NdArray {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::NdArray(array) => Ok(array),
            other => Err(de::Error::custom(format!(
                "expected an array of NumPy, found {other:?}"
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of snakepit.worker.v1")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::UInt(value), Value::Int))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Str(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Str(value))
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(Value::Bytes(codec::owned(value)))
    }

    fn visit_byte_buf<E>(self, value: Vec<u8>) -> Result<Value, E> {
        Ok(Value::Bytes(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        // The announced length is the sender's word: bound what is reserved on it.
        let mut items = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::with_capacity(map.size_hint().unwrap_or(0).min(4096));
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }

    /// rmp-serde shows an extension as a newtype around `(code, payload)`.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let (code, Blob(payload)) = <(i8, Blob)>::deserialize(deserializer)?;
        from_ext(code, &payload).map_err(de::Error::custom)
    }
}

fn from_ext(code: i8, payload: &Bytes) -> Result<Value, String> {
    let text = || String::from_utf8(payload.to_vec()).map_err(|_| format!("extension {code} is not UTF-8"));
    let nested = |error: codec::CodecError| format!("extension {code}: {error}");
    Ok(match code {
        DATETIME => Value::DateTime(text()?),
        DATE => Value::Date(text()?),
        TIME => Value::Time(text()?),
        DECIMAL => Value::Decimal(text()?),
        TIMEDELTA => {
            let (days, seconds, microseconds) = codec::decode(payload).map_err(nested)?;
            Value::TimeDelta {
                days,
                seconds,
                microseconds,
            }
        }
        UUID => Value::Uuid(
            payload[..]
                .try_into()
                .map_err(|_| "a UUID has 16 bytes".to_owned())?,
        ),
        COMPLEX => {
            let halves: [u8; 16] = payload[..]
                .try_into()
                .map_err(|_| "a complex number has 16 bytes".to_owned())?;
            let bits = u128::from_be_bytes(halves);
            let half = |shift: u32| f64::from_bits((bits >> shift) as u64);
            Value::Complex {
                re: half(64),
                im: half(0),
            }
        }
        SET => Value::Set(decode_set(payload)?),
        NDARRAY => {
            let (dtype, shape, Blob(data)) = codec::decode(payload).map_err(nested)?;
            Value::NdArray(NdArray { dtype, shape, data })
        }
        NDARRAY_ELSEWHERE => Value::NdArray(array_elsewhere(payload)?.to_ndarray()),
        ARROW => {
            let (kind, Blob(stream)) = codec::decode(payload).map_err(nested)?;
            arrow_data(kind, stream)?
        }
        ARROW_ELSEWHERE => {
            let (kind, number) = codec::decode(payload).map_err(nested)?;
            let held = codec::take_array(number).ok_or("data of Arrow did not come along")?;
            let mut stream = Vec::new();
            held.append_to(&mut stream);
            arrow_data(kind, stream.into())?
        }
        _ => return Err(format!("extension {code} is unknown to this host")),
    })
}

/// How deep sets may nest in sets (of frozensets), and what is inside of one: the payload of an extension is a
/// message of its own, to which the outer limit of nesting does not reach.
const SET_NESTING: u32 = 4;
const SET_DEPTH: usize = 24;

fn decode_set(payload: &[u8]) -> Result<Vec<Value>, String> {
    thread_local! {
        static NESTING: Cell<u32> = const { Cell::new(0) };
    }
    let level = NESTING.get();
    if level >= SET_NESTING {
        return Err(format!("sets nest deeper than {SET_NESTING} levels"));
    }
    NESTING.set(level + 1);
    let items = codec::decode_bounded(payload, SET_DEPTH);
    NESTING.set(level);
    items.map_err(|error| format!("extension {SET}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_survives_a_round_trip() {
        let values = [
            Value::Nil,
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::UInt(u64::MAX),
            Value::Float(-0.5),
            Value::Str("snake".into()),
            Value::Bytes(Bytes::from_static(b"\0\xff")),
            Value::Map(vec![
                (Value::Int(1), Value::Str("x".into())),
                (Value::Nil, Value::Bool(false)),
            ]),
            Value::Set(vec![Value::Int(1), Value::Int(2)]),
            Value::DateTime("2026-01-31T12:00:00+00:00".into()),
            Value::Date("2026-01-31".into()),
            Value::Time("12:00:00".into()),
            Value::TimeDelta {
                days: -1,
                seconds: 5,
                microseconds: 7,
            },
            Value::Decimal("1.10".into()),
            Value::Uuid([7; 16]),
            Value::Complex { re: 1.0, im: -2.0 },
            Value::NdArray(NdArray::from_slice(&[1, 2], &[1_u8, 2]).unwrap()),
            Value::Array(vec![]),
            Value::Arrow(ArrowData::new(ArrowKind::Table, "a stream")),
        ];
        for value in values.iter().chain([&Value::Array(values.to_vec())]) {
            let encoded = codec::encode(value).unwrap();
            assert_eq!(&codec::decode::<Value>(&encoded).unwrap(), value);
        }
    }

    #[test]
    fn an_array_decodes_as_itself() {
        let array = NdArray::from_slice(&[2], &[1.5_f32, 2.5]).unwrap();
        let encoded = codec::encode(&array).unwrap();
        assert_eq!(codec::decode::<NdArray>(&encoded).unwrap(), array);
        assert!(codec::decode::<NdArray>(&[1]).is_err());
    }

    #[test]
    fn unknown_and_torn_extensions_are_errors() {
        // fixext 1, code 99
        assert!(
            codec::decode::<Value>(&[0xd4, 99, 0])
                .unwrap_err()
                .to_string()
                .contains("99")
        );
        // fixext 1, UUID with one byte
        assert!(codec::decode::<Value>(&[0xd4, 6, 0]).is_err());
    }
}
