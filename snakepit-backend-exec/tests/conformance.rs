//! The contract of `launch`, and that each limit is honoured or refused by its name. The gate, and what
//! survives which death, is measured by `tests/conformance_table` of the workspace.

mod common;

use std::sync::Arc;

use snakepit_backend_exec::ExecLauncher;
use snakepit_core::conformance::{CaseKind, Suite};

at_every_level!();

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    // Beside the process that runs this one at every level it would be counted what that one opens.
    if !common::is_run_for_a_level() {
        return;
    }
    let launcher = Arc::new(ExecLauncher::new(common::settings()));
    for suite in [
        Suite::new(launcher.clone()).only(CaseKind::Contract),
        Suite::new(launcher.clone()).matching("the launcher honours"),
    ] {
        let report = suite.run().await;
        assert!(report.is_conformant() && !report.outcomes.is_empty(), "{report}");
    }
    launcher.shutdown(common::LONG).await;
}
