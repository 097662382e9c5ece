//! `snakepit call`: one call of a Python function.

mod reload;

use std::process::ExitCode;

use snakepit::{CallError, Pool, RemoteErrorKind, Value, core::pool::Request};

use super::{
    args::CallArgs,
    failure::Failure,
    json::AsJson,
    logging::{self, Show},
    output, session,
};

/// Calls the function and prints what it answers.
pub(crate) fn run(args: &CallArgs, verbose: u8) -> Result<ExitCode, Failure> {
    logging::start(Show::Workers, verbose);
    check_function(args)?;
    let builder = args.pool.builder("call", &args.python)?;
    let runtime = session::small_runtime()?;
    if args.reload {
        let (builder, watched) = reload::prepare(args, builder)?;
        let work = async |pool: &Pool| reload::run(args, pool, watched).await;
        runtime.block_on(session::with_pool(builder, work))?;
    } else {
        runtime.block_on(session::with_pool(builder, async |pool| make(args, pool).await))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes the call once and prints what it answers.
async fn make(args: &CallArgs, pool: &Pool) -> Result<(), Failure> {
    if args.stream {
        return stream(args, pool).await;
    }
    let value: Value = request(args, pool)?.send().await.map_err(failure)?;
    print(&value)
}

async fn stream(args: &CallArgs, pool: &Pool) -> Result<(), Failure> {
    let mut items = request(args, pool)?.stream::<Value>().await.map_err(failure)?;
    while let Some(item) = items.next().await {
        // Leaving early, as when nobody reads any more, drops the stream: the producer is stopped.
        print(&item.map_err(failure)?)?;
    }
    Ok(())
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

fn print(value: &Value) -> Result<(), Failure> {
    let text = serde_json::to_string(&AsJson(value)).map_err(|error| Failure::Failed(error.to_string()))?;
    output::line(text)
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
