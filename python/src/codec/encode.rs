//! Python objects to MessagePack.

use bytes::Bytes;
use pyo3::{
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use rmp::encode as write;
use snakepit_proto::{
    arena::INLINE_LIMIT,
    v1::{Block, ValueInArena, call_response::Outcome as CallOutcome, stream_response::Message},
};

use super::{
    EXT_ARRAY, EXT_ARRAY_ELSEWHERE, EXT_ARROW, EXT_ARROW_ELSEWHERE, EXT_BYTES_ELSEWHERE, EXT_SET, MAX_DEPTH,
    buffer::{Memory, bytes_in_arena, dict_next},
    path::Path,
    unrepresentable, values,
};
use crate::arena::{Arena, Holds, arena};

/// What `snakepit._values.reduce` answers besides extension codes (1 to 9, 12).
const TAG_REPLACED: i8 = 0;
const TAG_SUBCLASS: i8 = -1;
const TAG_BUFFER: i8 = -2;

/// Why a value has no MessagePack form.
#[derive(Debug)]
pub(crate) enum EncodeError {
    /// It is of a kind that has none; with the way to it.
    Unrepresentable(String, Path),
    /// Python code that was asked about it raised.
    Raised(PyErr),
}

impl EncodeError {
    fn new(message: impl Into<String>) -> Self {
        Self::Unrepresentable(message.into(), Path::default())
    }

    fn within(mut self, step: impl FnOnce(&mut Path)) -> Self {
        if let Self::Unrepresentable(_, path) = &mut self {
            step(path);
        }
        self
    }
}

impl From<PyErr> for EncodeError {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

type Outcome = Result<(), EncodeError>;

/// The MessagePack form of a value, and what it refers to in the arena.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    bytes: Bytes,
    sent: Holds,
}

impl Encoded {
    fn in_arena(self) -> ValueInArena {
        ValueInArena {
            value: self.bytes,
            blocks: self.sent.into_wire(),
        }
    }

    /// Bytes that it takes, in the message and beside it.
    pub(crate) fn len(&self) -> usize {
        let beside = self.sent.blocks().iter().map(|block| block.len as usize);
        self.bytes.len() + beside.sum::<usize>()
    }

    /// In its parts.
    pub(crate) fn into_parts(self) -> (Bytes, Holds) {
        (self.bytes, self.sent)
    }

    /// As the result of a call.
    pub(crate) fn into_outcome(self) -> CallOutcome {
        if self.sent.is_empty() {
            CallOutcome::Value(self.bytes)
        } else {
            CallOutcome::InArena(self.in_arena())
        }
    }

    /// As an item of a stream.
    pub(crate) fn into_message(self) -> Message {
        if self.sent.is_empty() {
            Message::Item(self.bytes)
        } else {
            Message::InArena(self.in_arena())
        }
    }
}

/// Writes values one after the other.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    out: Vec<u8>,
    /// Whether large buffers go to the arena; inside of an extension, and to others than the host, they stay in the value.
    aside: bool,
    sent: Holds,
}

/// Writing to memory does not fail; the lengths were checked by [`length`].
fn put<T, E>(result: Result<T, E>) -> Outcome {
    result
        .map(|_| ())
        .map_err(|_| EncodeError::new("cannot be written"))
}

fn length(len: usize) -> Result<u32, EncodeError> {
    u32::try_from(len)
        .map_err(|_| EncodeError::new(format!("is too large: {len} bytes or items, at most 2^32-1 fit")))
}

fn deeper(depth: u32) -> Result<u32, EncodeError> {
    if depth < MAX_DEPTH {
        Ok(depth + 1)
    } else {
        Err(EncodeError::new(format!(
            "is nested deeper than {MAX_DEPTH} levels"
        )))
    }
}

impl Encoder {
    /// A value for the host, with large buffers in the arena as far as there is one and room in it.
    ///
    /// # Errors
    /// When it, or something in it, cannot be represented.
    pub(crate) fn encode_for_host(value: &Bound<'_, PyAny>) -> Result<Encoded, EncodeError> {
        let mut encoder = Self {
            aside: true,
            ..Self::default()
        };
        encoder.value(value, 0)?;
        Ok(Encoded {
            bytes: encoder.out.into(),
            sent: encoder.sent,
        })
    }

    /// The bytes of one value.
    ///
    /// # Errors
    /// When it, or something in it, cannot be represented.
    pub(crate) fn encode(value: &Bound<'_, PyAny>) -> Result<Vec<u8>, EncodeError> {
        let mut encoder = Self::default();
        encoder.value(value, 0)?;
        Ok(encoder.out)
    }

