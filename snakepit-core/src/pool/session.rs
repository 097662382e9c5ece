//! Sessions: calls that belong together, and the worker they belong to.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio::task::{JoinHandle, JoinSet};

use super::{
    Pool, ReplaceCause,
    attempt::Attempt,
    dispatch::{Aim, At, Home, Turn},
    error::CallError,
    request::Request,
    status::Phase,
};
use crate::{
    id::{SessionId, SlotId, WorkerId},
    worker::Down,
};

/// How long the end hooks of a session may take on a worker where the pool sets no run timeout: as long as stop hooks.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What a call of a session does when the session's worker is busy or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionMode {
    /// It goes to the session's worker when that has room, else to any other, and waits only when all are busy.
    /// Each worker that such a session has been on may hold state of it, which does not move: for caches. When its worker is gone the
    /// session is bound to that of its next call.
    Hint,
    /// It waits for the session's worker, in the order of priority and arrival. Once that worker is gone the session is lost.
    StrictQueue,
    /// It is refused at once with [`CallError::SessionBusy`] when the session's worker is busy. Once that worker is gone the session
    /// is lost.
    StrictFail,
}

/// Calls that belong together. Made by [`Pool::session`].
///
/// Its first call binds it to the worker that takes it, one of those with the fewest calls; until then its calls wait as any other,
/// also in strict modes. What a later call does is told by its [`SessionMode`]. A worker that runs
/// [several calls at the same time](crate::worker::Worker::concurrency) runs those of a session side by side.
///
/// [`end`](Self::end) has the workers run their end hooks and forget what they keep for the session. Dropping it does so in the
/// background.
#[derive(Debug)]
#[must_use = "a session that is dropped is over"]
pub struct Session {
    pool: Pool,
    id: SessionId,
    mode: SessionMode,
    over: bool,
}

/// A strict session has lost its worker, and with it its state.
#[derive(Debug, thiserror::Error)]
#[error("{session} is lost: {worker}, which it was bound to, {by}")]
#[non_exhaustive]
pub struct SessionLost {
    /// The session.
    pub session: SessionId,
    /// The worker that it was bound to.
    pub worker: WorkerId,
    /// That worker's slot.
    pub slot: SlotId,
    /// Why the worker is gone.
    pub by: LostBy,
}

/// Why a session's worker serves no more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum LostBy {
    /// It ended.
    Down(Arc<Down>),
    /// It was replaced as planned.
    Replaced(ReplaceCause),
    /// The pool became smaller.
    ScaledIn,
}

impl fmt::Display for LostBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(down) => write!(f, "is down: {down}"),
            Self::Replaced(cause) => write!(f, "was replaced: {cause}"),
            Self::ScaledIn => f.write_str("was ended because the pool became smaller"),
        }
    }
}

impl Session {
    pub(super) fn new(pool: Pool, mode: SessionMode) -> Self {
        Self {
            pool,
            id: SessionId::next(),
            mode,
            over: false,
        }
    }

    /// Its id, which Python code sees as `snakepit.context.session.id`.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What its calls do when its worker is busy or gone.
    pub fn mode(&self) -> SessionMode {
        self.mode
    }

    /// The worker that it is bound to; `None` before its first call has one, and when that worker is gone.
    pub fn worker(&self) -> Option<WorkerId> {
        self.pool.shared.dispatch.home(self.id)
    }

    /// Calls a function as [`Pool::call`] does, in this session.
    ///
    /// # Errors
    /// See [`CallError`]. The call is executed at most once.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: one that waits is never executed, one that runs is interrupted.
    pub async fn call<A: Serialize, R: DeserializeOwned>(
        &self,
        function: &str,
        args: A,
    ) -> Result<R, CallError> {
        self.request(function).args(&args)?.send().await
    }

    /// Prepares a call as [`Pool::request`] does, in this session.
    pub fn request(&self, function: impl Into<Arc<str>>) -> Request<'_> {
        let at = At::Mode(self.mode);
        self.pool
            .request(function)
            .in_session(Aim { session: self.id, at })
    }

    /// Ends the session: each worker that it has been on runs its end hooks and forgets what it keeps for the session. Returns when
    /// they have.
    ///
    /// The hooks take their turn as calls do, after the calls of this session that are still under way: streams that are held
    /// on to, cancelled calls. On each worker they may take the pool's run timeout, 5 s where there is none; then they are
    /// cancelled as a call is.
    ///
    /// # Errors
    /// [`CallError::SessionLost`] for a strict session whose worker was gone before: if it left in order, the hooks were run
    /// then. Otherwise what kept the hooks from running to their end, as with a call; the session is over all the same. What a hook
    /// raises is not among it: that is in the log.
    ///
    /// # Cancel safety
    /// The session ends also when the future is dropped.
    pub async fn end(mut self) -> Result<(), CallError> {
        match self.begin_end().await {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Its runtime has been shut down, and the pool with it.
            Err(_) => Err(CallError::NotServing {
                pool: self.pool.name().into(),
                phase: Phase::Stopped,
            }),
        }
    }

    /// Goes on when nobody waits for it, and does not keep the pool alive.
    fn begin_end(&mut self) -> JoinHandle<Result<(), CallError>> {
        self.over = true;
        let shared = &self.pool.shared;
        let (dispatch, runtime) = (Arc::clone(&shared.dispatch), shared.runtime.clone());
        let (session, mode) = (self.id, self.mode);
        let lost = match mode {
            SessionMode::Hint => None,
            SessionMode::StrictQueue | SessionMode::StrictFail => dispatch.session_lost(session),
        };
        let told = dispatch
            .to_be_told(session)
            .into_iter()
            .map(|home| self.told(home));
        let told: Vec<_> = told.collect();
        let end = async move {
            dispatch.left_by_session(session).await;
            let mut ends = JoinSet::new();
            for (attempt, turn) in told {
                ends.spawn_on(async move { attempt?.run(turn).await }, &runtime);
            }
            let mut ended = lost.map_or(Ok(()), |lost| Err(CallError::SessionLost(lost)));
            while let Some(told) = ends.join_next().await {
                match told {
                    Ok(Ok(_)) => {}
                    // What a worker had that has left in between is gone with it, and the session goes by others.
                    Ok(Err(CallError::SessionLost(_))) if mode == SessionMode::Hint => {}
                    Ok(Err(error)) => ended = Err(error),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        Err(error) => tracing::debug!(%session, %error, "its end was cut off"),
                    },
                }
            }
            dispatch.forget_session(session);
            ended
        };
        shared.settling.spawn_on(end, &shared.runtime)
    }

    /// The end of the session as a call of one of its workers.
    fn told(&self, home: Home) -> (Result<Attempt, CallError>, Turn) {
        let limit = self.pool.settings().run_timeout.unwrap_or(END_LIMIT);
        let request = self.pool.request(format!("the end of {}", self.id));
        let request = request.no_deadline().queue_timeout(None).run_timeout(limit);
        let aim = Aim {
            session: self.id,
            at: At::End(home),
        };
        let turn = Turn {
            accepted: true,
            aim: Some(aim),
            ..Turn::default()
        };
        (Attempt::new(request.in_session(aim)), turn)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.over {
            // Nobody waits for it.
            drop(self.begin_end());
        }
    }
}
