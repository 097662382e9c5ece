//! Processes that are forked from a template keep the contract of a launcher. By itself, as some of its cases count what this
//! program has open. What survives which death is measured by `conformance_table`.

use std::{num::NonZeroUsize, sync::Arc};

use snakepit::{
    Backend, PythonEnv,
    core::{
        conformance::{CaseKind, Suite},
        launch::Launcher,
    },
};
use snakepit_backend_zygote::{TemplateError, ZygoteLauncher, ZygoteSettings};

#[tokio::test(flavor = "multi_thread")]
async fn the_contract_is_kept_whatever_starts_the_template() {
    let command = PythonEnv::builder().build().unwrap().command(NonZeroUsize::MIN);
    let settings = ZygoteSettings::new(command.program, command.args).with_env(command.env);
    for (backend, nested) in [
        (Backend::Port, false),
        (Backend::Port, true),
        (Backend::Exec, false),
        (Backend::Exec, true),
    ] {
        let settings = settings.clone().with_nested_namespaces(nested);
        let launcher = ZygoteLauncher::new(backend.launcher().unwrap(), settings);
        match launcher.warm().await {
            Err(error) if matches!(*error, TemplateError::Unnested(_)) => {
                eprintln!("SKIPPED: {error}");
                continue;
            }
            warm => warm.unwrap(),
        }
        let launcher: Arc<dyn Launcher> = Arc::new(launcher);
        for suite in [
            Suite::new(Arc::clone(&launcher)).only(CaseKind::Contract),
            Suite::new(Arc::clone(&launcher)).matching("the launcher honours"),
        ] {
            let report = suite.run().await;
            assert!(report.is_conformant() && !report.outcomes.is_empty(), "{report}");
        }
    }
}
