//! Rust values to MessagePack and back, by serde.
//!
//! The encoding is described in `VALUES.md` of `snakepit-proto`. Structs travel as maps by field name, and
//! sequences of `u8` as bytes.

mod arrays;
mod aside;
mod fill_in;
mod source;

use std::cell::Cell;

pub(crate) use arrays::{take_array, with_arrays};
pub(crate) use aside::{Encoded, Part, place_of};
use bytes::Bytes;
pub(crate) use fill_in::{Fill, Parts, fill_in};
use rmp_serde::config::BytesMode;
use serde::{Serialize, de::DeserializeOwned};
pub(crate) use source::owned;

/// The deepest nesting accepted, both ways: serde_json's limit too, and safe on a 2 MiB stack in a debug build.
pub const MAX_DEPTH: usize = 128;

/// A Rust value does not fit the protocol, or the other way round.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// An argument cannot be represented.
    #[error("cannot encode {type_name}: {message}")]
    Encode {
        /// The Rust type.
        type_name: &'static str,
        /// Why.
        message: String,
    },
    /// Positional arguments must be a tuple or another sequence, keyword arguments a map or a struct.
    #[error("{what} must be {expected}, got {type_name}")]
    Shape {
        /// `positional arguments` or `keyword arguments`.
        what: &'static str,
        /// What would be right.
        expected: &'static str,
        /// The Rust type given.
        type_name: &'static str,
    },
    /// The arguments do not fit into one message.
    #[error("the arguments take {len} bytes, a message can hold {limit}")]
    TooLarge {
        /// What they take, encoded.
        len: usize,
        /// What there is room for.
        limit: usize,
    },
    /// An answer is not of the type that was asked for.
    #[error("cannot decode the answer as {type_name}: {message}")]
    Decode {
        /// The Rust type.
        type_name: &'static str,
        /// Why.
        message: String,
    },
}

/// Encodes one value.
///
/// # Errors
/// When `T` has no representation, or nests deeper than [`MAX_DEPTH`].
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    aside::nothing_aside(|| write(value))
}

/// As [`encode`], with large buffers kept aside.
pub(crate) fn encode_aside<T: Serialize + ?Sized>(value: &T) -> Result<Encoded, CodecError> {
    aside::with_aside(|| write(value))
}