    /// Exact builtin types first, the frequent ones in front; everything else is asked about in Python.
    fn value(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> Outcome {
        if let Ok(text) = value.cast_exact::<PyString>() {
            self.text(text)
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            self.bytes(bytes.as_bytes())
        } else if let Ok(int) = value.cast_exact::<PyInt>() {
            self.int(int)
        } else if let Ok(float) = value.cast_exact::<PyFloat>() {
            put(write::write_f64(&mut self.out, float.value()))
        } else if let Ok(dict) = value.cast_exact::<PyDict>() {
            self.dict(dict, depth)
        } else if let Ok(list) = value.cast_exact::<PyList>() {
            self.list(list, depth)
        } else if value.is_none() {
            put(write::write_nil(&mut self.out))
        } else if let Ok(bool) = value.cast_exact::<PyBool>() {
            put(write::write_bool(&mut self.out, bool.is_true()))
        } else if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            self.tuple(tuple, depth)
        } else {
            self.other(value, depth)
        }
    }

    fn text(&mut self, text: &Bound<'_, PyString>) -> Outcome {
        let Ok(text) = text.to_str() else {
            return Err(EncodeError::new(
                "is a str with a lone surrogate, which UTF-8 cannot hold",
            ));
        };
        put(write::write_str_len(&mut self.out, length(text.len())?))?;
        self.out.extend_from_slice(text.as_bytes());
        Ok(())
    }

    /// Puts a large buffer into the arena, if this is the place for it and there is room; its number.
    fn put_aside(&mut self, len: usize, put: impl FnOnce(&Arena) -> Option<Block>) -> Option<u32> {
        let arena = (self.aside && len >= INLINE_LIMIT).then(arena)??;
        let block = put(arena)?;
        Some(self.sent.push(block))
    }

