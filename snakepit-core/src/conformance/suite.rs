//! Running the cases.

use std::{process::ExitCode, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    contract,
    deaths::{self, Death, WORKER},
    evidence::Evidence,
    ground::Ground,
    host::{Candidate, become_host, is_host},
    limits,
    marks::FAMILY,
    promises,
    report::{Case, CaseKind, Outcome, Report, Verdict},
};
use crate::launch::Launcher;

/// A case that takes longer hangs.
const CASE_BOUND: Duration = Duration::from_secs(120);

/// One run of the cases on one launcher.
///
/// ```
/// use std::sync::Arc;
/// use snakepit_core::{conformance::{CaseKind, Suite}, launch::Launcher};
///
/// async fn check(launcher: Arc<dyn Launcher>) {
///     let report = Suite::new(launcher).only(CaseKind::Contract).run().await;
///     assert!(report.is_conformant(), "{report}");
/// }
/// ```
///
/// Some cases count the descriptors of this process, so nothing else should open any meanwhile.
#[derive(Debug)]
pub struct Suite {
    name: String,
    launcher: Arc<dyn Launcher>,
    has_hosts: bool,
    kind: Option<CaseKind>,
    text: String,
}

impl Suite {
    /// All cases that need no host of their own; what takes one is skipped, and says so.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        Self {
            name: launcher.name().to_owned(),
            launcher,
            has_hosts: false,
            kind: None,
            text: String::new(),
        }
    }

    /// All cases. This program must have called [`become_host`] with this candidate at its start.
    ///
    /// # Errors
    /// That of the candidate, whose launcher cannot be made here; or that this is a host, and has not become one.
    pub async fn of(candidate: &Candidate) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        if is_host() {
            // It would start hosts of its own, and those theirs.
            return Err("a host has to call `become_host` before anything else".into());
        }
        Ok(Self {
            name: candidate.name().to_owned(),
            has_hosts: true,
            ..Self::new(candidate.launcher().await?)
        })
    }

    /// Only cases of this kind.
    #[must_use]
    pub fn only(self, kind: CaseKind) -> Self {
        let kind = Some(kind);
        Self { kind, ..self }
    }

    /// Only cases whose sentence has this text.
    #[must_use]
    pub fn matching(self, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { text, ..self }
    }

    fn wants(&self, case: &Case) -> bool {
        self.kind.is_none_or(|kind| kind == case.kind) && case.to_string().contains(&self.text)
    }

    /// Runs them, one after the other but for those with hosts of their own.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time enabled.
    pub async fn run(self) -> Report {
        let mut outcomes = Vec::new();
        for rule in contract::rules() {
            let case = Case {
                kind: CaseKind::Contract,
                when: rule.when,
                what: rule.what,
            };
            let run = |ground| {
                let running = (rule.run)(ground);
                async { running.await.map(|()| Verdict::Passed(String::new())) }
            };
            self.run_one(case, run, &mut outcomes).await;
        }
        let promise = |when, what| Case {
            kind: CaseKind::Promise,
            when,
            what,
        };
        let gate = promise("the launcher can", "hold any program at a gate");
        self.run_one(gate, promises::gate, &mut outcomes).await;
        for name in limits::NAMES {
            let honours = promise("the launcher honours", name);
            self.run_one(honours, |ground| limits::measure(ground, name), &mut outcomes)
                .await;
        }
        self.run_deaths(&mut outcomes).await;
        Report {
            name: self.name,
            outcomes,
        }
    }

    async fn run_one<F>(&self, case: Case, run: impl FnOnce(Arc<Ground>) -> F, outcomes: &mut Vec<Outcome>)
    where
        F: Future<Output = Result<Verdict, Evidence>> + Send + 'static,
    {
        if !self.wants(&case) {
            return;
        }
        let began = Instant::now();
        let verdict = match Ground::new(Arc::clone(&self.launcher)) {
            Ok(ground) => {
                let ground = Arc::new(ground);
                let verdict = judged(run(Arc::clone(&ground))).await;
                // Kills what is left, and blocks for that.
                let cleared = tokio::task::spawn_blocking(move || drop(ground)).await;
                cleared.map_or_else(
                    |error| Verdict::Failed(format!("cannot clear away: {error}")),
                    |()| verdict,
                )
            }
            Err(error) => Verdict::Failed(format!("cannot make the fixtures: {error}")),
        };
        let took = began.elapsed();
        outcomes.push(Outcome { case, verdict, took });
    }

    /// The deaths, at the same time: most of the time of each is waiting for what may stay.
    async fn run_deaths(&self, outcomes: &mut Vec<Outcome>) {
        let members = || [WORKER].into_iter().chain(FAMILY.map(|(_, who)| who));
        let case = |death: Death, what| Case {
            kind: CaseKind::Promise,
            when: death.name(),
            what,
        };
        let wanted = |death: &Death| members().any(|what| self.wants(&case(*death, what)));
        let deaths = Death::ALL.into_iter().filter(wanted);
        let running: Vec<_> = deaths
            .map(|death| {
                let (name, launcher) = (self.name.clone(), Arc::clone(&self.launcher));
                let has_hosts = self.has_hosts;
                let running = tokio::spawn(async move {
                    if !has_hosts {
                        let skipped = || Verdict::Skipped("takes a host that can be killed".into());
                        return Ok(members().map(|who| (who, skipped())).collect());
                    }
                    timeout(CASE_BOUND, deaths::die(&name, launcher, death)).await?
                });
                (death, Instant::now(), running)
            })
            .collect();
        for (death, began, running) in running {
            let verdicts = match running.await {
                Ok(Ok(verdicts)) => verdicts,
                Ok(Err(Evidence(text))) => members()
                    .map(|who| (who, Verdict::Failed(text.clone())))
                    .collect(),
                Err(error) => members()
                    .map(|who| (who, Verdict::Failed(error.to_string())))
                    .collect(),
            };
            let took = began.elapsed();
            let verdicts = verdicts
                .into_iter()
                .map(|(what, verdict)| (case(death, what), verdict));
            let wanted = verdicts.filter(|(case, _)| self.wants(case));
            outcomes.extend(wanted.map(|(case, verdict)| Outcome { case, verdict, took }));
        }
    }
}

