//! Puts buffers into a value in the place of the references to them.

use rmp::{Marker, encode as write};

/// Extension codes of VALUES.md: an array, bytes and data of Arrow, and references to those.
const ARRAY: i8 = 9;
const ARRAY_ELSEWHERE: i8 = 10;
const BYTES_ELSEWHERE: i8 = 11;
const ARROW: i8 = 12;
const ARROW_ELSEWHERE: i8 = 13;

/// What references stand for.
pub(crate) trait Parts {
    /// How many there are.
    fn len(&self) -> usize;
    /// The bytes of one of them.
    fn len_of(&self, part: usize) -> usize;
    /// Appends exactly those.
    fn append(&mut self, part: usize, out: &mut Vec<u8>);
}

/// What is filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fill {
    /// Everything.
    All,
    /// Bytes; references to arrays and data of Arrow stay as they are.
    Bytes,
}

/// The value with what it refers to in it. References must be numbered in the order in which they come, and all parts must be
/// referred to: so each is copied once, whoever wrote the value.
///
/// # Errors
/// When that is not so, or the value is torn.
pub(crate) fn fill_in(encoded: &[u8], parts: &mut impl Parts, fill: Fill) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    if fill == Fill::All {
        // An array has three headers of 5 bytes or so instead of what refers to it.
        let all = (0..parts.len()).map(|part| parts.len_of(part) + 16);
        out.reserve_exact(all.sum::<usize>() + encoded.len());
    }
    let mut reader = Reader { encoded, at: 0 };
    let (mut values, mut copied, mut next) = (1_u64, 0, 0);
    while values > 0 {
        values -= 1;
        let start = reader.at;
        match reader.head()? {
            Head::Skip(len) => reader.skip(len)?,
            Head::Values(more) => values = values.saturating_add(more),
            Head::Extension(code @ (ARRAY_ELSEWHERE | BYTES_ELSEWHERE | ARROW_ELSEWHERE), len) => {
                let (before, part) = reference(code, reader.take(len)?)?;
                if part != next as u64 || next >= parts.len() {
                    let of = parts.len();
                    return Err(format!("it refers to buffer {part} where {next} of {of} is next"));
                }
                if fill == Fill::All || code == BYTES_ELSEWHERE {
                    out.extend_from_slice(&encoded[copied..start]);
                    put_part(code, before, next, parts, &mut out)?;
                    copied = reader.at;
                }
                next += 1;
            }
            Head::Extension(_, len) => reader.skip(len)?,
        }
    }
    if next < parts.len() {
        return Err(format!("it refers to {next} of {} buffers", parts.len()));
    }
    out.extend_from_slice(&encoded[copied..]);
    Ok(out)
}

/// What stands before the reference in an extension's payload (of an array: its head, dtype and shape; of data of Arrow: its head and
/// kind), and the reference.
fn reference(code: i8, payload: &[u8]) -> Result<(&[u8], u64), String> {
    let mut reader = Reader {
        encoded: payload,
        at: 0,
    };
    let form = match code {
        ARRAY_ELSEWHERE => Some((3, "an array (ext 10) is not [dtype, shape, buffer]")),
        ARROW_ELSEWHERE => Some((2, "data of Arrow (ext 13) is not [kind, buffer]")),
        _ => None,
    };
    if let Some((fields, not_so)) = form {
        if !matches!(reader.head()?, Head::Values(found) if found == fields) {
            return Err(not_so.to_owned());
        }
        // All but the last, however they are built.
        let mut values = fields - 1;
        while values > 0 {
            values -= 1;
            match reader.head()? {
                Head::Skip(len) | Head::Extension(_, len) => reader.skip(len)?,
                Head::Values(more) => values = values.saturating_add(more),
            }
        }
    }
    let (before, mut rest) = payload.split_at(reader.at);
    match rmp::decode::read_int(&mut rest) {
        Ok(part) if rest.is_empty() => Ok((before, part)),
        _ => Err(format!("a reference (ext {code}) has no number of a buffer")),
    }
}