    /// Refers to bytes by their number.
    fn bytes_elsewhere(&mut self, number: u32) -> Outcome {
        self.extension(EXT_BYTES_ELSEWHERE, |inner| {
            put(write::write_uint(&mut inner.out, number.into()))
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        if let Some(number) = self.put_aside(bytes.len(), |arena| bytes_in_arena(bytes, arena)) {
            return self.bytes_elsewhere(number);
        }
        // Room for the header too, so that one large value is one allocation.
        self.out.reserve(bytes.len() + 8);
        put(write::write_bin_len(&mut self.out, length(bytes.len())?))?;
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn int(&mut self, int: &Bound<'_, PyInt>) -> Outcome {
        if let Ok(value) = int.extract::<i64>() {
            return put(write::write_sint(&mut self.out, value));
        }
        if let Ok(value) = int.extract::<u64>() {
            return put(write::write_uint(&mut self.out, value));
        }
        let bits = int.call_method0("bit_length")?;
        Err(EncodeError::new(format!(
            "is an int of {bits} bits; -2^63 to 2^64-1 can be represented"
        )))
    }

    fn list(&mut self, list: &Bound<'_, PyList>, depth: u32) -> Outcome {
        let depth = deeper(depth)?;
        let len = list.len();
        put(write::write_array_len(&mut self.out, length(len)?))?;
        for index in 0..len {
            // Writing an item may run Python code that shortens the list.
            let item = list
                .get_item(index)
                .map_err(|_| EncodeError::new("is a list that changed size while it was being written"))?;
            self.value(&item, depth)
                .map_err(|error| error.within(|path| path.index(index)))?;
        }
        Ok(())
    }

    fn tuple(&mut self, tuple: &Bound<'_, PyTuple>, depth: u32) -> Outcome {
        let depth = deeper(depth)?;
        put(write::write_array_len(&mut self.out, length(tuple.len())?))?;
        for (index, item) in tuple.iter_borrowed().enumerate() {
            self.value(&item, depth)
                .map_err(|error| error.within(|path| path.index(index)))?;
        }
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'_, PyDict>, depth: u32) -> Outcome {
        let depth = deeper(depth)?;
        let len = dict.len();
        put(write::write_map_len(&mut self.out, length(len)?))?;
        let (mut position, mut written) = (0, 0);
        while let Some((key, value)) = dict_next(dict, &mut position) {
            self.value(&key, depth)
                .map_err(|error| error.within(|path| path.in_key(written)))?;
            self.value(&value, depth)
                .map_err(|error| error.within(|path| path.key(&key)))?;
            written += 1;
        }
        if written == len {
            Ok(())
        } else {
            Err(EncodeError::new(
                "is a dict that changed size while it was being written",
            ))
        }
    }

    fn other(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> Outcome {
        let py = value.py();
        let answer = values(py)?.reduce.bind(py).call1((value,));
        let (tag, payload) = match answer {
            Ok(answer) => answer.extract::<(i8, Bound<'_, PyAny>)>()?,
            Err(error) => return Err(EncodeError::new(unrepresentable(py, error)?)),
        };
        match tag {
            // An enum may hold another enum: counting a level bounds that too.
            TAG_REPLACED => self.value(&payload, deeper(depth)?),
            TAG_SUBCLASS => self.subclass(&payload, depth),
            TAG_BUFFER => self.memory(&payload),
            EXT_SET => {
                let items = payload.cast_into::<PyList>().map_err(PyErr::from)?;
                let depth = deeper(depth)?;
                self.extension(EXT_SET, |inner| {
                    put(write::write_array_len(&mut inner.out, length(items.len())?))?;
                    for item in &items {
                        inner
                            .value(&item, depth)
                            .map_err(|error| error.within(Path::item))?;
                    }
                    Ok(())
                })
            }
            EXT_ARRAY => self.array(&payload, depth),
            EXT_ARROW => self.arrow(&payload),
            code => self.extension(code, |inner| inner.payload(&payload)),
        }
    }

    /// Instances of classes derived from builtin types count as those types.
    fn subclass(&mut self, value: &Bound<'_, PyAny>, depth: u32) -> Outcome {
        if let Ok(text) = value.cast::<PyString>() {
            self.text(text)
        } else if let Ok(bytes) = value.cast::<PyBytes>() {
            self.bytes(bytes.as_bytes())
        } else if let Ok(int) = value.cast::<PyInt>() {
            self.int(int)
        } else if let Ok(float) = value.cast::<PyFloat>() {
            put(write::write_f64(&mut self.out, float.value()))
        } else if let Ok(dict) = value.cast::<PyDict>() {
            self.dict(dict, depth)
        } else if let Ok(list) = value.cast::<PyList>() {
            self.list(list, depth)
        } else {
            self.tuple(value.cast::<PyTuple>().map_err(PyErr::from)?, depth)
        }
    }

    fn memory(&mut self, object: &Bound<'_, PyAny>) -> Outcome {
        let memory = Memory::of(object)?;
        let in_arena = |arena: &Arena| memory.in_arena(arena, object.py());
        if let Some(number) = self.put_aside(memory.len(), in_arena) {
            return self.bytes_elsewhere(number);
        }
        self.out.reserve(memory.len() + 8);
        put(write::write_bin_len(&mut self.out, length(memory.len())?))?;
        memory.append_to(&mut self.out, object.py());
        Ok(())
    }

    /// The raw bytes of a text or of bytes, or the MessagePack form of a tuple of numbers.
    fn payload(&mut self, payload: &Bound<'_, PyAny>) -> Outcome {
        if let Ok(text) = payload.cast::<PyString>() {
            self.out.extend_from_slice(text.to_str()?.as_bytes());
            Ok(())
        } else if let Ok(bytes) = payload.cast::<PyBytes>() {
            self.out.extend_from_slice(bytes.as_bytes());
            Ok(())
        } else {
            self.value(payload, 0)
        }
    }

    /// An extension's length stands before its payload and is known only after it.
    fn extension(&mut self, code: i8, fill: impl FnOnce(&mut Self) -> Outcome) -> Outcome {
        let mut inner = Self::default();
        fill(&mut inner)?;
        put(write::write_ext_meta(
            &mut self.out,
            length(inner.out.len())?,
            code,
        ))?;
        self.out.append(&mut inner.out);
        Ok(())
    }

    /// `[dtype, shape, data]`, with the data copied once, from the array to the message; or the number of where it is.
    fn array(&mut self, payload: &Bound<'_, PyAny>, depth: u32) -> Outcome {
        let (dtype, shape, data): (Bound<'_, PyString>, Bound<'_, PyTuple>, Bound<'_, PyAny>) =
            payload.extract()?;
        let mut head = Self::default();
        put(write::write_array_len(&mut head.out, 3))?;
        head.text(&dtype)?;
        head.tuple(&shape, depth.min(MAX_DEPTH - 1))?;
        self.with_data(head, &data, (EXT_ARRAY, EXT_ARRAY_ELSEWHERE))
    }

    /// `[kind, data]`, as an array.
    fn arrow(&mut self, payload: &Bound<'_, PyAny>) -> Outcome {
        let (kind, data): (u8, Bound<'_, PyAny>) = payload.extract()?;
        let mut head = Self::default();
        put(write::write_array_len(&mut head.out, 2))?;
        put(write::write_uint(&mut head.out, kind.into()))?;
        self.with_data(head, &data, (EXT_ARROW, EXT_ARROW_ELSEWHERE))
    }

    /// An extension whose payload ends with data, or with the number of where that is.
    fn with_data(
        &mut self,
        mut head: Self,
        data: &Bound<'_, PyAny>,
        (inline, elsewhere): (i8, i8),
    ) -> Outcome {
        let memory = Memory::of(data)?;
        let in_arena = |arena: &Arena| memory.in_arena(arena, data.py());
        if let Some(number) = self.put_aside(memory.len(), in_arena) {
            put(write::write_uint(&mut head.out, number.into()))?;
            let len = length(head.out.len())?;
            put(write::write_ext_meta(&mut self.out, len, elsewhere))?;
            self.out.append(&mut head.out);
            return Ok(());
        }
        put(write::write_bin_len(&mut head.out, length(memory.len())?))?;
        self.out.reserve(head.out.len() + memory.len() + 8);
        put(write::write_ext_meta(
            &mut self.out,
            length(head.out.len() + memory.len())?,
            inline,
        ))?;
        self.out.append(&mut head.out);
        memory.append_to(&mut self.out, data.py());
        Ok(())
    }
}
