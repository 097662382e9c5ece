//! `snakepit call`: one call of a Python function.

mod input;
mod reload;

use std::process::ExitCode;

use snakepit::{CallError, Items, Pool, RemoteErrorKind, Request, Value};
use tokio::time::{Instant, timeout_at};

use super::{
    args::CallArgs,
    failure::Failure,
    json::AsJson,
    logging::{self, Show},
    output, session,
};

pub(crate) use input::Source;
use input::{Complaint, Lines};

/// Calls the function and prints what it answers.
pub(crate) fn run(args: &CallArgs, verbose: u8) -> Result<ExitCode, Failure> {
    logging::start(Show::Workers, verbose);
    check_function(args)?;
    let input = match &args.input {
        Some(source) => Some((source, source.open()?)),
        None => None,
    };
    let builder = args.pool.builder("call", &args.python)?;
    let runtime = session::small_runtime()?;
    if args.reload {
        let (builder, watched) = reload::prepare(args, builder)?;
        let work = async |pool: &Pool| reload::run(args, pool, watched).await;
        runtime.block_on(session::with_pool(builder, work))?;
    } else {
        let work = async move |pool: &Pool| match input {
            Some((source, lines)) => feed(args, pool, source, lines).await,
            None => make(args, pool).await,
        };
        runtime.block_on(session::with_pool(builder, work))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the call once and prints what it answers.
async fn make(args: &CallArgs, pool: &Pool) -> Result<(), Failure> {
    let request = request(args, pool)?;
    if args.stream {
        return print_all(args, request.stream().await, &Complaint::default()).await;
    }
    print(&request.send().await.map_err(failure)?).await
}

/// Makes the call with lines for input and prints what it answers.
async fn feed(args: &CallArgs, pool: &Pool, source: &Source, lines: Lines) -> Result<(), Failure> {
    let (items, complaint) = source.read(lines);
    let request = request(args, pool)?.try_input(items);
    if args.stream {
        return print_all(args, request.stream().await, &complaint).await;
    }
    print(&request.send().await.map_err(|error| blame(error, &complaint))?).await
}

async fn print_all(
    args: &CallArgs,
    items: Result<Items<Value>, CallError>,
    complaint: &Complaint,
) -> Result<(), Failure> {
    let mut items = items.map_err(|error| blame(error, complaint))?;
    let lines = output::Lines::of_stdout();
    let until = args
        .timeout
        .and_then(|timeout| Instant::now().checked_add(timeout));
    while let Some(item) = lines.while_read(items.next()).await? {
        // Leaving early, as when nobody reads any more, drops the stream: the producer is stopped.
        let text = text(&item.map_err(|error| blame(error, complaint))?)?;
        match until {
            None => lines.line(text).await?,
            Some(until) => match timeout_at(until, lines.line(text)).await {
                Ok(written) => written?,
                Err(_) => return Err(unread(args)),
            },
        }
    }
    lines.written().await
}

/// The deadline passed while standard output took nothing.
fn unread(args: &CallArgs) -> Failure {
    Failure::Failed(format!(
        "the deadline of {:?} for {} passed while nobody read what it yields",
        args.timeout.unwrap_or_default(),
        args.function
    ))
}

/// What made a call fail: a line that was no item, or the call itself.
fn blame(error: CallError, complaint: &Complaint) -> Failure {
    complaint.explains(&error).unwrap_or_else(|| failure(error))
}

fn request<'a>(args: &CallArgs, pool: &'a Pool) -> Result<Request<'a>, Failure> {
    let usage = |error: snakepit::core::rpc::CodecError| Failure::Usage(error.to_string());
    let mut request = pool.request(args.function.as_str());
    if !args.args.is_empty() {
        request = request.args(&args.args).map_err(usage)?;
    }
    if let Some(kwargs) = &args.kwargs {
        request = request.kwargs(kwargs).map_err(usage)?;
    }
    if let Some(timeout) = args.timeout {
        request = request.deadline(timeout);
    }
    Ok(request)
}

async fn print(value: &Value) -> Result<(), Failure> {
    let lines = output::Lines::of_stdout();
    lines.line(text(value)?).await?;
    lines.written().await
}

fn text(value: &Value) -> Result<String, Failure> {
    serde_json::to_string(&AsJson(value)).map_err(|error| Failure::Failed(error.to_string()))
}

/// A bare name can only be looked up in adapters.
fn check_function(args: &CallArgs) -> Result<(), Failure> {
    let complete = match args.function.split_once(':') {
        Some((module, name)) => !module.is_empty() && !name.is_empty(),
        None => !args.function.is_empty() && args.pool.may_have_adapters(),
    };
    if complete {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "`{}` names no function: write MODULE:FUNCTION, as in math:hypot (a bare name is looked up in the modules given \
         with --adapter or in a file with --config)",
        args.function
    )))
}

/// What Python raised is shown as Python shows it; everything else in a line of ours.
fn failure(error: CallError) -> Failure {
    let Some(remote) = error.remote() else {
        return Failure::Call(Box::new(error));
    };
    let traceback = remote.traceback();
    if !traceback.is_empty() {
        output::tell(traceback.trim_end());
    }
    if remote.kind == RemoteErrorKind::Raised && !traceback.is_empty() {
        Failure::Told
    } else {
        Failure::Call(Box::new(error))
    }
}
