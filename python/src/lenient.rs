//! Understanding clients built on gRPC's C core over Unix sockets.
//!
//! They send the socket's path, percent-encoded, as `:authority` (`tmp%2Fworker.sock`). A percent sign is not
//! allowed there (RFC 3986, section 3.2.2, as the `http` crate reads it), so the HTTP/2 library resets every
//! request before we see it. The value means nothing to a server that has one identity: on its way in, each
//! percent sign in it is replaced, which changes no length and keeps the header table of both sides the same.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Length of the client's connection preface (RFC 9113, section 3.4).
const PREFACE: usize = 24;
/// Length of a frame's head (RFC 9113, section 4.1).
const HEAD: usize = 9;
/// Type of a frame that carries a request's header fields.
const HEADERS: u8 = 1;
/// A literal field name without Huffman coding (RFC 7541, section 6.2), which is what the C core writes.
const NAME: &[u8] = b"\x0a:authority";

/// Where in the byte stream we are.
#[derive(Debug)]
enum Position {
    /// So many bytes are left that do not matter.
    Skip(usize),
    /// Inside a frame's head.
    Head { read: usize, head: [u8; HEAD] },
    /// Inside a `HEADERS` frame, with so many bytes left of it.
    Headers { left: usize, field: Field },
}

/// Where in the header fields we are.
#[derive(Clone, Copy, Debug)]
enum Field {
    /// So many bytes of the name have matched.
    Name(usize),
    /// The name has matched: the value's length comes next.
    Length,
    /// So many bytes of the value are left.
    Value(u8),
}

impl Field {
    fn next(self, byte: &mut u8) -> Self {
        match self {
            Self::Name(matched) => match NAME.get(matched) {
                Some(expected) if byte == expected => {
                    if matched + 1 == NAME.len() {
                        Self::Length
                    } else {
                        Self::Name(matched + 1)
                    }
                }
                _ => Self::Name(usize::from(*byte == NAME[0])),
            },
            // Longer or Huffman-coded values are not what this is for.
            Self::Length if (1..127).contains(byte) => Self::Value(*byte),
            Self::Length => Self::Name(0),
            Self::Value(left) => {
                if *byte == b'%' {
                    *byte = b'-';
                }
                if left > 1 {
                    Self::Value(left - 1)
                } else {
                    Self::Name(0)
                }
            }
        }
    }
}

const FRAME: Position = Position::Head {
    read: 0,
    head: [0; HEAD],
};

impl Position {
    fn advance(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            match self {
                Self::Skip(left) => {
                    let step = (*left).min(bytes.len());
                    *left -= step;
                    if *left == 0 {
                        *self = FRAME;
                    }
                    bytes = &mut bytes[step..];
                }
                Self::Head { read, head } => {
                    head[*read] = bytes[0];
                    *read += 1;
                    if *read == HEAD {
                        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                        *self = match (head[3], length) {
                            (_, 0) => FRAME,
                            (HEADERS, left) => Self::Headers {
                                left,
                                field: Field::Name(0),
                            },
                            (_, left) => Self::Skip(left),
                        };
                    }
                    bytes = &mut bytes[1..];
                }
                Self::Headers { left, field } => {
                    *field = field.next(&mut bytes[0]);
                    *left -= 1;
                    if *left == 0 {
                        *self = FRAME;
                    }
                    bytes = &mut bytes[1..];
                }
            }
        }
    }
}

/// A connection's socket, read leniently.
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    socket: S,
    position: Position,
}

impl<S> Lenient<S> {
    /// Wraps a fresh connection.
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            position: Position::Skip(PREFACE),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.position.advance(&mut buf.filled_mut()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
