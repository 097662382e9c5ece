//! From settings to a template that is ready.

use std::{
    io::{self, Write as _},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use snakepit_core::{
    RunId, WorkerId,
    launch::{
        ChannelForm, LaunchError, LaunchSpec, LaunchedProcess, Launcher, NUMERIC_THREADS, StderrTail, drain,
        env,
    },
    ledger::{Ledger, Row},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{Desk, Template, link::Link, resident};
use crate::{
    ZygoteSettings,
    error::TemplateError,
    wire::{self, Reply},
};

/// How long to wait for a template's last words once its start has failed.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What a template is made with.
#[derive(Clone, Debug)]
pub(crate) struct Means {
    pub(crate) settings: Arc<ZygoteSettings>,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) ledger: Option<Arc<dyn Ledger>>,
}

/// Starts a template, or leaves nothing behind.
pub(crate) async fn start(means: &Means) -> Result<Template, TemplateError> {
    if let Some(text) = means.settings.unspeakable() {
        return Err(TemplateError::Unspeakable(text));
    }
    let began = Instant::now();
    let id = WorkerId::next();
    if let Some(ledger) = &means.ledger {
        ledger
            .reserve(means.row(id))
            .await
            .map_err(TemplateError::Ledger)?;
    }
    let process = match means.launcher.launch(&means.spec(id)).await {
        Ok(process) => process,
        Err(error) => {
            release(means, id).await;
            return Err(TemplateError::Launch(error));
        }
    };
    let mut stderr = None;
    let limit = means.settings.start_deadline;
    let warm = match timeout(limit, warm_up(means, id, &process, &mut stderr)).await {
        Ok(warm) => warm,
        Err(_) => Err(TemplateError::Deadline {
            limit,
            stderr_tail: String::new(),
        }),
    };
    match warm {
        Ok((link, lifeline)) => {
            tracing::info!(
                pid = process.identity().pid,
                modules = means.settings.modules.len(),
                took = ?began.elapsed(),
                "the template is ready"
            );
            Ok(look_after(means, id, process, link, lifeline))
        }
        Err(mut error) => {
            end(means, id, &*process).await;
            if let TemplateError::Exited { stderr_tail, .. } | TemplateError::Deadline { stderr_tail, .. } =
                &mut error
            {
                *stderr_tail = last_words(stderr).await;
            }
            Err(error)
        }
    }
}

async fn last_words(stderr: Option<StderrTail>) -> String {
    let Some(stderr) = stderr else {
        return String::new();
    };
    // The bound only costs text of the error.
    let _ = timeout(LAST_WORDS, stderr.drained()).await;
    stderr.text().trim_end().to_owned()
}

/// Records it, tells it what to import, and waits until it has.
async fn warm_up(
    means: &Means,
    id: WorkerId,
    process: &Arc<dyn LaunchedProcess>,
    stderr: &mut Option<StderrTail>,
) -> Result<(Link, UnixStream), TemplateError> {
    let io = process.take_io();
    let pid = process.identity().pid;
    let output = drain(id, pid, io.stdout, io.stderr).map_err(|source| LaunchError::Os {
        step: "read the template's output",
        source,
    });
    *stderr = Some(output.map_err(TemplateError::Launch)?);
    if let Some(ledger) = &means.ledger {
        let containment = process.containment();
        let activated = ledger.activate(id, process.identity(), &containment);
        activated.await.map_err(TemplateError::Ledger)?;
    }
    process.open_gate().await.map_err(TemplateError::Launch)?;
    let begun = match io.channel {
        Some(lifeline) => begin(&means.settings, lifeline).await,
        None => Err(io::ErrorKind::NotConnected.into()),
    };
    let (mut link, lifeline) = begun.map_err(TemplateError::Socket)?;
    let reply = tokio::select! {
        biased;
        reply = link.next() => reply.map_err(TemplateError::Socket)?,
        _ = process.exited() => None,
    };
    match reply {
        Some(Reply::Ready) => Ok((link, lifeline)),
        Some(Reply::Unfit(why)) => Err(TemplateError::Import(why)),
        Some(Reply::Unnested(why)) => Err(TemplateError::Unnested(why)),
        Some(other) => {
            let error = io::Error::other(format!("an unexpected answer: {other:?}"));
            Err(TemplateError::Socket(error))
        }
        None => Err(TemplateError::Exited {
            outcome: process.exited().await,
            stderr_tail: String::new(),
        }),
    }
}

/// Opens the template's gate: tells it what to import.
async fn begin(settings: &ZygoteSettings, lifeline: UnixStream) -> io::Result<(Link, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    // By which the first processes of namespaces know that we are gone, whoever has inherited our end of the socket.
    let host = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    let message = wire::begin(
        settings.nested,
        &settings.safe_threads,
        &settings.paths,
        &settings.modules,
    )?;
    // A fresh socket takes a message of this size whole; one with thousands of paths waits for its reader.
    let sent = tokio::task::spawn_blocking(move || {
        lifeline.set_nonblocking(false)?;
        let sent = wire::send(&lifeline, &message, &[theirs.as_fd(), host.as_fd()])?;
        (&lifeline).write_all(message.get(sent..).unwrap_or_default())?;
        io::Result::Ok(lifeline)
    });
    Ok((Link::new(ours)?, sent.await??))
}

/// Starts the task of a template that is ready.
fn look_after(
    means: &Means,
    id: WorkerId,
    process: Arc<dyn LaunchedProcess>,
    link: Link,
    lifeline: UnixStream,
) -> Template {
    let desk = Arc::<Desk>::default();
    let (requests, queue) = mpsc::unbounded_channel();
    let (users, mut used) = mpsc::channel(1);
    let (ended, end_seen) = watch::channel(false);
    let template = Template {
        baseline: resident(process.identity().pid),
        process: Arc::clone(&process),
        desk: Arc::clone(&desk),
        requests,
        next_id: AtomicU64::new(1),
        fork_deadline: means.settings.fork_deadline,
        _used: users,
        ended: end_seen,
    };
    let means = means.clone();
    tokio::spawn(async move {
        // The first processes of namespaces take its end for ours, so it stays open until nobody uses the template.
        let mut link = link;
        let serving = async {
            tokio::select! {
                () = link.serve(&desk, queue) => {}
                outcome = process.exited() => {
                    tracing::warn!(
                        pid = process.identity().pid,
                        %outcome,
                        "the template has ended; what it has forked goes on"
                    );
                    desk.refuse();
                    // First processes of namespaces have the socket as well, and tell how their workers end.
                    link.listen(&desk).await;
                }
            }
            desk.close();
            // Its end is that of whatever is left of its tree: not before the last process that it has forked.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = serving => {}
            _ = used.recv() => {}
        }
        drop(lifeline);
        end(&means, id, &*process).await;
        // An error means that nobody wants to know.
        let _ = ended.send(true);
    });
    template
}

/// Ends it, and takes it out of the books once nothing is left.
async fn end(means: &Means, id: WorkerId, process: &dyn LaunchedProcess) {
    if let Some(ledger) = &means.ledger
        && let Err(error) = ledger.ending(id).await
    {
        tracing::debug!(%error, "the ledger does not take the end of a template");
    }
    let report = process.end(Duration::ZERO).await;
    if report.is_complete() {
        release(means, id).await;
    } else {
        tracing::warn!(?report, "something of a template is left");
    }
}

async fn release(means: &Means, id: WorkerId) {
    if let Some(ledger) = &means.ledger
        && let Err(error) = ledger.release(id).await
    {
        tracing::warn!(%error, "the ledger keeps the row of a template that is gone");
    }
}

impl Means {
    fn spec(&self, id: WorkerId) -> LaunchSpec {
        let settings = &*self.settings;
        let mut args = settings.args.clone();
        args.push("--template".into());
        let mut variables = settings.env.clone();
        variables.extend(NUMERIC_THREADS.map(|name| (name.into(), "1".into())));
        // `NAME=` of a worker id is longer than this variable's by what both names differ in, and an id has up to 20 digits.
        let room = env::WORKER_ID.len() - env::ROOM.len() + 20;
        variables.push((env::ROOM.into(), "0".repeat(room).into()));
        LaunchSpec {
            run_id: RunId::current(),
            worker_id: id,
            program: settings.program.clone(),
            args,
            env: variables,
            env_remove: settings.env_remove.clone(),
            cwd: settings.cwd.clone(),
            channel: ChannelForm::Inherited,
            limits: settings.limits.clone(),
        }
    }

    fn row(&self, id: WorkerId) -> Row {
        Row::reserved(
            RunId::current(),
            id,
            self.settings.program.clone(),
            self.launcher.name(),
            ChannelForm::Inherited.to_string(),
        )
    }
}
