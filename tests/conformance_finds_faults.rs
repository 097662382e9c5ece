//! A backend with a fault fails the case that is about it; each case of the suite can fail.

#![cfg(feature = "backend-port")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    ffi::OsString,
    io::{self, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command},
    sync::{Arc, Mutex, atomic::AtomicU32, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use snakepit::{
    backend_port::PortLauncher,
    core::{
        conformance::{Report, Suite, Verdict},
        launch::{ChannelForm, LaunchError, LaunchLimits, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
        process::{Containment, ContainmentLevel, EndReport, EndStep, ExitOutcome, ProcessIdentity},
    },
};

/// What a backend gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    AddsAVariable,
    KeepsAVariable,
    UsesAShell,
    ChangesDirectory,
    IgnoresDirectory,
    IgnoresASignal,
    HandsOnADescriptor,
    MixesItsOutput,
    PutsAWrapperBefore,
    AlwaysGivesAChannel,
    HandsItsChannelOutTwice,
    HoldsItsChannelOpen,
    ClaimsANamespace,
    ClaimsACgroup,
    ClaimsToKeepItself,
    RoundsExitCodes,
    ForgetsItsExit,
    CannotSignalTheDead,
    SignalsNobody,
    EndsOnlyTheLeader,
    HasNoPatience,
    EndsAnew,
    StopsEndingWithItsCaller,
    LeavesWhatIsDropped,
    LaunchesOnItsOwn,
    LooksForNoProgram,
    LooksInItsDirectory,
    DropsWhatCannotBe,
    ForgetsWhatWasRefused,
    LeavesAZombie,
    LooksForItsExit,
    TakesClosingForAnExit,
    CountsNothing,
    IgnoresLimits,
    NamesNoLimit,
    HasAGate,
    NeverOpensItsGate,
    OpensItsGateToEnd,
}

/// The port backend, with a fault.
#[derive(Clone, Copy, Debug)]
struct Faulty(Fault);

/// Puts shell lines before a program that ends in executing it.
fn before(spec: &mut LaunchSpec, lines: &str) {
    let program = std::mem::replace(&mut spec.program, "/bin/sh".into());
    let front: [OsString; 4] = ["-c".into(), lines.into(), "sh".into(), program.into()];
    spec.args.splice(0..0, front);
}

#[async_trait]
impl Launcher for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        let mut spec = spec.clone();
        let fault = self.0;
        let mut gate = None;
        match fault {
            Fault::AddsAVariable => spec.env.push(("NOBODY_ASKED".into(), "1".into())),
            Fault::KeepsAVariable => spec.env_remove.clear(),
            Fault::UsesAShell => {
                let words: Vec<_> = spec
                    .args
                    .iter()
                    .map(|arg| arg.to_string_lossy().into_owned())
                    .collect();
                let line = format!("exec {} {}", spec.program.display(), words.join(" "));
                (spec.program, spec.args) = ("/bin/sh".into(), vec!["-c".into(), line.into()]);
            }
            Fault::ChangesDirectory => spec.cwd = spec.cwd.or(Some("/".into())),
            Fault::IgnoresDirectory => spec.cwd = None,
            Fault::IgnoresASignal => before(&mut spec, "trap '' USR2; exec \"$@\""),
            Fault::HandsOnADescriptor => before(&mut spec, "exec 7</dev/null; exec \"$@\""),
            Fault::MixesItsOutput => before(&mut spec, "exec \"$@\" 2>&1"),
            Fault::PutsAWrapperBefore => before(&mut spec, "\"$@\"; exit $?"),
            Fault::LooksForNoProgram => before(&mut spec, "exec \"$@\""),
            Fault::LooksInItsDirectory => {
                spec.program = spec
                    .cwd
                    .iter()
                    .fold(spec.program, |program, cwd| cwd.join(program));
            }
            Fault::DropsWhatCannotBe => {
                let can_be = |text: &OsString| !text.is_empty() && !text.as_encoded_bytes().contains(&0);
                spec.args.retain(can_be);
                spec.env.retain(|(name, value)| {
                    can_be(name) && can_be(value) && !name.as_encoded_bytes().contains(&b'=')
                });
            }
            Fault::AlwaysGivesAChannel => spec.channel = ChannelForm::Inherited,
            Fault::IgnoresLimits => spec.limits = LaunchLimits::default(),
            Fault::HasAGate | Fault::NeverOpensItsGate | Fault::OpensItsGateToEnd => {
                let path =
                    std::env::temp_dir().join(format!("snakepit-gate-{}", snakepit::core::RunId::random()));
                let lines = format!(
                    "until [ -e {0} ]; do sleep 0.01; done; rm {0}; exec \"$@\"",
                    path.display()
                );
                before(&mut spec, &lines);
                gate = Some(path);
            }
            _ => {}
        }
        if fault == Fault::LaunchesOnItsOwn {
            let job = tokio::spawn(async move {
                PortLauncher::new()
                    .launch(&spec)
                    .await
                    .map(std::mem::ManuallyDrop::new)
            });
            let inner = job
                .await
                .map_err(io::Error::other)
                .map_err(|source| LaunchError::Os { step: "join", source })??;
            return Ok(std::mem::ManuallyDrop::into_inner(inner));
        }
        let mut inner = PortLauncher::new().launch(&spec).await;
        let mut refusal = None;
        if fault == Fault::ForgetsWhatWasRefused && inner.is_err() {
            spec.program = "true".into();
            let another = PortLauncher::new().launch(&spec).await;
            refusal = std::mem::replace(&mut inner, another).err();
        }
        let inner = inner.map_err(|error| match error {
            LaunchError::Unsupported { launcher, .. } if fault == Fault::NamesNoLimit => {
                LaunchError::Unsupported {
                    launcher,
                    setting: "a limit",
                }
            }
            other => other,
        })?;
        if fault == Fault::LeavesWhatIsDropped {
            std::mem::forget(Arc::clone(&inner));
        }
        Ok(Arc::new(FaultyProcess {
            inner,
            fault,
            gate,
            refusal: Mutex::new(refusal),
            zombie: (fault == Fault::LeavesAZombie).then(Zombie::new),
            channel: Mutex::new(None),
            calls: AtomicU32::new(0),
        }))
    }
}

