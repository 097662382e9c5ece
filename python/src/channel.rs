//! Where a worker serves: the inherited socket, a Unix path, or a TCP address.

use std::{fmt, path::PathBuf};

/// A parsed `SNAKEPIT_CHANNEL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// `fd:0`: standard input is a socket from the host, which sends a preamble first.
    Inherited,
    /// `unix:PATH`: listen on a Unix socket.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`: listen on a TCP address.
    Tcp(String),
}

/// Text that names no channel.
#[derive(Debug)]
pub(crate) struct BadChannel(String);

impl fmt::Display for BadChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SNAKEPIT_CHANNEL is {:?}; it must be fd:0 (a socket from a Snakepit host), unix:PATH or tcp:HOST:PORT",
            self.0
        )
    }
}

impl Channel {
    /// Reads the text form.
    ///
    /// # Errors
    /// When the text has none of the three forms.
    pub(crate) fn parse(text: &str) -> Result<Self, BadChannel> {
        let bad = || BadChannel(text.to_owned());
        match text.split_once(':') {
            Some(("fd", "0")) => Ok(Self::Inherited),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp", address)) => {
                let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
                if host.is_empty() || port.parse::<u16>().is_err() {
                    return Err(bad());
                }
                Ok(Self::Tcp(address.to_owned()))
            }
            _ => Err(bad()),
        }
    }
}
