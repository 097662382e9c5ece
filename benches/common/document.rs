//! `docs/benchmarks.md`: the tables of each benchmark with all that is needed to judge and to repeat them.

use std::{fs, io, path::Path};

use super::{
    Result, block::Block, machine::Machine, options::Options, plot::Plot, record::Record, target::Target,
};

/// Prints a run, and writes what the options ask for.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn finish(
    (title, method): (&str, &str),
    machine: &Machine,
    options: &Options,
    record: &Record,
    targets: &[Target],
    blocks: impl IntoIterator<Item: Into<Block>>,
) -> Result<()> {
    let facts = facts(machine, options);
    let blocks: Vec<Block> = blocks.into_iter().map(Into::into).collect();
    let body: String = blocks.iter().map(Block::to_string).collect();
    print!("{facts}\n{body}");
    if let Some(path) = &options.json {
        let all = serde_json::json!({"machine": machine, "values": record, "targets": targets});
        fs::write(path, format!("{all:#}\n"))?;
    }
    if let Some(directory) = &options.to {
        let command = options.command();
        let text = format!("## {title}\n\nWritten by `{command}`; do not edit.\n\n{facts}\n{method}\n{body}");
        write_plots(&directory.join(Plot::DIRECTORY), &blocks)?;
        let path = directory.join("benchmarks.md");
        let document = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        fs::write(
            path,
            replace_section(&document, options.bench.name, text.trim_end()),
        )?;
    }
    Ok(())
}

fn write_plots(directory: &Path, blocks: &[Block]) -> Result<()> {
    for block in blocks {
        if let Block::Plot(plot) = block {
            fs::create_dir_all(directory)?;
            fs::write(directory.join(&plot.file), &plot.svg)?;
        }
    }
    Ok(())
}

/// The document with one benchmark's section, between its two marks, replaced or added at the end.
fn replace_section(document: &str, name: &str, text: &str) -> String {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let section = format!("{begin}{text}\n{end}");
    let old = document
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    match old {
        Some((before, after)) => format!("{before}{section}{after}"),
        None if document.is_empty() => format!("# Benchmarks\n\n{section}"),
        None => format!("{}\n\n{section}", document.trim_end()),
    }
}

/// The machine as a list.
fn facts(machine: &Machine, options: &Options) -> String {
    format!(
        "- Machine: {} ({} cores), {:.0} GiB, {}, Linux {}\n- Load average when the run began: {}\n\
         - Python: {}\n- Rust: {}, snakepit {}\n- Rounds: {}{}\n",
        machine.cpu,
        machine.cores,
        machine.memory_gib,
        machine.system,
        machine.kernel,
        machine.load,
        machine.python,
        machine.rust,
        machine.snakepit,
        options.rounds,
        if options.quick { ", a quick look" } else { "" },
    )
}