#[derive(Debug)]
struct FaultyProcess {
    inner: Arc<dyn LaunchedProcess>,
    fault: Fault,
    gate: Option<PathBuf>,
    refusal: Mutex<Option<LaunchError>>,
    zombie: Option<Zombie>,
    channel: Mutex<Option<OwnedFd>>,
    calls: AtomicU32,
}

/// A process that has ended, and is reaped when this is dropped.
#[derive(Debug)]
struct Zombie {
    child: Child,
    identity: ProcessIdentity,
}

impl Zombie {
    fn new() -> Self {
        let child = Command::new("true").spawn().unwrap();
        let identity = ProcessIdentity::of_pid(child.id()).unwrap();
        Self { child, identity }
    }
}

impl Drop for Zombie {
    fn drop(&mut self) {
        self.child.wait().unwrap();
    }
}

impl FaultyProcess {
    /// Whether the worker has closed its end of the channel.
    fn is_closed(&self) -> bool {
        let kept = self.channel.lock().unwrap();
        let channel = kept
            .as_ref()
            .map(|kept| UnixStream::from(kept.try_clone().unwrap()));
        channel.is_some_and(|mut channel| {
            channel.set_nonblocking(true).unwrap();
            channel.read(&mut [0]).is_ok_and(|len| len == 0)
        })
    }

    fn go(&self) {
        if let Some(gate) = &self.gate {
            std::fs::write(gate, "").unwrap();
        }
    }
}

impl Drop for FaultyProcess {
    fn drop(&mut self) {
        if let Some(gate) = &self.gate {
            // Whoever went through it has removed it.
            let _ = std::fs::remove_file(gate);
        }
    }
}

#[async_trait]
impl LaunchedProcess for FaultyProcess {
    fn identity(&self) -> &ProcessIdentity {
        match &self.zombie {
            Some(zombie) => &zombie.identity,
            None => self.inner.identity(),
        }
    }

