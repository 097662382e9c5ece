//! How many items a stream's consumer will still take.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

#[derive(Debug)]
struct State {
    left: u64,
    closed: bool,
}

/// Credit of one stream, granted on the connection and spent by the producer.
#[derive(Debug)]
pub(crate) struct Credit {
    state: Mutex<State>,
    granted: Notify,
    over: Notify,
}

impl Credit {
    pub(crate) fn new(first: u32) -> Self {
        Self {
            state: Mutex::new(State {
                left: u64::from(first),
                closed: false,
            }),
            granted: Notify::new(),
            over: Notify::new(),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The consumer takes more.
    pub(crate) fn grant(&self, more: u32) {
        self.with(|state| state.left = state.left.saturating_add(u64::from(more)));
        self.granted.notify_one();
    }

    /// The consumer will grant nothing further.
    pub(crate) fn close(&self) {
        self.with(|state| state.closed = true);
        self.granted.notify_one();
    }

    /// Spends one, if there is one: false when there is none and there will be none.
    pub(crate) fn try_spend(&self) -> Option<bool> {
        self.with(|state| match state.left {
            0 if state.closed => Some(false),
            0 => None,
            _ => {
                state.left -= 1;
                Some(true)
            }
        })
    }

    /// Spends one; waits for it if need be. False when there is none and there will be none.
    pub(crate) async fn spend(&self) -> bool {
        loop {
            match self.try_spend() {
                Some(spent) => return spent,
                None => self.granted.notified().await,
            }
        }
    }

    /// Waits until [`Self::try_spend`] has an answer.
    pub(crate) async fn known(&self) {
        while self.with(|state| state.left == 0 && !state.closed) {
            self.granted.notified().await;
        }
    }

    /// The stream has ended: nobody needs to listen for grants any more.
    pub(crate) fn end(&self) {
        self.over.notify_one();
    }

    /// Waits for [`Self::end`]; for the one task that listens.
    pub(crate) async fn ended(&self) {
        self.over.notified().await;
    }
}
