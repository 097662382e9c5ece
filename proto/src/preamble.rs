//! The bytes that open an inherited channel, before HTTP/2 begins on it.
//!
//! A worker that was given its channel as standard input blocks on this preamble and does nothing else: it is
//! the gate that the host opens once the worker's identity is on record. The fixed part travels in one
//! message together with one or more descriptors (`SCM_RIGHTS`, unix(7)). In this order, and as many as there are: the control
//! socket, the socket of [calls](crate::frames), the [`journal`], the [arena](crate::arena).
//!
//! ```text
//! offset  size  content
//! 0       8     magic, b"SNAKEPIT"
//! 8       2     preamble version, big endian
//! 10      2     number of descriptors sent along, big endian
//! 12      4     length of the body that follows, big endian; empty in version 2
//! ```

/// The first bytes of every preamble.
pub const MAGIC: [u8; 8] = *b"SNAKEPIT";
/// The preamble version written by this build.
pub const VERSION: u16 = 2;
/// Size of the fixed part in bytes.
pub const LEN: usize = 16;
/// The largest body a reader accepts, in bytes.
pub const MAX_BODY: u32 = 64 * 1024;

/// The journal: a memory file in which a worker notes each call before it begins, and its beats.
///
/// It outlives the worker, so a host knows of every call that was under way whether it had begun. A worker that has the
/// ability `journal` writes the id of its n-th call, counted from 0, as a native-endian 64-bit number into entry
/// `n % ENTRIES`, in the same step in which it decides that the call begins.
///
/// Behind the entries is a native-endian 64-bit number. A worker that has the ability `beats` raises it every `beat_ms` of its
/// handshake, from the thread that answers pings; its host pings it only when the number has not changed since it last looked.
pub mod journal {
    /// Entries; far more than a host lets be under way at the same time.
    pub const ENTRIES: usize = 8;
    /// Where the number of beats begins, in bytes.
    pub const BEATS: usize = ENTRIES * size_of::<u64>();
    /// Size of the file in bytes. That of a host that asks for no beats may end before their number.
    pub const LEN: usize = BEATS + size_of::<u64>();
}

/// The fixed part of a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// Preamble version of the sender.
    pub version: u16,
    /// How many descriptors were sent along.
    pub descriptors: u16,
    /// Bytes of body that follow.
    pub body_len: u32,
}

/// Why bytes are not a preamble this build can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreambleError {
    /// The magic is missing: the peer is no Snakepit host.
    Magic,
    /// The sender speaks another preamble version (this one).
    Version(u16),
    /// The announced body is larger than [`MAX_BODY`].
    Body(u32),
}

impl std::fmt::Display for PreambleError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Magic => write!(f, "the channel does not begin with a snakepit preamble"),
            Self::Version(theirs) => {
                write!(
                    f,
                    "the host sent preamble version {theirs}, this worker reads version {VERSION}"
                )
            }
            Self::Body(len) => write!(
                f,
                "the preamble announces {len} bytes of body, at most {MAX_BODY} are accepted"
            ),
        }
    }
}

impl std::error::Error for PreambleError {}

impl Preamble {
    /// A preamble of the current version without a body.
    pub const fn new(descriptors: u16) -> Self {
        Self {
            version: VERSION,
            descriptors,
            body_len: 0,
        }
    }

    /// The bytes to send.
    pub fn encode(self) -> [u8; LEN] {
        let mut out = [0; LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..10].copy_from_slice(&self.version.to_be_bytes());
        out[10..12].copy_from_slice(&self.descriptors.to_be_bytes());
        out[12..].copy_from_slice(&self.body_len.to_be_bytes());
        out
    }

    /// Reads the fixed part.
    ///
    /// # Errors
    /// When the magic is missing, the version is another one, or the body is too large.
    pub fn decode(bytes: [u8; LEN]) -> Result<Self, PreambleError> {
        let [m @ .., v0, v1, d0, d1, b0, b1, b2, b3] = bytes;
        if m != MAGIC {
            return Err(PreambleError::Magic);
        }
        let version = u16::from_be_bytes([v0, v1]);
        if version != VERSION {
            return Err(PreambleError::Version(version));
        }
        let body_len = u32::from_be_bytes([b0, b1, b2, b3]);
        if body_len > MAX_BODY {
            return Err(PreambleError::Body(body_len));
        }
        Ok(Self {
            version,
            descriptors: u16::from_be_bytes([d0, d1]),
            body_len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_round_trip() {
        let preamble = Preamble::new(2);
        assert_eq!(Preamble::decode(preamble.encode()), Ok(preamble));
    }

    #[test]
    fn names_what_is_wrong() {
        let good = Preamble::new(1).encode();
        let with = |at: usize, byte: u8| {
            let mut bytes = good;
            bytes[at] = byte;
            Preamble::decode(bytes)
        };
        assert_eq!(with(0, b'X'), Err(PreambleError::Magic));
        assert_eq!(with(9, 7), Err(PreambleError::Version(7)));
        assert_eq!(with(12, 0xff), Err(PreambleError::Body(0xff00_0000)));
    }
}