    fn containment(&self) -> Containment {
        match self.fault {
            Fault::ClaimsANamespace => Containment::new(ContainmentLevel::Namespace),
            Fault::ClaimsACgroup => Containment::new(ContainmentLevel::Cgroup),
            Fault::ClaimsToKeepItself => Containment::default().with_keeper(self.inner.identity().clone()),
            _ => self.inner.containment(),
        }
    }

    fn take_io(&self) -> ProcessIo {
        let mut io = self.inner.take_io();
        let mut kept = self.channel.lock().unwrap();
        match self.fault {
            Fault::HandsItsChannelOutTwice => match (&io.channel, kept.take()) {
                (Some(channel), _) => *kept = Some(channel.try_clone().unwrap().into()),
                (None, again) => io.channel = again.map(Into::into),
            },
            Fault::HoldsItsChannelOpen | Fault::TakesClosingForAnExit => {
                *kept = io
                    .channel
                    .as_ref()
                    .map(|channel| channel.try_clone().unwrap().into());
            }
            _ => {}
        }
        io
    }

    async fn open_gate(&self) -> Result<(), LaunchError> {
        if self.fault != Fault::NeverOpensItsGate {
            self.go();
        }
        if let Some(refusal) = self.refusal.lock().unwrap().take() {
            return Err(refusal);
        }
        self.inner.open_gate().await
    }

