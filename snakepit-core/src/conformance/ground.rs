//! Where a case plays: a launcher, and marked scripts for it to launch.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::{
    evidence::{Evidence, Finding, ensure},
    marks::{FAMILY, Marked, Marks, stays},
};
use crate::{
    RunId, WorkerId,
    launch::{ChannelForm, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher},
    process::{
        EndReport, Pidfd, Stat,
        sweep::{SweepQuery, SweepTarget, sweep},
    },
};

/// A grace that only a hang exceeds.
pub(super) const LONG: Duration = Duration::from_secs(60);
/// A grace that is meant to run out.
pub(super) const SHORT: Duration = Duration::from_millis(100);
/// How long what has to come may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Looking again and again, ever less often, until patience runs out.
#[derive(Debug)]
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now() + PATIENCE,
            pause: Duration::from_millis(1),
        }
    }

    /// Pauses; `false` when there is no patience left.
    pub(super) async fn is_left(&mut self) -> bool {
        sleep(self.pause).await;
        self.pause = (self.pause * 3 / 2).min(Duration::from_millis(100));
        Instant::now() < self.until
    }
}

/// Waits for a condition; `otherwise` says what it means if it does not come.
pub(super) async fn eventually(
    otherwise: &str,
    mut condition: impl FnMut() -> Result<bool, Evidence>,
) -> Finding {
    let mut patience = Patience::new();
    while !condition()? {
        ensure!(patience.is_left().await, "{otherwise}");
    }
    Ok(())
}

#[derive(Debug)]
pub(super) struct Ground {
    pub(super) launcher: Arc<dyn Launcher>,
    pub(super) marks: Marks,
}

impl Ground {
    pub(super) fn new(launcher: Arc<dyn Launcher>) -> io::Result<Self> {
        let marks = Marks::new()?;
        Ok(Self { launcher, marks })
    }

    /// A program with arguments, and nothing special about it.
    pub(super) fn plain(program: &str, args: &[&str]) -> LaunchSpec {
        LaunchSpec {
            run_id: RunId::current(),
            worker_id: WorkerId::next(),
            program: program.into(),
            args: args.iter().map(Into::into).collect(),
            env: Vec::new(),
            env_remove: Vec::new(),
            cwd: None,
            channel: ChannelForm::Inherited,
            limits: LaunchLimits::default(),
        }
    }

    /// Lines for a shell that is marked as the worker.
    pub(super) fn spec(&self, lines: &str) -> LaunchSpec {
        let mark = self.marks.path("worker").into_os_string();
        let mut spec = Self::plain("/bin/sh", &["-c", lines]);
        spec.args.push(mark);
        spec
    }

    /// Lines that say `ready` after `before`, and stay.
    pub(super) fn staying(&self, before: &str) -> String {
        format!("{before}\necho ready\n{}", self.marks.stay())
    }

    pub(super) async fn launch(&self, spec: &LaunchSpec) -> Result<Launched, Evidence> {
        Self::past_the_gate(self.launcher.launch(spec).await?).await
    }

    /// Opens its gate and takes what the host has of it.
    pub(super) async fn past_the_gate(process: Arc<dyn LaunchedProcess>) -> Result<Launched, Evidence> {
        process.open_gate().await?;
        let io = process.take_io();
        let pipe = |fd, name| {
            let fd: Option<std::os::fd::OwnedFd> = fd;
            let file = fd.map(|fd| BufReader::new(File::from(fd)));
            file.ok_or_else(|| Evidence(format!("there is no {name}")))
        };
        Ok(Launched {
            process,
            channel: io.channel,
            stdout: Some(pipe(io.stdout, "standard output")?),
            stderr: Some(pipe(io.stderr, "standard error")?),
        })
    }

    /// Launches lines that stay, and waits until they have said `ready` and do.
    pub(super) async fn launch_staying(&self, before: &str) -> Result<Launched, Evidence> {
        let mut launched = self.launch(&self.spec(&self.staying(before))).await?;
        launched.until_ready().await?;
        let pid = launched.process.identity().pid;
        // Some say `ready` and leave.
        let is_there = || Ok(Stat::read(pid).map_or(true, |stat| stat.state == b'Z' || stays(&stat)));
        eventually("a script that is ready does not come to where it stays", is_there).await?;
        Ok(launched)
    }

    /// A stubborn worker with its whole family.
    pub(super) async fn launch_family(&self) -> Result<(Launched, Vec<Marked>), Evidence> {
        let launched = self.launch(&self.worker_script()).await?;
        Ok((launched, self.family().await?))
    }

    /// The spec of that worker.
    pub(super) fn worker_script(&self) -> LaunchSpec {
        Self::plain("/bin/sh", &[&self.marks.path("worker").to_string_lossy()])
    }

