//! What survives what, measured, is what the table in `docs/guide/what-survives-what.md` says.
//!
//! `cargo test --test conformance_table -- --write` writes the table anew. Where a launcher does not work on this machine its
//! column is neither compared nor changed.

mod table;
mod worker;

use std::{num::NonZeroUsize, path::Path, process::ExitCode, sync::Arc};

use snakepit::{
    PythonEnv,
    backend_port::PortLauncher,
    core::{
        conformance::{Candidate, CaseKind, Report, Suite, become_host},
        launch::Launcher,
        process::ContainmentLevel,
    },
};
use snakepit_backend_exec::{ExecLauncher, ExecSettings};
use snakepit_backend_zygote::{ZygoteLauncher, ZygoteSettings};
use table::Table;

/// A column each.
fn candidates() -> Vec<Candidate> {
    let port = async || Ok(Arc::new(PortLauncher::new()) as Arc<dyn Launcher>);
    vec![
        Candidate::new("port, our Python runtime", port).with_hosted(worker::start),
        Candidate::new("port, any program", port),
        exec("exec, subreaper", ContainmentLevel::Subreaper, false),
        exec("exec, cgroup", ContainmentLevel::Cgroup, false),
        exec("exec, shared namespace", ContainmentLevel::Namespace, true),
        exec("exec, namespace", ContainmentLevel::Namespace, false),
        forked("zygote+port, our Python runtime", false, || {
            Arc::new(PortLauncher::new())
        }),
        forked("zygote+port, nested namespaces, our Python runtime", true, || {
            Arc::new(PortLauncher::new())
        }),
        forked("zygote+exec, namespace, our Python runtime", false, || {
            let settings = ExecSettings::default().with_containment(ContainmentLevel::Namespace);
            Arc::new(ExecLauncher::new(settings))
        }),
    ]
}

/// Workers forked from a template that this launcher starts.
fn forked(
    name: &str,
    nested: bool,
    below: impl Fn() -> Arc<dyn Launcher> + Send + Sync + 'static,
) -> Candidate {
    let candidate = Candidate::new(name, move || {
        let below = below();
        async move {
            let command = PythonEnv::builder().build()?.command(NonZeroUsize::MIN);
            let settings = ZygoteSettings::new(command.program, command.args)
                .with_env(command.env)
                .with_nested_namespaces(nested);
            let launcher = ZygoteLauncher::new(below, settings);
            launcher.warm().await?;
            Ok(Arc::new(launcher) as Arc<dyn Launcher>)
        }
    });
    candidate.with_hosted(worker::start)
}

fn exec(name: &str, level: ContainmentLevel, shared: bool) -> Candidate {
    let settings = ExecSettings::default()
        .with_containment(level)
        .with_shared_namespace(shared);
    Candidate::new(name, move || {
        let launcher = ExecLauncher::new(settings.clone());
        async move {
            launcher.ready().await?;
            Ok(Arc::new(launcher) as Arc<dyn Launcher>)
        }
    })
}

async fn measure(candidates: &[Candidate]) -> Vec<Report> {
    let mut reports = Vec::new();
    for candidate in candidates {
        match Suite::of(candidate).await {
            Ok(suite) => {
                let report = suite.only(CaseKind::Promise).run().await;
                println!("{report}");
                reports.push(report);
            }
            Err(error) => println!(
                "SKIPPED `{}`, which does not work here: {error}",
                candidate.name()
            ),
        }
    }
    reports
}

fn main() -> ExitCode {
    let candidates = candidates();
    become_host(&candidates);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // A name picks other tests; this one has none of its own.
    if arguments
        .iter()
        .any(|argument| argument == "--list" || !argument.starts_with('-'))
    {
        return ExitCode::SUCCESS;
    }
    match run(
        &candidates,
        arguments.iter().any(|argument| argument == "--write"),
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(candidates: &[Candidate], write: bool) -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/guide/what-survives-what.md");
    let page = std::fs::read_to_string(&path)?;
    let documented = Table::from_page(&page)?;
    let reports = tokio::runtime::Runtime::new()?.block_on(measure(candidates));
    let broken: Vec<String> = reports
        .iter()
        .flat_map(|report| {
            let failures = report.failures();
            failures.map(|(case, evidence)| format!("{}: {case}: {evidence}", report.name))
        })
        .collect();
    if !broken.is_empty() {
        return Err(broken.join("\n").into());
    }
    let columns = candidates
        .iter()
        .map(|candidate| candidate.name().to_owned())
        .collect();
    let measured = Table::measured(columns, &reports, &documented);
    if write {
        return Ok(std::fs::write(&path, measured.into_page(&page)?)?);
    }
    let differences = documented.differences(&measured);
    if differences.is_empty() {
        return Ok(());
    }
    let hint = "`cargo test --test conformance_table -- --write` writes the table anew";
    Err(format!(
        "{} is not what was measured:\n{}\n{hint}",
        path.display(),
        differences.join("\n")
    )
    .into())
}