/// The verdict, whatever becomes of the case.
async fn judged(run: impl Future<Output = Result<Verdict, Evidence>> + Send + 'static) -> Verdict {
    // In a task of its own, so that a panic is evidence too.
    let mut running = tokio::spawn(run);
    match timeout(CASE_BOUND, &mut running).await {
        Ok(Ok(Ok(verdict))) => verdict,
        Ok(Ok(Err(Evidence(text)))) => Verdict::Failed(text),
        Ok(Err(error)) => Verdict::Failed(error.to_string()),
        Err(_) => {
            running.abort();
            Verdict::Failed(format!("it hangs: no verdict within {} s", CASE_BOUND.as_secs()))
        }
    }
}

/// Runs all cases for each candidate and prints the reports. An argument picks the cases whose sentence has it.
/// Success means that nothing has failed. A candidate that this machine does not let work is named, and skipped.
///
/// # Panics
/// In a host that the suite has started, when it is told to.
pub fn main(candidates: &[Candidate]) -> ExitCode {
    become_host(candidates);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        // Test runners ask for the names of tests; to them this is one that has none.
        return ExitCode::SUCCESS;
    }
    let text = arguments
        .into_iter()
        .find(|argument| !argument.starts_with('-'))
        .unwrap_or_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut is_conformant = true;
    for candidate in candidates {
        runtime.block_on(async {
            match Suite::of(candidate).await {
                Ok(suite) => {
                    let report = suite.matching(text.clone()).run().await;
                    println!("{report}");
                    is_conformant &= report.is_conformant();
                }
                Err(error) => {
                    println!(
                        "SKIPPED `{}`, which does not work here: {}\n",
                        candidate.name(),
                        Evidence::of(&*error)
                    );
                }
            }
        });
    }
    if is_conformant {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