    async fn exited(&self) -> ExitOutcome {
        while self.fault == Fault::LooksForItsExit && self.inner.try_exited().is_none() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        while self.fault == Fault::TakesClosingForAnExit && self.inner.try_exited().is_none() {
            if self.is_closed() {
                return ExitOutcome::Exited(0);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let outcome = self.inner.exited().await;
        let again = self.calls.fetch_add(1, Relaxed) > 0;
        match (self.fault, outcome) {
            (Fault::RoundsExitCodes, ExitOutcome::Exited(code)) => ExitOutcome::Exited(code.min(127)),
            (Fault::RoundsExitCodes, ExitOutcome::Signaled { signal, .. }) => {
                ExitOutcome::Exited(128 + signal)
            }
            (Fault::ForgetsItsExit, _) if again => ExitOutcome::Unknown,
            _ => outcome,
        }
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        self.inner.try_exited()
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        match self.fault {
            Fault::CannotSignalTheDead if self.inner.try_exited().is_some() => {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
            // Only where nobody has to be stopped or killed by it.
            Fault::SignalsNobody if signal == libc::SIGUSR1 => self.inner.signal(libc::SIGKILL),
            _ => self.inner.signal(signal),
        }
    }

    async fn end(&self, grace: Duration) -> EndReport {
        match self.fault {
            Fault::EndsOnlyTheLeader => {
                self.inner.signal(libc::SIGKILL).unwrap();
                EndReport {
                    outcome: self.inner.exited().await,
                    step: EndStep::Kill,
                    took: grace,
                    swept: 0,
                    remaining: Vec::new(),
                }
            }
            Fault::HasNoPatience => self.inner.end(Duration::ZERO).await,
            Fault::CountsNothing => EndReport {
                swept: 0,
                ..self.inner.end(grace).await
            },
            Fault::EndsAnew => {
                let mut report = self.inner.end(grace).await;
                report.swept += self.calls.fetch_add(1, Relaxed);
                report
            }
            Fault::StopsEndingWithItsCaller => {
                tokio::time::sleep(grace).await;
                self.inner.end(Duration::ZERO).await
            }
            Fault::OpensItsGateToEnd => {
                self.go();
                tokio::time::sleep(Duration::from_millis(300)).await;
                self.inner.end(grace).await
            }
            _ => self.inner.end(grace).await,
        }
    }
}

/// Each fault, and a part of the sentence of a case that it fails.
const FAULTS: [(Fault, &str); 44] = [
    (Fault::AddsAVariable, "its environment is exactly"),
    (Fault::KeepsAVariable, "its environment is exactly"),
    (Fault::UsesAShell, "its arguments are passed"),
    (Fault::ChangesDirectory, "the host's unless one is asked for"),
    (
        Fault::IgnoresDirectory,
        "its working directory is the one asked for",
    ),
    (Fault::IgnoresDirectory, "a missing directory"),
    (Fault::IgnoresASignal, "no signal is blocked"),
    (Fault::HandsOnADescriptor, "no descriptor above 2"),
    (Fault::MixesItsOutput, "standard output and error"),
    (Fault::PutsAWrapperBefore, "its identity is that of the program"),
    (
        Fault::AlwaysGivesAChannel,
        "with another form there is no channel",
    ),
    (Fault::HandsItsChannelOutTwice, "handed out once"),
    (Fault::HoldsItsChannelOpen, "a channel that the host drops"),
    (Fault::ClaimsANamespace, "`containment`"),
    (Fault::ClaimsACgroup, "`containment`"),
    (Fault::ClaimsToKeepItself, "`containment`"),
    (Fault::RoundsExitCodes, "every exit code"),
    (Fault::RoundsExitCodes, "every signal that ends it"),
    (Fault::ForgetsItsExit, "waits agree"),
    (Fault::CannotSignalTheDead, "has ended is no error"),
    (Fault::SignalsNobody, "a signal reaches the process"),
    (Fault::LooksForItsExit, "an exit is told at once"),
    (Fault::HasNoPatience, "while a child of it lives on"),
    (Fault::LeavesAZombie, "is reaped"),
    (Fault::TakesClosingForAnExit, "closing all its descriptors"),
    (Fault::EndsOnlyTheLeader, "a group that obeys"),
    (Fault::EndsOnlyTheLeader, "fifty daemons"),
    (Fault::EndsOnlyTheLeader, "a chain of forks"),
    (Fault::CountsNothing, "in a session of its own is ended"),
    (Fault::CountsNothing, "an orphaned daemon"),
    (Fault::CountsNothing, "fifty daemons"),
    (Fault::HasNoPatience, "the grace is the worker's"),
    (Fault::HasNoPatience, "fifty launched at once"),
    (Fault::EndsAnew, "ends agree"),
    (Fault::StopsEndingWithItsCaller, "an end goes on"),
    (Fault::LeavesWhatIsDropped, "dropping the last handle"),
    (Fault::LaunchesOnItsOwn, "any number of polls"),
    (Fault::LooksForNoProgram, "a missing program"),
    (Fault::LooksForNoProgram, "not executable"),
    (Fault::LooksInItsDirectory, "a name with a slash"),
    (Fault::ForgetsWhatWasRefused, "a missing program"),
    (Fault::DropsWhatCannotBe, "an argument that cannot be"),
    (Fault::DropsWhatCannotBe, "a variable that cannot be"),
    (Fault::NeverOpensItsGate, "at a gate"),
];

async fn run(fault: Fault, text: &str) -> Report {
    let report = Suite::new(Arc::new(Faulty(fault))).matching(text).run().await;
    assert!(!report.outcomes.is_empty(), "no case is about `{text}`");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_found_by_the_case_that_is_about_it() {
    // Together: those that are found by waiting wait at the same time.
    let running: Vec<_> = FAULTS
        .map(|(fault, text)| (fault, text, tokio::spawn(run(fault, text))))
        .into();
    for (fault, text, report) in running {
        let report = report.await.unwrap();
        let failed = report.failures().count();
        assert!(failed > 0, "{fault:?} is not found by `{text}`:\n{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_nothing_is_found() {
    for (_, text) in FAULTS {
        let report = run(Fault::None, text).await;
        assert!(report.is_conformant(), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_is_accepted_and_not_applied_is_a_failure() {
    for fault in [Fault::IgnoresLimits, Fault::NamesNoLimit] {
        for name in [
            "nice",
            "rlimits",
            "oom_score_adj",
            "memory_bytes",
            "pids",
            "cpu_cores",
        ] {
            let report = run(fault, &format!("honours: {name}")).await;
            assert_eq!(report.failures().count(), 1, "{fault:?}: {report}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_is_measured_and_must_not_leak() {
    let verdict = async |fault| run(fault, "at a gate").await.outcomes.remove(0).verdict;
    assert!(matches!(verdict(Fault::None).await, Verdict::NotPromised(_)));
    let kept = verdict(Fault::HasAGate).await;
    assert!(matches!(kept, Verdict::Passed(_)), "{kept:?}");
    let leaks = verdict(Fault::OpensItsGateToEnd).await;
    assert!(matches!(leaks, Verdict::Failed(_)), "{leaks:?}");
}