/// Appends what a reference of this code stands for.
fn put_part(
    code: i8,
    before: &[u8],
    part: usize,
    parts: &mut impl Parts,
    out: &mut Vec<u8>,
) -> Result<(), String> {
    let too_long = |_| format!("buffer {part} takes more bytes than a value can have");
    let len = u32::try_from(parts.len_of(part)).map_err(too_long)?;
    let mut head = Vec::with_capacity(before.len() + 5);
    head.extend_from_slice(before);
    // Writing to memory does not fail.
    let _ = write::write_bin_len(&mut head, len);
    let inline = match code {
        ARRAY_ELSEWHERE => Some(ARRAY),
        ARROW_ELSEWHERE => Some(ARROW),
        _ => None,
    };
    if let Some(inline) = inline {
        let payload = u32::try_from(head.len() as u64 + u64::from(len)).map_err(too_long)?;
        let _ = write::write_ext_meta(out, payload, inline);
    }
    out.append(&mut head);
    parts.append(part, out);
    Ok(())
}

/// What a value begins with.
enum Head {
    /// This many bytes, and it is over.
    Skip(usize),
    /// This many values.
    Values(u64),
    Extension(i8, usize),
}

struct Reader<'a> {
    encoded: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let rest = &self.encoded[self.at..];
        let taken = rest.get(..len).ok_or("it ends early")?;
        self.at += len;
        Ok(taken)
    }

    fn skip(&mut self, len: usize) -> Result<(), String> {
        self.take(len).map(|_| ())
    }

    /// A length of so many bytes.
    fn len(&mut self, bytes: usize) -> Result<usize, String> {
        let taken = self.take(bytes)?.iter();
        Ok(taken.fold(0, |len, byte| len << 8 | usize::from(*byte)))
    }

    fn extension(&mut self, len: usize) -> Result<Head, String> {
        let code = i8::from_be_bytes([self.take(1)?[0]]);
        Ok(Head::Extension(code, len))
    }

    fn head(&mut self) -> Result<Head, String> {
        let marker = Marker::from_u8(self.take(1)?[0]);
        Ok(match marker {
            Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => {
                Head::Skip(0)
            }
            Marker::U8 | Marker::I8 => Head::Skip(1),
            Marker::U16 | Marker::I16 => Head::Skip(2),
            Marker::U32 | Marker::I32 | Marker::F32 => Head::Skip(4),
            Marker::U64 | Marker::I64 | Marker::F64 => Head::Skip(8),
            Marker::FixStr(len) => Head::Skip(usize::from(len)),
            Marker::Str8 | Marker::Bin8 => Head::Skip(self.len(1)?),
            Marker::Str16 | Marker::Bin16 => Head::Skip(self.len(2)?),
            Marker::Str32 | Marker::Bin32 => Head::Skip(self.len(4)?),
            Marker::FixArray(len) => Head::Values(u64::from(len)),
            Marker::Array16 => Head::Values(self.len(2)? as u64),
            Marker::Array32 => Head::Values(self.len(4)? as u64),
            Marker::FixMap(len) => Head::Values(2 * u64::from(len)),
            Marker::Map16 => Head::Values(2 * self.len(2)? as u64),
            Marker::Map32 => Head::Values(2 * self.len(4)? as u64),
            Marker::FixExt1 => self.extension(1)?,
            Marker::FixExt2 => self.extension(2)?,
            Marker::FixExt4 => self.extension(4)?,
            Marker::FixExt8 => self.extension(8)?,
            Marker::FixExt16 => self.extension(16)?,
            Marker::Ext8 => {
                let len = self.len(1)?;
                self.extension(len)?
            }
            Marker::Ext16 => {
                let len = self.len(2)?;
                self.extension(len)?
            }
            Marker::Ext32 => {
                let len = self.len(4)?;
                self.extension(len)?
            }
            Marker::Reserved => return Err("it has the byte 0xc1, which MessagePack never uses".to_owned()),
        })
    }
}