thread_local! {
    /// What is written to, since how long a value becomes is known when it is written: memory that grows costs more than a copy.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The longest value that is copied out of the scratch memory, which keeps as much.
const SHORT: usize = 16 * 1024;

fn write<T: Serialize + ?Sized>(value: &T) -> Result<Bytes, CodecError> {
    // A value whose serialisation encodes another one leaves that an empty one.
    let mut buffer = SCRATCH.try_with(Cell::take).unwrap_or_default();
    let mut serializer = rmp_serde::Serializer::new(&mut buffer)
        .with_struct_map()
        .with_bytes(BytesMode::ForceIterables);
    serializer.unstable_set_max_depth(MAX_DEPTH);
    let written = value.serialize(&mut serializer);
    let encoded = match written {
        Ok(()) if buffer.len() > SHORT => return Ok(buffer.into()),
        Ok(()) => Ok(Bytes::copy_from_slice(&buffer)),
        Err(error) => Err(CodecError::Encode {
            type_name: std::any::type_name::<T>(),
            message: error.to_string(),
        }),
    };
    if buffer.capacity() <= 2 * SHORT {
        buffer.clear();
        // An error says that the thread is ending.
        let _ = SCRATCH.try_with(|scratch| scratch.set(buffer));
    }
    encoded
}

/// Encodes positional arguments: a tuple, an array, a `Vec` or `()`.
///
/// # Errors
/// As [`encode`]; also when the value is not a sequence.
pub fn encode_args<T: Serialize + ?Sized>(args: &T) -> Result<Bytes, CodecError> {
    aside::nothing_aside(|| write_args(args))
}

/// As [`encode_args`], with large buffers kept aside.
pub(crate) fn encode_args_aside<T: Serialize + ?Sized>(args: &T) -> Result<Encoded, CodecError> {
    aside::with_aside(|| write_args(args))
}

fn write_args<T: Serialize + ?Sized>(args: &T) -> Result<Bytes, CodecError> {
    let encoded = write(args)?;
    match encoded.first().map(|byte| rmp::Marker::from_u8(*byte)) {
        // `()` is nil in MessagePack: no arguments.
        Some(rmp::Marker::Null) => Ok(Bytes::new()),
        Some(rmp::Marker::FixArray(_) | rmp::Marker::Array16 | rmp::Marker::Array32) => Ok(encoded),
        _ => Err(CodecError::Shape {
            what: "positional arguments",
            expected: "a tuple or another sequence; write (x,) for a single one",
            type_name: std::any::type_name::<T>(),
        }),
    }
}

/// Encodes the positional arguments of many calls, as one array of arrays, with large buffers kept aside; and how many calls those
/// are.
pub(crate) fn encode_batch_aside<T: Serialize>(
    calls: impl IntoIterator<Item = T>,
) -> Result<(Encoded, usize), CodecError> {
    let mut count = 0_u32;
    let encoded = aside::with_aside(|| {
        let mut encoded = Vec::new();
        for args in calls {
            match &*write_args(&args)? {
                // No arguments.
                [] => encoded.push(rmp::Marker::FixArray(0).to_u8()),
                args => encoded.extend_from_slice(args),
            }
            count = count.saturating_add(1);
        }
        let mut all = Vec::with_capacity(encoded.len() + 5);
        // Writing to a vector cannot fail.
        let _ = rmp::encode::write_array_len(&mut all, count);
        all.extend(encoded);
        Ok(all.into())
    })?;
    Ok((encoded, count as usize))
}

/// Encodes keyword arguments: a map with string keys, or a struct.
///
/// # Errors
/// As [`encode`]; also when the value is not a map.
pub fn encode_kwargs<T: Serialize + ?Sized>(kwargs: &T) -> Result<Bytes, CodecError> {
    aside::nothing_aside(|| write_kwargs(kwargs))
}

/// As [`encode_kwargs`], with large buffers kept aside.
pub(crate) fn encode_kwargs_aside<T: Serialize + ?Sized>(kwargs: &T) -> Result<Encoded, CodecError> {
    aside::with_aside(|| write_kwargs(kwargs))
}

fn write_kwargs<T: Serialize + ?Sized>(kwargs: &T) -> Result<Bytes, CodecError> {
    let encoded = write(kwargs)?;
    match encoded.first().map(|byte| rmp::Marker::from_u8(*byte)) {
        Some(rmp::Marker::Null) => Ok(Bytes::new()),
        Some(rmp::Marker::FixMap(_) | rmp::Marker::Map16 | rmp::Marker::Map32) => Ok(encoded),
        _ => Err(CodecError::Shape {
            what: "keyword arguments",
            expected: "a map or a struct",
            type_name: std::any::type_name::<T>(),
        }),
    }
}

/// Decodes one value.
///
/// # Errors
/// When the value is not a `T`, is torn, or nests deeper than [`MAX_DEPTH`].
pub fn decode<T: DeserializeOwned>(encoded: &[u8]) -> Result<T, CodecError> {
    decode_bounded(encoded, MAX_DEPTH)
}

/// As [`decode`]; large buffers of a [`Value`](super::Value) share the message's memory.
pub(crate) fn decode_message<T: DeserializeOwned>(message: &Bytes) -> Result<T, CodecError> {
    source::decoding(message, |encoded| decode(encoded))
}

/// As [`decode`], with another limit of nesting.
pub(super) fn decode_bounded<T: DeserializeOwned>(encoded: &[u8], depth: usize) -> Result<T, CodecError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(encoded);
    deserializer.set_max_depth(depth);
    T::deserialize(&mut deserializer).map_err(|error| CodecError::Decode {
        type_name: std::any::type_name::<T>(),
        message: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use snakepit_proto::arena::INLINE_LIMIT;

    use super::*;
    use crate::rpc::{FilledArray, NdArray, Value};

    #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Point {
        x: f64,
        label: String,
    }

    #[test]
    fn structs_are_maps_by_name() {
        let point = Point {
            x: 1.5,
            label: "a".into(),
        };
        let encoded = encode(&point).unwrap();
        assert_eq!(rmp::Marker::from_u8(encoded[0]), rmp::Marker::FixMap(2));
        assert_eq!(decode::<Point>(&encoded).unwrap(), point);
    }

    #[test]
    fn sequences_of_u8_are_bytes_both_ways() {
        let encoded = encode(&(vec![1_u8, 2],)).unwrap();
        assert_eq!(&encoded[..], [0x91, 0xc4, 2, 1, 2]);
        assert_eq!(decode::<(Vec<u8>,)>(&encoded).unwrap().0, [1, 2]);
    }

    #[test]
    fn large_buffers_are_kept_aside_and_come_back_into_their_places() {
        let large = Bytes::from(vec![7; INLINE_LIMIT]);
        let array = NdArray {
            dtype: "|u1".to_owned(),
            shape: vec![2, INLINE_LIMIT as u64 / 2],
            data: large.clone(),
        };
        let small = Value::Bytes(Bytes::from(vec![1; INLINE_LIMIT - 1]));
        let set = Value::Set(vec![Value::Bytes(large.clone())]);
        let args = (1, &array, vec![small, Value::Bytes(large.clone())], set, "end");
        let encoded = encode_args_aside(&args).unwrap();
        let aside: Vec<_> = encoded.aside().iter().map(Part::to_bytes).collect();
        assert_eq!(aside, [large.clone(), large.clone()]);
        assert_eq!(encoded.inline(), encode_args(&args).unwrap());
        let list = [Value::Bytes(large.clone()), Value::Nil];
        let encoded = encode_args_aside(&list[..]).unwrap();
        assert_eq!(encoded.aside().len(), 1, "the first of a list is looked at twice");
        assert_eq!(encoded.inline(), encode_args(&list[..]).unwrap());
        assert!(encode_args_aside(&(1, "small")).unwrap().aside().is_empty());
    }

    #[test]
    fn arrays_that_are_written_later_are_as_if_they_had_been_written_before() {
        for len in [INLINE_LIMIT - 1, INLINE_LIMIT] {
            let made = FilledArray::new::<u8>(&[len as u64], move |out| {
                assert!(out.write(0, &vec![7; len]));
            });
            let args = (1, made.unwrap(), "end");
            let encoded = encode_args_aside(&args).unwrap();
            assert_eq!(encoded.aside().len(), usize::from(len == INLINE_LIMIT));
            assert_eq!(
                encoded.inline(),
                encode_args(&(1, args.1.to_ndarray(), "end")).unwrap()
            );
            assert_eq!(encoded.inline(), encode_args(&args).unwrap());
        }
    }

    #[test]
    fn large_buffers_share_the_memory_of_their_message() {
        let large = Bytes::from(vec![7; INLINE_LIMIT]);
        let message = encode(&Value::Array(vec![Value::Bytes(large.clone())])).unwrap();
        let Value::Array(items) = decode_message(&message).unwrap() else {
            panic!()
        };
        let [Value::Bytes(shared)] = &items[..] else {
            panic!()
        };
        assert_eq!(shared, &large);
        assert!(message.as_ptr_range().contains(&shared.as_ptr()));
        let Value::Array(items) = decode(&message).unwrap() else {
            panic!()
        };
        let [Value::Bytes(copied)] = &items[..] else {
            panic!()
        };
        assert!(!message.as_ptr_range().contains(&copied.as_ptr()));
    }

    #[test]
    fn references_out_of_order_and_torn_values_are_errors() {
        struct Two;
        impl Parts for Two {
            fn len(&self) -> usize {
                2
            }
            fn len_of(&self, _: usize) -> usize {
                1
            }
            fn append(&mut self, part: usize, out: &mut Vec<u8>) {
                out.push(part as u8);
            }
        }
        let good = [0x92, 0xd4, 11, 0, 0xd4, 11, 1];
        assert_eq!(
            fill_in(&good, &mut Two, Fill::All).unwrap(),
            [0x92, 0xc4, 1, 0, 0xc4, 1, 1]
        );
        let array = [
            0x92, 0xc7, 7, 10, 0x93, 0xa3, b'|', b'u', b'1', 0x90, 0, 0xd4, 11, 1,
        ];
        let filled = fill_in(&array, &mut Two, Fill::All).unwrap();
        assert_eq!(
            filled,
            [
                0x92, 0xc7, 9, 9, 0x93, 0xa3, b'|', b'u', b'1', 0x90, 0xc4, 1, 0, 0xc4, 1, 1
            ]
        );
        let arrow = [0x92, 0xd6, 13, 0x92, 0xcc, 1, 0, 0xd4, 11, 1];
        assert_eq!(
            fill_in(&arrow[..], &mut Two, Fill::Bytes).unwrap()[..7],
            arrow[..7]
        );
        assert_eq!(
            fill_in(&arrow, &mut Two, Fill::All).unwrap(),
            [0x92, 0xc7, 6, 12, 0x92, 0xcc, 1, 0xc4, 1, 0, 0xc4, 1, 1]
        );
        let only_bytes = fill_in(&array, &mut Two, Fill::Bytes).unwrap();
        assert_eq!(only_bytes[..11], array[..11]);
        assert_eq!(only_bytes[11..], [0xc4, 1, 1]);
        for (wrong, why) in [
            (&[0x92, 0xd4, 11, 1, 0xd4, 11, 0][..], "buffer 1 where 0 of 2"),
            (&[0x92, 0xd4, 11, 0, 0xd4, 11, 0][..], "buffer 0 where 1 of 2"),
            (
                &[0x93, 0xd4, 11, 0, 0xd4, 11, 1, 0xd4, 11, 2][..],
                "buffer 2 where 2 of 2",
            ),
            (&[0xd4, 11, 0][..], "1 of 2 buffers"),
            (&[0xd4, 11, 0xc0][..], "no number"),
            (&[0xd4, 10, 0][..], "not [dtype, shape, buffer]"),
            (&[0xd5, 13, 0x93, 0][..], "not [kind, buffer]"),
            (&[0x93, 0xd4, 11, 0][..], "ends early"),
            (&[0xdf, 0xff, 0xff, 0xff, 0xff][..], "ends early"),
            (&[][..], "ends early"),
        ] {
            let error = fill_in(wrong, &mut Two, Fill::All).unwrap_err();
            assert!(error.contains(why), "{wrong:?}: {error}");
        }
    }

    #[test]
    fn arguments_must_be_a_sequence_and_keywords_a_map() {
        assert!(encode_args(&()).unwrap().is_empty());
        assert!(encode_args(&(1, "two")).is_ok());
        let error = encode_args(&5).unwrap_err().to_string();
        assert_eq!(
            error,
            "positional arguments must be a tuple or another sequence; write (x,) for a single one, got i32"
        );
        assert!(
            encode_kwargs(&Point {
                x: 0.0,
                label: String::new()
            })
            .is_ok()
        );
        assert!(
            encode_kwargs(&[1])
                .unwrap_err()
                .to_string()
                .contains("a map or a struct")
        );
    }

    #[test]
    fn a_wrong_type_and_torn_bytes_are_errors() {
        let encoded = encode("text").unwrap();
        assert!(decode::<u32>(&encoded).unwrap_err().to_string().contains("u32"));
        assert!(decode::<String>(&encoded[..2]).is_err());
    }

    #[test]
    fn nesting_past_the_limit_is_an_error_and_no_overflow() {
        let nested = |depth: usize| [vec![0x91_u8; depth], vec![0xc0]].concat();
        assert!(decode::<crate::rpc::Value>(&nested(MAX_DEPTH - 1)).is_ok());
        assert!(decode::<crate::rpc::Value>(&nested(100_000)).is_err());
        let mut sets = vec![0x90_u8];
        for _ in 0..10_000 {
            let mut outer = vec![0xc9];
            outer.extend(u32::try_from(sets.len() + 1).unwrap().to_be_bytes());
            outer.extend([8, 0x91]);
            outer.append(&mut sets);
            sets = outer;
        }
        assert!(
            decode::<crate::rpc::Value>(&sets)
                .unwrap_err()
                .to_string()
                .contains("sets nest")
        );
    }
}
