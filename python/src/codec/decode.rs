//! MessagePack to Python objects.

use pyo3::{
    IntoPyObjectExt as _,
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyFrozenSet, PyList, PySet, PyString, PyTuple},
};
use rmp::Marker;

use snakepit_proto::v1::Block;

use super::{
    EXT_ARRAY, EXT_ARRAY_ELSEWHERE, EXT_ARROW, EXT_ARROW_ELSEWHERE, EXT_BYTES_ELSEWHERE, EXT_SET, MAX_DEPTH,
    buffer::Memory, path::Path, unrepresentable, values,
};
use crate::arena::{Arena, arena};

/// Why bytes are no value.
#[derive(Debug)]
pub(crate) enum DecodeError {
    /// What is wrong, and the way to it.
    Invalid(String, Path),
    /// Python code that was asked to build a value raised.
    Raised(PyErr),
}

impl DecodeError {
    fn new(message: impl Into<String>) -> Self {
        Self::Invalid(message.into(), Path::default())
    }

    fn within(mut self, step: impl FnOnce(&mut Path)) -> Self {
        if let Self::Invalid(_, path) = &mut self {
            step(path);
        }
        self
    }
}

impl From<PyErr> for DecodeError {
    fn from(error: PyErr) -> Self {
        Self::Raised(error)
    }
}

type Object<'py> = Bound<'py, PyAny>;

/// Where a value stands decides what an array becomes there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Anywhere: arrays are lists, sets are sets.
    Plain,
    /// A dict's key or a set's item: arrays are tuples, sets are frozensets, because those can be hashed.
    Hashed,
}

/// Reads values one after the other.
pub(crate) struct Decoder<'a, 'py> {
    py: Python<'py>,
    rest: &'a [u8],
    /// What it refers to in the arena.
    blocks: &'a [Block],
}

impl<'a, 'py> Decoder<'a, 'py> {
    pub(crate) fn new(py: Python<'py>, bytes: &'a [u8]) -> Self {
        Self::with_blocks(py, bytes, &[])
    }

    /// Of a value that may refer to the arena.
    pub(crate) fn with_blocks(py: Python<'py>, bytes: &'a [u8], blocks: &'a [Block]) -> Self {
        Self {
            py,
            rest: bytes,
            blocks,
        }
    }

