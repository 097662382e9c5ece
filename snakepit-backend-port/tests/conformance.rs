//! The contract of `launch`, and that each limit is refused by its name. The gate, and what
//! survives which death, is measured by `tests/conformance_table` of the workspace.

use std::sync::Arc;

use snakepit_backend_port::PortLauncher;
use snakepit_core::conformance::{CaseKind, Suite};

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept() {
    for suite in [
        Suite::new(Arc::new(PortLauncher::new())).only(CaseKind::Contract),
        Suite::new(Arc::new(PortLauncher::new())).matching("the launcher honours"),
    ] {
        let report = suite.run().await;
        assert!(report.is_conformant() && !report.outcomes.is_empty(), "{report}");
    }
}