    pub(super) async fn family(&self) -> Result<Vec<Marked>, Evidence> {
        let mut patience = Patience::new();
        loop {
            if let Some(family) = self.marks.whole_family()? {
                return Ok(family);
            }
            if !patience.is_left().await {
                let roles: Vec<_> = self.marks.living()?.into_iter().map(|found| found.role).collect();
                let wanted = FAMILY.map(|(role, _)| role);
                return Err(Evidence(format!(
                    "of the processes {wanted:?} there are {roles:?}"
                )));
            }
        }
    }

    /// The one living process with this mark, once there is one.
    pub(super) async fn one(&self, role: &str) -> Result<Pidfd, Evidence> {
        let mut patience = Patience::new();
        loop {
            let living = self.marks.living()?;
            let mut found: Vec<_> = living.into_iter().filter(|found| found.role == role).collect();
            if let (1, Some(one)) = (found.len(), found.pop()) {
                return Ok(one.pidfd);
            }
            ensure!(patience.is_left().await, "there never was one process `{role}`");
        }
    }

    /// That nothing is left now.
    pub(super) fn is_empty(&self, after: &str) -> Finding {
        self.has_only("", after)
    }

    /// That nothing is left soon.
    pub(super) async fn becomes_empty(&self, after: &str) -> Finding {
        self.becomes_only("", after).await
    }

    /// That nothing but this is left now, whether or not this is.
    pub(super) fn has_only(&self, role: &str, after: &str) -> Finding {
        let living = self.marks.living()?.into_iter().map(|found| found.role);
        let left: Vec<_> = living.filter(|living| living != role).collect();
        ensure!(left.is_empty(), "left after {after}: {left:?}");
        Ok(())
    }

    /// That nothing but this is left soon, whether or not this is.
    pub(super) async fn becomes_only(&self, role: &str, after: &str) -> Finding {
        let mut patience = Patience::new();
        while self.has_only(role, after).is_err() && patience.is_left().await {}
        self.has_only(role, after)
    }

    /// That soon nobody carries this worker's id, which also shows processes that have not come to their mark.
    pub(super) async fn leaves_no_worker(&self, spec: &LaunchSpec, after: &str) -> Finding {
        let target = SweepTarget::Worker {
            run_id: spec.run_id,
            worker_id: spec.worker_id,
        };
        let mut patience = Patience::new();
        loop {
            let found = sweep(SweepQuery::new(target)).await?;
            if found.members.is_empty() && found.fleeting == 0 {
                return Ok(());
            }
            ensure!(
                patience.is_left().await,
                "left after {after}: {:?}",
                found.members
            );
        }
    }
}

/// A process past its gate, and what the host has of it.
#[derive(Debug)]
pub(super) struct Launched {
    pub(super) process: Arc<dyn LaunchedProcess>,
    pub(super) channel: Option<UnixStream>,
    stdout: Option<BufReader<File>>,
    stderr: Option<BufReader<File>>,
}

impl Launched {
    pub(super) async fn until_ready(&mut self) -> Finding {
        let line = self.line().await?;
        ensure!(line == "ready", "the fixture said `{line}` instead of `ready`");
        Ok(())
    }

    /// The next line of its standard output.
    pub(super) async fn line(&mut self) -> Result<String, Evidence> {
        let mut stdout = self
            .stdout
            .take()
            .ok_or_else(|| Evidence("it was read to its end".into()))?;
        let reading = move || {
            let mut line = String::new();
            stdout.read_line(&mut line).map(|_| (line, stdout))
        };
        let (line, stdout) = blocking(reading).await?;
        self.stdout = Some(stdout);
        Ok(line.trim_end_matches('\n').to_owned())
    }

    /// All that is left of its standard output and error. They end when nobody holds them any more.
    pub(super) async fn output(&mut self) -> Result<(Vec<u8>, Vec<u8>), Evidence> {
        Ok((rest(self.stdout.take()).await?, rest(self.stderr.take()).await?))
    }

    pub(super) async fn end(&self, grace: Duration) -> Result<EndReport, Evidence> {
        let report = timeout(LONG, self.process.end(grace)).await?;
        ensure!(report.is_complete(), "the end is not complete: {report:?}");
        Ok(report)
    }

    /// Reads its output to the end, and ends it.
    pub(super) async fn finish(mut self) -> Result<String, Evidence> {
        let (output, errors) = self.output().await?;
        self.end(LONG).await?;
        ensure!(
            errors.is_empty(),
            "on standard error: {}",
            String::from_utf8_lossy(&errors)
        );
        Ok(String::from_utf8_lossy(&output).into_owned())
    }
}

async fn rest(stream: Option<BufReader<File>>) -> Result<Vec<u8>, Evidence> {
    let Some(mut stream) = stream else {
        return Ok(Vec::new());
    };
    let reading = move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    };
    blocking(reading).await
}

/// Runs what blocks. When it takes too long it goes on until the case's processes are killed.
pub(super) async fn blocking<T: Send + 'static>(
    job: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Evidence> {
    Ok(timeout(PATIENCE, tokio::task::spawn_blocking(job)).await???)
}