    /// Reads the one value the bytes must hold.
    ///
    /// # Errors
    /// When they hold no value, or more than one.
    pub(crate) fn single(mut self) -> Result<Object<'py>, DecodeError> {
        let value = self.value(0, Place::Plain)?;
        self.finish()?;
        Ok(value)
    }

    /// Reads positional arguments.
    ///
    /// # Errors
    /// When the bytes hold no array, or a value in it is invalid.
    pub(crate) fn positional(mut self) -> Result<Bound<'py, PyTuple>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(PyTuple::empty(self.py));
        }
        let len = match self.marker()? {
            Marker::FixArray(len) => usize::from(len),
            Marker::Array16 => self.u16()?,
            Marker::Array32 => self.u32()?,
            other => {
                return Err(DecodeError::new(format!(
                    "must be a MessagePack array, not {other:?}"
                )));
            }
        };
        let items = self.items(len, 0, Place::Plain)?;
        self.finish()?;
        Ok(PyTuple::new(self.py, items)?)
    }

    /// Reads keyword arguments; `None` when there are none.
    ///
    /// # Errors
    /// When the bytes hold no map with string keys, or a value in it is invalid.
    pub(crate) fn keyword(mut self) -> Result<Option<Bound<'py, PyDict>>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let len = match self.marker()? {
            Marker::FixMap(len) => usize::from(len),
            Marker::Map16 => self.u16()?,
            Marker::Map32 => self.u32()?,
            other => {
                return Err(DecodeError::new(format!(
                    "must be a MessagePack map, not {other:?}"
                )));
            }
        };
        let dict = self.map(len, 0)?;
        self.finish()?;
        if dict
            .keys()
            .iter()
            .any(|key| !key.is_exact_instance_of::<PyString>())
        {
            return Err(DecodeError::new("must have only strings as keys"));
        }
        Ok((!dict.is_empty()).then_some(dict))
    }

    fn finish(&self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            more => Err(DecodeError::new(format!(
                "is followed by {more} bytes that belong to no value"
            ))),
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| {
            DecodeError::new(format!(
                "ends early: {len} bytes are needed, {} are left",
                self.rest.len()
            ))
        })?;
        self.rest = rest;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N)?);
        Ok(bytes)
    }

    fn marker(&mut self) -> Result<Marker, DecodeError> {
        let [byte] = self.fixed()?;
        Ok(Marker::from_u8(byte))
    }

    fn u8(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u8::from_be_bytes(self.fixed()?)))
    }

    fn u16(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.fixed()?)))
    }

    fn u32(&mut self) -> Result<usize, DecodeError> {
        Ok(u32::from_be_bytes(self.fixed()?) as usize)
    }

    fn object<T: IntoPyObject<'py>>(&self, value: T) -> Result<Object<'py>, DecodeError> {
        Ok(value.into_bound_py_any(self.py)?)
    }

    fn value(&mut self, depth: u32, place: Place) -> Result<Object<'py>, DecodeError> {
        match self.marker()? {
            Marker::FixPos(value) => self.object(value),
            Marker::FixNeg(value) => self.object(value),
            Marker::Null => Ok(self.py.None().into_bound(self.py)),
            Marker::True => Ok(PyBool::new(self.py, true).to_owned().into_any()),
            Marker::False => Ok(PyBool::new(self.py, false).to_owned().into_any()),
            Marker::U8 => {
                let value = u8::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::U16 => {
                let value = u16::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::U32 => {
                let value = u32::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::U64 => {
                let value = u64::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::I8 => {
                let value = i8::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::I16 => {
                let value = i16::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::I32 => {
                let value = i32::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::I64 => {
                let value = i64::from_be_bytes(self.fixed()?);
                self.object(value)
            }
            Marker::F32 => {
                let value = f32::from_be_bytes(self.fixed()?);
                Ok(self.float(value.into()))
            }
            Marker::F64 => {
                let value = f64::from_be_bytes(self.fixed()?);
                Ok(self.float(value))
            }
            Marker::FixStr(len) => self.text(usize::from(len)),
            Marker::Str8 => {
                let len = self.u8()?;
                self.text(len)
            }
            Marker::Str16 => {
                let len = self.u16()?;
                self.text(len)
            }
            Marker::Str32 => {
                let len = self.u32()?;
                self.text(len)
            }
            Marker::Bin8 => {
                let len = self.u8()?;
                self.bytes(len)
            }
            Marker::Bin16 => {
                let len = self.u16()?;
                self.bytes(len)
            }
            Marker::Bin32 => {
                let len = self.u32()?;
                self.bytes(len)
            }
            Marker::FixArray(len) => self.array(usize::from(len), depth, place),
            Marker::Array16 => {
                let len = self.u16()?;
                self.array(len, depth, place)
            }
            Marker::Array32 => {
                let len = self.u32()?;
                self.array(len, depth, place)
            }
            Marker::FixMap(len) => Ok(self.map(usize::from(len), depth)?.into_any()),
            Marker::Map16 => {
                let len = self.u16()?;
                Ok(self.map(len, depth)?.into_any())
            }
            Marker::Map32 => {
                let len = self.u32()?;
                Ok(self.map(len, depth)?.into_any())
            }
            Marker::FixExt1 => self.extension(1, depth, place),
            Marker::FixExt2 => self.extension(2, depth, place),
            Marker::FixExt4 => self.extension(4, depth, place),
            Marker::FixExt8 => self.extension(8, depth, place),
            Marker::FixExt16 => self.extension(16, depth, place),
            Marker::Ext8 => {
                let len = self.u8()?;
                self.extension(len, depth, place)
            }
            Marker::Ext16 => {
                let len = self.u16()?;
                self.extension(len, depth, place)
            }
            Marker::Ext32 => {
                let len = self.u32()?;
                self.extension(len, depth, place)
            }
            Marker::Reserved => Err(DecodeError::new(
                "has the byte 0xc1, which MessagePack never uses",
            )),
        }
    }

    fn float(&self, value: f64) -> Object<'py> {
        PyFloat::new(self.py, value).into_any()
    }

    fn text(&mut self, len: usize) -> Result<Object<'py>, DecodeError> {
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(PyString::new(self.py, text).into_any()),
            Err(error) => Err(DecodeError::new(format!(
                "is a str that is not valid UTF-8: {error}"
            ))),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<Object<'py>, DecodeError> {
        Ok(PyBytes::new(self.py, self.take(len)?).into_any())
    }

    fn deeper(&self, depth: u32) -> Result<u32, DecodeError> {
        if depth < MAX_DEPTH {
            Ok(depth + 1)
        } else {
            Err(DecodeError::new(format!(
                "is nested deeper than {MAX_DEPTH} levels"
            )))
        }
    }

    /// Every item takes at least one byte, so a length beyond what is left is a lie told to make us allocate.
    fn plausible(&self, len: usize) -> Result<(), DecodeError> {
        if len <= self.rest.len() {
            Ok(())
        } else {
            Err(DecodeError::new(format!(
                "ends early: {len} items are announced, {} bytes are left",
                self.rest.len()
            )))
        }
    }

    fn items(&mut self, len: usize, depth: u32, place: Place) -> Result<Vec<Object<'py>>, DecodeError> {
        self.plausible(len)?;
        let mut items = Vec::with_capacity(len);
        for index in 0..len {
            items.push(
                self.value(depth, place)
                    .map_err(|error| error.within(|path| path.index(index)))?,
            );
        }
        Ok(items)
    }

    fn array(&mut self, len: usize, depth: u32, place: Place) -> Result<Object<'py>, DecodeError> {
        let depth = self.deeper(depth)?;
        let items = self.items(len, depth, place)?;
        Ok(match place {
            Place::Plain => PyList::new(self.py, items)?.into_any(),
            Place::Hashed => PyTuple::new(self.py, items)?.into_any(),
        })
    }

    fn map(&mut self, len: usize, depth: u32) -> Result<Bound<'py, PyDict>, DecodeError> {
        self.plausible(len)?;
        let depth = self.deeper(depth)?;
        let dict = PyDict::new(self.py);
        for position in 0..len {
            let key = self
                .value(depth, Place::Hashed)
                .map_err(|error| error.within(|path| path.in_key(position)))?;
            let value = self
                .value(depth, Place::Plain)
                .map_err(|error| error.within(|path| path.key(&key)))?;
            dict.set_item(&key, value).map_err(|_| {
                let name = key
                    .get_type()
                    .name()
                    .map_or_else(|_| "?".to_owned(), |name| name.to_string());
                DecodeError::new(format!(
                    "is a map whose key {position} is a {name}, which cannot be hashed"
                ))
            })?;
        }
        Ok(dict)
    }

    fn extension(&mut self, len: usize, depth: u32, place: Place) -> Result<Object<'py>, DecodeError> {
        let code = i8::from_be_bytes(self.fixed()?);
        let payload = self.take(len)?;
        let mut inner = Decoder::new(self.py, payload);
        match code {
            EXT_SET => {
                let depth = self.deeper(depth)?;
                let items = inner.set_items(depth).map_err(|error| error.within(Path::item))?;
                let unhashable = |_| DecodeError::new("is a set with an item that cannot be hashed");
                Ok(match place {
                    Place::Plain => PySet::new(self.py, items).map_err(unhashable)?.into_any(),
                    Place::Hashed => PyFrozenSet::new(self.py, items).map_err(unhashable)?.into_any(),
                })
            }
            EXT_ARRAY => inner.ndarray(),
            EXT_ARRAY_ELSEWHERE => inner.ndarray_in(self.blocks),
            EXT_ARROW => inner.arrow(),
            EXT_ARROW_ELSEWHERE => inner.arrow_in(self.blocks),
            EXT_BYTES_ELSEWHERE => {
                let (arena, block) = inner.referred(self.blocks)?;
                Ok(arena.copied(self.py, block).map_err(DecodeError::new)??)
            }
            code => {
                let payload = PyBytes::new(self.py, payload);
                let restore = values(self.py)?.restore.bind(self.py);
                match restore.call1((code, payload)) {
                    Ok(value) => Ok(value),
                    Err(error) => Err(DecodeError::new(unrepresentable(self.py, error)?)),
                }
            }
        }
    }

    fn set_items(&mut self, depth: u32) -> Result<Vec<Object<'py>>, DecodeError> {
        let len = match self.marker()? {
            Marker::FixArray(len) => usize::from(len),
            Marker::Array16 => self.u16()?,
            Marker::Array32 => self.u32()?,
            other => {
                return Err(DecodeError::new(format!(
                    "is a set (ext 8) of {other:?} instead of an array"
                )));
            }
        };
        let items = self.items(len, depth, Place::Hashed)?;
        self.finish()?;
        Ok(items)
    }

    /// `[dtype, shape, data]`, with the data copied once, from the message to the array.
    fn ndarray(&mut self) -> Result<Object<'py>, DecodeError> {
        let malformed = || DecodeError::new("is an array (ext 9) that is not [dtype, shape, data]");
        if !matches!(self.marker()?, Marker::FixArray(3)) {
            return Err(malformed());
        }
        let dtype = self.value(0, Place::Plain)?;
        let shape = self.value(0, Place::Hashed)?;
        let data = self.data()?.ok_or_else(malformed)?;
        let make = values(self.py)?.empty_array.bind(self.py);
        let made = match make.call1((dtype, shape, data.len())) {
            Ok(made) => made,
            Err(error) => return Err(DecodeError::new(unrepresentable(self.py, error)?)),
        };
        let (array, memory): (Object<'py>, Object<'py>) = made.extract()?;
        Memory::of(&memory)?.fill(data, self.py)?;
        Ok(array)
    }

    /// `[dtype, shape, number]`, with the data where the host has put it.
    fn ndarray_in(&mut self, blocks: &[Block]) -> Result<Object<'py>, DecodeError> {
        if !matches!(self.marker()?, Marker::FixArray(3)) {
            return Err(DecodeError::new(
                "is an array (ext 10) that is not [dtype, shape, buffer]",
            ));
        }
        let dtype = self.value(0, Place::Plain)?;
        let shape = self.value(0, Place::Hashed)?;
        let (arena, block) = self.referred(blocks)?;
        let block = arena.take(block).map_err(DecodeError::new)?;
        let make = values(self.py)?.array_over.bind(self.py);
        match make.call1((dtype, shape, Bound::new(self.py, block)?)) {
            Ok(array) => Ok(array),
            Err(error) => Err(DecodeError::new(unrepresentable(self.py, error)?)),
        }
    }

    /// `[kind, data]`, over a copy of the data.
    fn arrow(&mut self) -> Result<Object<'py>, DecodeError> {
        let malformed = || DecodeError::new("is data of Arrow (ext 12) that is not [kind, data]");
        if !matches!(self.marker()?, Marker::FixArray(2)) {
            return Err(malformed());
        }
        let kind = self.value(0, Place::Plain)?;
        let data = self.data()?.ok_or_else(malformed)?;
        self.arrow_over(kind, PyBytes::new(self.py, data).into_any())
    }

    /// `[kind, number]`, over the data where the host has put it.
    fn arrow_in(&mut self, blocks: &[Block]) -> Result<Object<'py>, DecodeError> {
        if !matches!(self.marker()?, Marker::FixArray(2)) {
            return Err(DecodeError::new(
                "is data of Arrow (ext 13) that is not [kind, buffer]",
            ));
        }
        let kind = self.value(0, Place::Plain)?;
        let (arena, block) = self.referred(blocks)?;
        let block = arena.take(block).map_err(DecodeError::new)?;
        self.arrow_over(kind, Bound::new(self.py, block)?.into_any())
    }

    fn arrow_over(&self, kind: Object<'py>, memory: Object<'py>) -> Result<Object<'py>, DecodeError> {
        let make = values(self.py)?.arrow_over.bind(self.py);
        match make.call1((kind, memory)) {
            Ok(value) => Ok(value),
            Err(error) => Err(DecodeError::new(unrepresentable(self.py, error)?)),
        }
    }

    /// Bytes that are all that is left; `None` for anything else.
    fn data(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let len = match self.marker()? {
            Marker::Bin8 => self.u8()?,
            Marker::Bin16 => self.u16()?,
            Marker::Bin32 => self.u32()?,
            _ => return Ok(None),
        };
        let data = self.take(len)?;
        self.finish()?;
        Ok(Some(data))
    }

    /// The block whose number is all that is left.
    fn referred<'b>(&mut self, blocks: &'b [Block]) -> Result<(&'static Arena, &'b Block), DecodeError> {
        let number = rmp::decode::read_int::<u32, _>(&mut self.rest);
        self.finish()?;
        let block = number.ok().and_then(|number| blocks.get(number as usize));
        arena()
            .zip(block)
            .ok_or_else(|| DecodeError::new("refers to a buffer that did not come along"))
    }
}
