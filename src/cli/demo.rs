//! `snakepit demo`: what a pool does, shown on a real question.

mod crash;
mod material;
mod screen;
mod steps;
mod survivors;

use std::process::ExitCode;

use tokio::time::Instant;

use super::{
    args::DemoArgs,
    failure::Failure,
    logging::{self, Show},
    output::{self, Style},
    session,
};
use material::Material;
use screen::Screen;

/// Shows everything, one step after the other.
pub(crate) fn run(args: &DemoArgs, verbose: u8) -> Result<ExitCode, Failure> {
    // A worker is killed on purpose: what would be a warning elsewhere is told by the tour itself.
    logging::start(Show::Errors, verbose);
    let builder = args.backend.apply(session::builder("demo"))?;
    let screen = Screen::new(Style::of_stdout());
    screen.title(args.workers)?;
    let python = args.python.environment()?;
    let about = format!(
        "Python {}, {} backend",
        python.interpreter().version(),
        builder.backend_name().unwrap_or_default()
    );
    let material = Material::lay()?;
    let builder = builder
        .workers(args.workers)
        .adapter("nile")
        .path(material.dir())
        .python(python);

    let runtime = session::full_runtime()?;
    let began = Instant::now();
    let before = runtime.block_on(session::with_pool(builder, async |pool| {
        let started = began.elapsed();
        let tour = steps::Tour::new(pool, &screen);
        tour.start(started, &about).await?;
        tour.call().await?;
        tour.stream().await?;
        tour.compute().await?;
        tour.numpy().await?;
        tour.crash().await?;
        tour.tree().await?;
        Ok((survivors::count(), Instant::now()))
    }))?;
    let (before, ending) = before;
    let left = survivors::wait_for_none();
    screen.step(
        "End",
        "calls are finished, workers ended, and every process that carries this run's id is looked for",
    )?;
    screen.figure(
        format_args!("{before} processes before, {left} after"),
        Some(ending.elapsed()),
    )?;
    if left > 0 {
        return Err(Failure::Failed(format!("{left} processes of this run are left")));
    }
    output::line("")?;
    screen.closing()?;
    Ok(ExitCode::SUCCESS)
}
