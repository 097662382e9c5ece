//! What a process writes, line by line into tracing.

use std::{
    collections::VecDeque,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader},
    net::unix::pipe,
    sync::watch,
};

use crate::id::WorkerId;

/// Bytes of standard error kept for errors.
const TAIL: usize = 64 * 1024;
/// A longer line is handed on in pieces, so that a worker that never ends its line cannot fill our memory.
const MAX_LINE: u64 = 16 * 1024;

/// The last bytes a process wrote to standard error.
#[derive(Clone, Debug)]
pub struct StderrTail {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    /// False once the pipe has reached its end.
    open: watch::Receiver<bool>,
}

impl StderrTail {
    /// The text so far, decoded lossily.
    pub fn text(&self) -> String {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(bytes.make_contiguous()).into_owned()
    }

    /// Resolves when everything has been read. May never: a grandchild can hold the pipe.
    pub async fn drained(&self) {
        // An error means that the reader is gone, which is the same.
        let _ = self.open.clone().wait_for(|open| !open).await;
    }
}

/// Drains a process's standard output and error for as long as they are open: each line is a tracing event with the target
/// `snakepit::stdout` or `snakepit::stderr`.
///
/// # Errors
/// When the descriptors are no pipes.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub fn drain(
    worker: WorkerId,
    pid: u32,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
) -> io::Result<StderrTail> {
    let (open, opened) = watch::channel(true);
    let tail = StderrTail {
        bytes: Arc::default(),
        open: opened,
    };
    if let Some(fd) = stdout {
        let pipe = pipe::Receiver::from_owned_fd(fd)?;
        tokio::spawn(lines(
            pipe,
            move |line| tracing::info!(target: "snakepit::stdout", %worker, pid, "{line}"),
        ));
    }
    match stderr {
        Some(fd) => {
            let pipe = pipe::Receiver::from_owned_fd(fd)?;
            let bytes = Arc::clone(&tail.bytes);
            tokio::spawn(async move {
                lines(pipe, |line| {
                    keep(&bytes, line);
                    tracing::info!(target: "snakepit::stderr", %worker, pid, "{line}");
                })
                .await;
                open.send_replace(false);
            });
        }
        None => drop(open),
    }
    Ok(tail)
}

fn keep(tail: &Mutex<VecDeque<u8>>, line: &str) {
    let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
    tail.extend(line.as_bytes());
    tail.push_back(b'\n');
    let surplus = tail.len().saturating_sub(TAIL);
    tail.drain(..surplus);
}

async fn lines(pipe: impl AsyncRead + Unpin, mut each: impl FnMut(&str)) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
            Err(error) => {
                tracing::debug!(%error, "a process's output cannot be read any more");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn long_lines_come_in_pieces_and_the_last_needs_no_newline() {
        let text = [vec![b'x'; MAX_LINE as usize + 1], b"\nlast".to_vec()].concat();
        let mut seen = Vec::new();
        lines(&text[..], |line| seen.push(line.len())).await;
        assert_eq!(seen, [MAX_LINE as usize, 1, 4]);
    }

    #[test]
    fn the_tail_keeps_the_end() {
        let tail = Mutex::default();
        keep(&tail, &"a".repeat(TAIL));
        keep(&tail, "end");
        let mut tail = tail.into_inner().unwrap();
        assert_eq!(tail.len(), TAIL);
        assert!(tail.make_contiguous().ends_with(b"end\n"));
    }
}
