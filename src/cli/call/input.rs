//! The items of `--input`: JSON, one value a line.

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader},
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use snakepit::{CallError, Value};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::{
    failure::{Failure, chain},
    json::{self, JsonError},
};

/// Lines that are read ahead of the call.
const AHEAD: usize = 16;

/// What items are read from.
pub(crate) type Lines = Box<dyn BufRead + Send>;

/// Where items come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    StandardInput,
    File(PathBuf),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "-" => Self::StandardInput,
            path => Self::File(path.into()),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StandardInput => f.write_str("standard input"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A line that is no item.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LineError {
    #[error("line {number} of {origin}")]
    Json {
        number: u64,
        origin: String,
        #[source]
        source: JsonError,
    },
    #[error("cannot read line {number} of {origin}")]
    Read {
        number: u64,
        origin: String,
        #[source]
        source: io::Error,
    },
}

/// The items as a call takes them.
pub(crate) type Items = ReceiverStream<Result<Value, LineError>>;

/// What was wrong with the items, once something was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaint(Arc<Mutex<Option<String>>>);

impl Complaint {
    fn make(&self, text: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Whether it is what made a call fail. The call's own error is only what Python made of it.
    pub(crate) fn explains(&self, error: &CallError) -> Option<Failure> {
        let raised = &error.remote()?.exceptions;
        let is_ours = raised
            .iter()
            .any(|raised| raised.type_name == "snakepit.InputError");
        let text = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        text.filter(|_| is_ours).map(Failure::Usage)
    }
}

impl Source {
    /// Opens it.
    ///
    /// # Errors
    /// When there is no such file, or it may not be read.
    pub(crate) fn open(&self) -> Result<Lines, Failure> {
        Ok(match self {
            Self::StandardInput => Box::new(BufReader::new(io::stdin())),
            Self::File(path) => {
                let file = File::open(path)
                    .map_err(|error| Failure::Usage(format!("cannot open {}: {error}", path.display())))?;
                Box::new(BufReader::new(file))
            }
        })
    }

    /// Reads the items on a thread of its own, which ends when nobody takes them, or with the program: a read of a terminal
    /// cannot be given up.
    pub(crate) fn read(&self, lines: Lines) -> (Items, Complaint) {
        let (send, items) = mpsc::channel(AHEAD);
        let complaint = Complaint::default();
        let (origin, complaints) = (self.to_string(), complaint.clone());
        thread::spawn(move || {
            for (line, number) in lines.lines().zip(1..) {
                let item = match line {
                    Ok(line) if line.trim().is_empty() => continue,
                    Ok(line) => json::parse_line(&line).map_err(|source| LineError::Json {
                        number,
                        origin: origin.clone(),
                        source,
                    }),
                    Err(source) => Err(LineError::Read {
                        number,
                        origin: origin.clone(),
                        source,
                    }),
                };
                if let Err(error) = &item {
                    complaints.make(chain(error));
                }
                let last = item.is_err();
                if send.blocking_send(item).is_err() || last {
                    return;
                }
            }
        });
        (ReceiverStream::new(items), complaint)
    }
}
