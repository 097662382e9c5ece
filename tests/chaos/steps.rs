//! A backend that tells each step of a start, and stays at one of them for good.
//!
//! It goes through the same seam as any backend, so that the product needs no fault points. The ledger's steps lie between:
//! a launcher is called when the row is reserved, and the gate is opened when it is complete.

use std::{future::pending, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use snakepit::core::{
    launch::{LaunchError, LaunchSpec, LaunchedProcess, Launcher, ProcessIo},
    process::{Containment, EndReport, ExitOutcome, ProcessIdentity},
};

use crate::orders::{Step, tell};

/// Where to stay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps(pub(crate) Option<Step>);

impl Steps {
    async fn reach(self, step: Step) {
        tell(format_args!("step {step:?}"));
        if self.0 == Some(step) {
            pending().await
        }
    }

    /// This backend, step by step.
    pub(crate) fn of(self, inner: Arc<dyn Launcher>) -> Arc<dyn Launcher> {
        Arc::new(StepLauncher { inner, steps: self })
    }
}

#[derive(Debug)]
struct StepLauncher {
    inner: Arc<dyn Launcher>,
    steps: Steps,
}

#[async_trait]
impl Launcher for StepLauncher {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn holds(&self) -> bool {
        self.inner.holds()
    }

    fn renewed(&self) -> Option<Arc<dyn Launcher>> {
        Some(self.steps.of(self.inner.renewed()?))
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    async fn launch(&self, spec: &LaunchSpec) -> Result<Arc<dyn LaunchedProcess>, LaunchError> {
        let steps = self.steps;
        steps.reach(Step::Launch).await;
        let inner = self.inner.launch(spec).await?;
        steps.reach(Step::Launched).await;
        Ok(Arc::new(StepProcess { inner, steps }))
    }
}

#[derive(Debug)]
struct StepProcess {
    inner: Arc<dyn LaunchedProcess>,
    steps: Steps,
}

#[async_trait]
impl LaunchedProcess for StepProcess {
    fn identity(&self) -> &ProcessIdentity {
        self.inner.identity()
    }

    fn containment(&self) -> Containment {
        self.inner.containment()
    }

    fn take_io(&self) -> ProcessIo {
        self.inner.take_io()
    }

    async fn open_gate(&self) -> Result<(), LaunchError> {
        self.steps.reach(Step::Activated).await;
        self.inner.open_gate().await?;
        self.steps.reach(Step::GateOpen).await;
        Ok(())
    }

    async fn exited(&self) -> ExitOutcome {
        self.inner.exited().await
    }

    fn try_exited(&self) -> Option<ExitOutcome> {
        self.inner.try_exited()
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        self.inner.signal(signal)
    }

    async fn end(&self, grace: Duration) -> EndReport {
        self.inner.end(grace).await
    }
}
