//! This project's pool: default settings, but for the time that a start may take.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use snakepit::{Backend, NdArray, Pool, SharedArray, Value};
use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Result,
    interpreter::Interpreter,
    kind::{Kind, Library},
    load::{Cell, Payload, closed_loop},
    peer::ANSWER,
    stats::Sample,
};

/// A pool whose workers have all answered.
#[derive(Debug)]
pub(crate) struct Ours {
    pool: Pool,
    workers: usize,
    answers: Answers,
    /// Seconds from nothing, or from where its template was there, until each worker had answered.
    pub(crate) seconds: f64,
}

/// What becomes of an array that is returned.
#[derive(Clone, Copy, Debug)]
enum Answers {
    /// It is copied into memory of the caller's own.
    Copied,
    /// It stays in the memory that the worker has put it into.
    InPlace,
}

/// The module whose functions are called.
const ADAPTER: &str = "echo_adapter";

/// A template that has imported what its workers import, as that of a pool has.
async fn template(python: &Interpreter, library: Library) -> Result<Arc<ZygoteLauncher>> {
    let command = python.environment.command(NonZeroUsize::MIN);
    let settings = ZygoteSettings::new(command.program, command.args)
        .with_env(command.env)
        .with_paths([&python.programs])
        .with_modules([ADAPTER].into_iter().chain(library.module()));
    let launcher = Arc::new(ZygoteLauncher::new(Backend::Port.launcher()?, settings));
    launcher.warm().await?;
    Ok(launcher)
}

/// Time for a fresh pool to become quiet before its worker is killed.
const QUIET: Duration = Duration::from_millis(50);

impl Ours {
    /// Starts a pool of `workers`; returns when each worker is ready and as many calls were answered.
    pub(crate) async fn start(
        python: &Interpreter,
        kind: Kind,
        backend: Backend,
        workers: usize,
        library: Library,
    ) -> Result<Self> {
        let warm = match kind {
            Kind::ZygoteWarm => Some(template(python, library).await?),
            _ => None,
        };
        let began = Instant::now();
        let builder = Pool::builder()
            .name("peers")
            .python(python.environment.clone())
            .workers(workers)
            .adapter(ADAPTER)
            .path(&python.programs)
            // A hundred imports of pandas at once take longer than a service should have to wait for one worker.
            .start_timeout(ANSWER)
            .start_deadline(ANSWER);
        let builder = match library.module() {
            Some(module) => builder.adapter(module),
            None => builder,
        };
        let builder = match warm {
            Some(launcher) => builder.launcher(launcher),
            None => builder.backend(backend),
        };
        let mut ours = Self {
            pool: builder.start().await?,
            workers,
            answers: match kind {
                Kind::InPlace => Answers::InPlace,
                _ => Answers::Copied,
            },
            seconds: 0.0,
        };
        let mut calls = JoinSet::new();
        for _ in 0..workers {
            let pool = ours.pool.clone();
            calls.spawn(async move { echo(&pool, Value::Bytes(Bytes::from_static(b"x"))).await });
        }
        while let Some(done) = calls.join_next().await {
            done??;
        }
        ours.seconds = began.elapsed().as_secs_f64();
        Ok(ours)
    }

    /// The workers' process ids.
    pub(crate) async fn pids(&self) -> Result<Vec<u32>> {
        let tree = self.pool.tree().await;
        let pids: Vec<_> = tree
            .children()
            .iter()
            .filter_map(|slot| slot.status.pid)
            .collect();
        if pids.len() == self.workers {
            Ok(pids)
        } else {
            Err(format!("the pool has {} of {} workers", pids.len(), self.workers).into())
        }
    }

    /// Echoes through the pool, with the same serialisation that any caller has.
    pub(crate) async fn load(&self, cell: Cell) -> Result<Sample> {
        let value = value(cell.payload);
        let (pool, answers) = (self.pool.clone(), self.answers);
        closed_loop(cell, move |_| {
            let (pool, value) = (pool.clone(), value.clone());
            async move {
                match answers {
                    Answers::Copied => echo(&pool, value).await,
                    Answers::InPlace => echo_in_place(&pool, value).await,
                }
            }
        })
        .await
    }

    /// Kills the only worker. Returns the seconds until its replacement has answered.
    pub(crate) async fn recover(&self) -> Result<f64> {
        // As the host sees it: a worker in a PID namespace knows itself by another number.
        let [worker] = self.pids().await?[..] else {
            return Err("there is one worker".into());
        };
        let pid = i32::try_from(worker).ok().and_then(Pid::from_raw);
        let before: u32 = self.pool.call("os:getpid", ()).await?;
        sleep(QUIET).await;
        // The pool holds the worker's process unreaped while it is alive, so the pid is still its.
        let start = Instant::now();
        kill_process(pid.ok_or("a pid")?, Signal::KILL)?;
        // The first call may still be given to the dead worker; its caller asks again at once.
        let after: u32 = loop {
            match self.pool.call("os:getpid", ()).await {
                Ok(pid) => break pid,
                Err(error) if start.elapsed() > ANSWER => return Err(error.into()),
                Err(_) => {}
            }
        };
        let seconds = start.elapsed().as_secs_f64();
        if after == before && self.pids().await? == [worker] {
            return Err("the killed worker answered".into());
        }
        Ok(seconds)
    }

    /// Drains and ends the pool.
    pub(crate) async fn stop(self) -> Result<()> {
        self.pool.shutdown().await;
        Ok(())
    }
}

fn value(payload: Payload) -> Value {
    let data = Bytes::from(vec![b'x'; payload.bytes]);
    if !payload.array {
        return Value::Bytes(data);
    }
    Value::NdArray(NdArray {
        dtype: "<f8".to_owned(),
        shape: vec![payload.bytes as u64 / 8],
        data,
    })
}

async fn echo(pool: &Pool, value: Value) -> Result<()> {
    let sent = size(&value);
    let answer: Value = pool.call("echo", (value,)).await?;
    if sent.is_some() && size(&answer) == sent {
        Ok(())
    } else {
        Err("the pool answered something else".into())
    }
}

/// Echoes an array whose answer is left where it is, and looks at its ends.
async fn echo_in_place(pool: &Pool, value: Value) -> Result<()> {
    let sent = size(&value);
    let answer: SharedArray = pool.call("echo", (value,)).await?;
    let (mut first, mut last) = ([0; 8], [0; 8]);
    let read = answer.read(0, &mut first) && answer.read(answer.len_bytes() - last.len(), &mut last);
    if sent == Some((true, answer.len_bytes())) && read && [first, last] == [[b'x'; 8]; 2] {
        Ok(())
    } else {
        Err("the pool answered something else".into())
    }
}

/// The bytes of a value that is a payload.
fn size(value: &Value) -> Option<(bool, usize)> {
    match value {
        Value::Bytes(bytes) => Some((false, bytes.len())),
        Value::NdArray(array) => Some((true, array.data.len())),
        _ => None,
    }
}
