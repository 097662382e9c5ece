//! Lines on their way to somebody who may not read them: written by a thread of their own, so that nothing else is held up.

use std::{
    collections::VecDeque,
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use tokio::sync::Notify;

/// What waits to be written before whoever has more waits as well, or it is dropped: as much as a pipe takes, several times.
const ROOM: usize = 1 << 20;

/// Written by a thread that ends with the program.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Something was written, or cannot be.
    written: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Of those that wait or are being written.
    bytes: usize,
    /// Lines that found no room, since one did.
    dropped: u64,
    failed: Option<io::ErrorKind>,
}

impl Queue {
    /// One that is written to what `open` gives.
    pub(super) fn new<W: Write>(open: impl FnOnce() -> W + Send + 'static) -> Arc<Self> {
        let queue = Arc::new(Self {
            state: Mutex::default(),
            filled: Condvar::new(),
            written: Notify::new(),
        });
        let writer = Arc::clone(&queue);
        thread::spawn(move || writer.write_all(open()));
        queue
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_all(&self, mut out: impl Write) {
        let mut state = self.lock();
        loop {
            while state.waiting.is_empty() {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let batch = mem::take(&mut state.waiting);
            drop(state);
            let bytes = batch.iter().map(Vec::len).sum::<usize>();
            let done = batch.iter().try_for_each(|text| out.write_all(text));
            let done = done.and_then(|()| out.flush());
            state = self.lock();
            state.bytes -= bytes;
            if let Err(error) = done {
                state.failed = Some(error.kind());
                state.bytes -= state.waiting.drain(..).map(|text| text.len()).sum::<usize>();
            }
            self.written.notify_waiters();
        }
    }

    fn push(&self, state: &mut State, text: Vec<u8>) {
        state.bytes += text.len();
        state.waiting.push_back(text);
        self.filled.notify_one();
    }

    /// Adds a text when there is room for it.
    ///
    /// # Errors
    /// When what was added before could not be written.
    ///
    /// # Cancel safety
    /// A text whose future is dropped is not written.
    pub(super) async fn add(&self, text: Vec<u8>) -> io::Result<()> {
        let mut text = Some(text);
        self.until(|state| {
            if state.bytes < ROOM
                && let Some(text) = text.take()
            {
                self.push(state, text);
            }
            text.is_none()
        })
        .await
    }

    /// Adds a text, or drops it when there is no room. How many were is said before the next one.
    pub(super) fn offer(&self, text: &[u8]) {
        let mut state = self.lock();
        if state.bytes < ROOM {
            self.add_now(&mut state, text);
        } else {
            state.dropped += 1;
        }
    }

    /// Adds a text, whether or not there is room.
    pub(super) fn insist(&self, text: &[u8]) {
        self.add_now(&mut self.lock(), text);
    }

    fn add_now(&self, state: &mut State, text: &[u8]) {
        if state.failed.is_some() {
            return;
        }
        if let dropped @ 1.. = mem::take(&mut state.dropped) {
            let note = format!("warning: nobody read standard error: {dropped} lines are left out here\n");
            self.push(state, note.into_bytes());
        }
        self.push(state, text.to_vec());
    }

    /// Whether all is written, as far as it can be.
    pub(super) fn is_written(&self) -> bool {
        self.lock().bytes == 0
    }

    /// Resolves when all is written.
    ///
    /// # Errors
    /// When it could not be.
    pub(super) async fn written(&self) -> io::Result<()> {
        self.until(|state| state.bytes == 0).await
    }

    /// Resolves when something could not be written.
    pub(super) async fn failed(&self) -> io::Error {
        match self.until(|_| false).await {
            Err(error) => error,
            Ok(()) => unreachable!("nothing else is waited for"),
        }
    }

    async fn until(&self, mut done: impl FnMut(&mut State) -> bool) -> io::Result<()> {
        loop {
            let written = self.written.notified();
            {
                let mut state = self.lock();
                if let Some(kind) = state.failed {
                    return Err(kind.into());
                }
                if done(&mut state) {
                    return Ok(());
                }
            }
            written.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use tokio::time::timeout;

    use super::*;

    /// Takes a text for each permission.
    struct Slow {
        permissions: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permissions.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Arc<Queue>, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (permit, permissions) = mpsc::channel();
        let written = Arc::default();
        let slow = Slow {
            permissions,
            written: Arc::clone(&written),
        };
        (Queue::new(move || slow), permit, written)
    }

    #[tokio::test]
    async fn who_has_more_than_there_is_room_for_waits_and_can_leave() {
        let (queue, permit, written) = slow();
        queue.add(vec![b'a'; ROOM]).await.unwrap();
        let no_time = Duration::from_millis(20);
        assert!(timeout(no_time, queue.add(b"b".to_vec())).await.is_err());
        assert!(timeout(no_time, queue.written()).await.is_err());
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        queue.add(b"c".to_vec()).await.unwrap();
        queue.written().await.unwrap();
        let written = written.lock().unwrap();
        assert!(written.len() == ROOM + 1 && written.ends_with(b"ac"));
    }

    #[tokio::test]
    async fn what_is_offered_without_room_is_counted() {
        let (queue, permit, written) = slow();
        queue.offer(&vec![b'a'; ROOM]);
        queue.offer(b"lost\n");
        queue.offer(b"lost\n");
        queue.insist(b"kept\n");
        (0..4).for_each(|_| permit.send(()).unwrap());
        queue.written().await.unwrap();
        queue.offer(b"seen\n");
        queue.written().await.unwrap();
        let written = written.lock().unwrap();
        let text = String::from_utf8_lossy(&written[ROOM..]).into_owned();
        assert!(
            text.ends_with("2 lines are left out here\nkept\nseen\n") && !text.contains("lost"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn who_writes_to_nobody_is_told() {
        let (queue, permit, _) = slow();
        drop(permit);
        let _ = queue.add(b"a".to_vec()).await;
        let error = queue.written().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(queue.add(b"b".to_vec()).await.is_err());
    }
}
