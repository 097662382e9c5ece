//! What the tests of forked workers share.

use std::{collections::BTreeSet, fs, num::NonZeroUsize};

use serde::Deserialize;
use snakepit::{
    Backend, CallError, Pool, PoolBuilder, PythonEnv, Value,
    core::process::{ExitOutcome, Stat},
};
use snakepit_backend_zygote::ZygoteSettings;

use crate::common::{builder, fixtures, until};

/// What starts a template.
pub(crate) const BACKENDS: [Backend; 2] = [Backend::ZygotePort, Backend::ZygoteExec];

pub(crate) fn forks(backend: Backend) -> PoolBuilder {
    builder().backend(backend).adapter("forked")
}

#[derive(Debug, Deserialize)]
pub(crate) struct Place {
    pub(crate) imported_in: u32,
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) started: Vec<u32>,
    pub(crate) group: u32,
    pub(crate) cwd: String,
}

pub(crate) async fn place(pool: &Pool) -> Place {
    pool.call("where", ()).await.unwrap()
}

/// The templates that the pool's workers come from, by the host's numbers, whatever those of their namespace are. Workers
/// whose template is gone have another parent.
pub(crate) async fn templates(pool: &Pool) -> BTreeSet<u32> {
    let parents = pids(pool)
        .await
        .into_iter()
        .filter_map(|pid| Some(Stat::read(pid).ok()?.ppid));
    let is_template = |pid: &u32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.ends_with(b"--template\0")
    };
    parents.filter(is_template).collect()
}

pub(crate) async fn pids(pool: &Pool) -> BTreeSet<u32> {
    let workers = pool.status().await.workers;
    workers
        .iter()
        .filter_map(|worker| worker.child.status.pid)
        .collect()
}

/// The only template, once its workers are there.
pub(crate) async fn template(pool: &Pool) -> u32 {
    let mut found = BTreeSet::new();
    until("there is one template", async || {
        found = templates(pool).await;
        found.len() == 1
    })
    .await;
    found.pop_first().unwrap()
}

pub(crate) fn settings(modules: &[&str]) -> ZygoteSettings {
    let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
    ZygoteSettings::new(command.program, command.args)
        .with_env(command.env)
        .with_paths([fixtures()])
        .with_modules(modules.iter().copied())
}

/// How the worker ended that was called with this.
pub(crate) async fn outcome_of(pool: &Pool, function: &str, argument: i32) -> Option<ExitOutcome> {
    let error = pool.call::<_, Value>(function, (argument,)).await.unwrap_err();
    let CallError::WorkerLost(lost) = error else {
        panic!("{error:?}")
    };
    lost.down.outcome
}

pub(crate) fn killed() -> Option<ExitOutcome> {
    Some(ExitOutcome::Signaled {
        signal: libc::SIGKILL,
        core_dumped: false,
    })
}
