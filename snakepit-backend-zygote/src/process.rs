//! A process that the template has forked.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use snakepit_core::{
    launch::{ChildProcess, LaunchError, LaunchedProcess, ProcessIo},
    process::{Containment, EndReport, ExitOutcome, ProcessIdentity},
};
use tokio::sync::Mutex as AsyncMutex;

use crate::{leaf::Leaf, nest::Nest, template::Template};

/// The gate of a process that is to execute a program.
#[derive(Debug)]
pub(crate) struct Gate {
    program: PathBuf,
    state: AsyncMutex<GateState>,
}

#[derive(Debug)]
enum GateState {
    Closed(UnixStream),
    Open,
    /// The program could not be executed: an errno.
    Useless(i32),
}

impl Gate {
    pub(crate) fn new(program: PathBuf, socket: UnixStream) -> Self {
        let state = AsyncMutex::new(GateState::Closed(socket));
        Self { program, state }
    }

    /// Returns when the program has been executed; the same each time.
    async fn open(&self) -> Result<(), LaunchError> {
        let mut state = self.state.lock().await;
        if let GateState::Closed(socket) = &*state {
            let os = |source| LaunchError::Os {
                step: "open the gate",
                source,
            };
            let socket = socket.try_clone().map_err(os)?;
            // execve(2) waits for the disk.
            let opened = tokio::task::spawn_blocking(move || open(socket)).await;
            *state = match opened.map_err(io::Error::from).flatten().map_err(os)? {
                None => GateState::Open,
                Some(errno) => GateState::Useless(errno),
            };
        }
        match *state {
            GateState::Useless(errno) => Err(LaunchError::Exec {
                program: self.program.clone(),
                source: io::Error::from_raw_os_error(errno),
            }),
            GateState::Open | GateState::Closed(_) => Ok(()),
        }
    }
}

/// Lets the process go on; the errno of execve(2), if that failed.
fn open(mut socket: UnixStream) -> io::Result<Option<i32>> {
    let mut answer = Vec::new();
    socket.write_all(&[1])?;
    match socket.read_to_end(&mut answer) {
        Ok(_) => {}
        // It was killed before it had read.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error),
    }
    Ok(answer.first_chunk().map(|errno| i32::from_ne_bytes(*errno)))
}

/// A process that the template has forked. It uses the template, which keeps that from being ended, until nothing is left
/// of its tree.
#[derive(Debug)]
pub(crate) struct ForkedProcess {
    held: Arc<Held>,
    containment: Containment,
    gate: Option<Gate>,
}

/// What keeps a process and all that it starts, besides what keeps its template.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) nest: Option<Nest>,
    pub(crate) leaf: Option<Arc<Leaf>>,
}

impl Kept {
    fn within(&self, template: Containment) -> Containment {
        let containment = match &self.leaf {
            Some(leaf) => leaf.within(template),
            None => template,
        };
        match &self.nest {
            Some(nest) => nest.within(containment),
            None => containment,
        }
    }
}

/// What an end takes, which goes on when nobody waits for it.
#[derive(Debug)]
struct Held {
    process: ChildProcess,
    kept: Kept,
    template: Mutex<Option<Arc<Template>>>,
}

impl Held {
    async fn end(&self, grace: Duration) -> EndReport {
        let report = self.process.end(grace).await;
        let report = match &self.kept.nest {
            Some(nest) => nest.end(report).await,
            None => report,
        };
        let report = match &self.kept.leaf {
            Some(leaf) => {
                let (leaf, reported) = (Arc::clone(leaf), report.clone());
                let ended = tokio::task::spawn_blocking(move || leaf.end(reported)).await;
                ended.unwrap_or(report)
            }
            None => report,
        };
        // What is left, if anything is, is found by its environment; the template is not needed for it.
        let template = self
            .template
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(template);
        report
    }
}

impl ForkedProcess {
    pub(crate) fn new(
        process: ChildProcess,
        kept: Kept,
        gate: Option<Gate>,
        template: Arc<Template>,
    ) -> Self {
        Self {
            containment: kept.within(template.containment()),
            held: Arc::new(Held {
                process,
                kept,
                template: Mutex::new(Some(template)),
            }),
            gate,
        }
    }
}

#[async_trait]
impl LaunchedProcess for ForkedProcess {
    fn identity(&self) -> &ProcessIdentity {
        self.held.process.identity()
    }

    fn containment(&self) -> Containment {
        self.containment.clone()
    }

    fn take_io(&self) -> ProcessIo {
        self.held.process.take_io()
    }

    /// A worker of our runtime has its gate in the preamble; another program is executed now.
    async fn open_gate(&self) -> Result<(), LaunchError> {
        match &self.gate {
            Some(gate) => gate.open().await,
            None => Ok(()),
        }
    }

    async fn exited(&self) -> ExitOutcome {
        self.held.process.exited().await
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        self.held.process.try_exited()
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.held.process.signal(signal)
    }

    async fn end(&self, grace: Duration) -> EndReport {
        let held = Arc::clone(&self.held);
        let ending = tokio::spawn(async move { held.end(grace).await });
        match ending.await {
            Ok(report) => report,
            // The runtime shuts down, which kills the process; this says what is known.
            Err(_) => self.held.process.end(grace).await,
        }
    }
}
