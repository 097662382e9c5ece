//! What the command takes.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use snakepit::{
    Backend, Concurrency, PoolBuilder, PythonEnv, Value,
    python_env::{PythonEnvBuilder, Step},
};

use super::{
    call::Source,
    config::{Chosen, ConfigArgs, ConfigCommand},
    failure::Failure,
    json,
    progress::Progress,
    session,
};

/// Python in supervised worker processes.
///
/// Results are printed on standard output, everything else on standard error. Exit code 0: all went well;
/// 1: the call or the operation failed; 2: wrong usage.
#[derive(Debug, Parser)]
#[command(name = "snakepit", version, max_term_width = 110)]
pub(crate) struct Cli {
    /// Tell every state change on standard error; twice for more. RUST_LOG chooses precisely.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Call(Box<CallArgs>),
    Demo(Box<DemoArgs>),
    Bench(Box<BenchArgs>),
    Config(ConfigCommand),
    Doctor(DoctorArgs),
    #[cfg(feature = "registry")]
    Cleanup(CleanupArgs),
}

/// Call a Python function and print its result as JSON.
///
/// The function belongs to any importable module, or to an adapter. What JSON has no word for is written as an
/// object: {"$bytes": "<base64>"}, {"$set": [...]}, {"$datetime": "2026-01-31T12:00:00"}, {"$float": "nan"}, ...
///
/// snakepit call math:hypot 3 4                                  prints 5.0
/// snakepit call json:dumps '{"a": [1, 2]}' --kwargs '{"indent": 2}'
/// snakepit call builtins:range 3 --stream                       one JSON value per line
///
/// What the function prints and logs appears on standard error. Ctrl-C cancels the call; pressed twice it ends the
/// worker at once.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CallArgs {
    /// The function, as in math:hypot or package.module:Class.method; a bare name is looked up in the adapters.
    #[arg(value_name = "MODULE:FUNCTION")]
    pub(crate) function: String,
    /// Positional arguments, each as JSON; strings in quotes: '"text"'.
    #[arg(value_name = "JSON_ARG", value_parser = json_value, allow_negative_numbers = true)]
    pub(crate) args: Vec<Value>,
    /// Keyword arguments as a JSON object: '{"indent": 2}'.
    #[arg(long, value_name = "JSON", value_parser = json_object)]
    pub(crate) kwargs: Option<Value>,
    /// Print what the function yields, one JSON value per line, as it arrives.
    #[arg(long)]
    pub(crate) stream: bool,
    /// Stream items to the function, which gets an iterator over them as its first argument: JSON values, one a line, from
    /// this file or from standard input (-).
    #[arg(long, value_name = "FILE", conflicts_with = "reload")]
    pub(crate) input: Option<Source>,
    /// Cancel the call when it takes longer, as in 5s or 250ms. Starting the worker is not counted.
    #[arg(long, value_name = "TIME", value_parser = positive_duration, allow_hyphen_values = true)]
    pub(crate) timeout: Option<Duration>,
    /// Go on: whenever a Python file in a directory given with --path changes, load the new code and call again. Code that does
    /// not load is told, and the old code stays. Ends with Ctrl-C.
    #[arg(long)]
    pub(crate) reload: bool,
    #[command(flatten)]
    pub(crate) pool: PoolArgs,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// Show what a pool does, on a hundred years of the river Nile.
///
/// It starts workers, calls them, streams from one, lets all compute at once, kills one in mid-call, and ends them.
/// Every figure it prints was measured in this very run.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Workers to start.
    #[arg(long, value_name = "N", default_value = "4", value_parser = at_least_one)]
    pub(crate) workers: usize,
    #[command(flatten)]
    pub(crate) backend: BackendArgs,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// Measure how fast calls are on this machine.
///
/// Each caller sends bytes to a worker, which sends them back, and begins again. Standard output has the figures.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Callers that call at the same time.
    #[arg(long, value_name = "C", default_value = "1", value_parser = at_least_one, allow_hyphen_values = true)]
    pub(crate) concurrency: usize,
    /// Bytes sent each way, as in 1024, 64KiB or 1MiB.
    #[arg(long, value_name = "BYTES", default_value = "1KiB", value_parser = byte_count, allow_hyphen_values = true)]
    pub(crate) payload: usize,
    /// How long to measure, in seconds or as in 500ms.
    #[arg(long, value_name = "S", default_value = "5", value_parser = seconds, allow_hyphen_values = true)]
    pub(crate) duration: Duration,
    /// Print the figures as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) pool: PoolArgs,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// Show what this machine offers and what is missing, each with the remedy.
///
/// It tries things rather than guessing them from version numbers, starts a worker and calls it, and leaves nothing
/// behind but the cached worker package. Exit code 0 when a pool can run here, 1 when not.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Print the findings as JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) python: PythonArgs,
}

/// End what programs have left behind that died, and nothing else.
///
/// A program that is killed may leave workers behind, or what they have started. Its next start ends them; this does so
/// without one. Programs that live are left alone, and a process is ended only if it is certain to belong to a dead one.
/// Exit code 0: nothing is left, as far as this user may look; 1: something is left, or with --dry-run something was found;
/// 2: wrong usage.
#[cfg(feature = "registry")]
#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    /// Clean up after this application [default: snakepit, which is what this command is when it calls].
    #[arg(long, value_name = "NAME", value_parser = app_name, conflicts_with = "all")]
    pub(crate) app: Option<String>,
    /// Clean up after every application.
    #[arg(long)]
    pub(crate) all: bool,
    /// Directory with the records [default: $XDG_STATE_HOME/snakepit, else ~/.local/state/snakepit, without a home
    /// one for this user among the runtime or temporary files].
    #[arg(long, value_name = "DIR", value_parser = directory)]
    pub(crate) state_dir: Option<PathBuf>,
    /// Only show what would be ended.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print the report as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What the workers import and how they are started.
#[derive(Clone, Debug, Args)]
pub(crate) struct PoolArgs {
    /// Workers to start [default: 1, with --config what the file says].
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    workers: Option<usize>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Put this directory in front of sys.path; may be repeated. The working directory is not on it by itself.
    #[arg(long = "path", value_name = "DIR", value_parser = directory)]
    paths: Vec<PathBuf>,
    /// Import this module before the worker is ready; its functions go by their bare names. May be repeated.
    #[arg(long = "adapter", value_name = "MODULE")]
    adapters: Vec<String>,
    /// Import this module into the interpreter that workers of the zygote backend are forked from, besides the adapters. May
    /// be repeated.
    #[arg(long = "preload", value_name = "MODULE")]
    preload: Vec<String>,
    /// Run up to N calls at the same time in each worker, each on a thread of its own.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "asyncio")]
    threads: Option<u32>,
    /// Run up to N calls at the same time in each worker: async functions on one event loop, others on threads.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=32768))]
    asyncio: Option<u32>,
    #[command(flatten)]
    backend: BackendArgs,
}

impl PoolArgs {
    /// A pool by these settings, and by those of the file where there is one. May take the time to make a Python environment.
    ///
    /// # Errors
    /// When they contradict each other, or there is no Python.
    pub(crate) fn builder(&self, name: &str, python: &PythonArgs) -> Result<PoolBuilder, Failure> {
        // A directory that is named here is looked at before those of the file.
        let builder = self.paths.iter().fold(session::builder(name), PoolBuilder::path);
        let (builder, env) = match self.config.choose()? {
            Some(Chosen { config, name }) => (config.apply(&name, builder)?, config.python(&name)?),
            // Nobody looks at figures of a pool that lives for one command, and a scan of the process table in the middle of a
            // measurement is not what is measured. A file may have a use for them, as max_rss has.
            None => (builder.workers(1).metrics(false), Some(PythonEnv::builder())),
        };
        let builder = self.adapters.iter().fold(builder, PoolBuilder::adapter);
        let builder = self.preload.iter().fold(builder, PoolBuilder::preload);
        let builder = match self.workers {
            Some(workers) => builder.workers(workers),
            None => builder,
        };
        let builder = match (self.threads, self.asyncio) {
            (Some(threads), _) => builder.concurrency(Concurrency::Threads(threads)),
            (None, Some(tasks)) => builder.concurrency(Concurrency::Asyncio(tasks)),
            (None, None) => builder,
        };
        let builder = self.backend.apply(builder)?;
        match env {
            Some(env) => Ok(builder.python(python.environment_on(env)?)),
            None if python.is_given() => Err(Failure::Usage(
                "the pool runs another program than Python, which has no use for --python and --with"
                    .to_owned(),
            )),
            None => Ok(builder),
        }
    }

    /// Whether a bare name may be one of an adapter's functions.
    pub(crate) fn may_have_adapters(&self) -> bool {
        !self.adapters.is_empty() || self.config.is_given()
    }
}

/// What starts the workers.
#[derive(Clone, Debug, Args)]
pub(crate) struct BackendArgs {
    /// Backend that starts the workers: port, exec or zygote, or zygote+port and zygote+exec, which say what starts the
    /// interpreter that workers are forked from [default: the first that is compiled in].
    #[arg(long, value_name = "NAME", value_parser = backend)]
    backend: Option<Backend>,
    /// How firmly the exec backend holds what it starts: namespace, shared-namespace, cgroup or subreaper [default: the
    /// firmest there is].
    #[cfg(feature = "backend-exec")]
    #[arg(long, value_name = "LEVEL", value_parser = containment)]
    containment: Option<Containment>,
    /// Give each worker of the zygote backend a PID namespace of its own: the kernel ends all that it has started with it.
    #[arg(long)]
    nested_namespaces: bool,
}

/// A containment level of the exec backend.
#[cfg(feature = "backend-exec")]
#[derive(Clone, Copy, Debug)]
struct Containment {
    level: snakepit::core::process::ContainmentLevel,
    shared: bool,
}

impl BackendArgs {
    /// The pool with this backend.
    ///
    /// # Errors
    /// When its options contradict each other.
    pub(crate) fn apply(&self, builder: PoolBuilder) -> Result<PoolBuilder, Failure> {
        let builder = if self.nested_namespaces {
            builder.nested_namespaces(true)
        } else {
            builder
        };
        #[cfg(feature = "backend-exec")]
        if let Some(Containment { level, shared }) = self.containment {
            let is_zygote = match self.backend {
                None | Some(Backend::Exec) => false,
                Some(Backend::Zygote | Backend::ZygoteExec) => true,
                Some(_) => {
                    let message = "--containment belongs to the exec backend: choose --backend exec or zygote+exec, or \
                                   leave it out";
                    return Err(Failure::Usage(message.to_owned()));
                }
            };
            let settings = snakepit::backend_exec::ExecSettings::default()
                .with_containment(level)
                .with_shared_namespace(shared);
            let launcher = std::sync::Arc::new(snakepit::backend_exec::ExecLauncher::new(settings));
            return Ok(match self.backend.filter(|_| is_zygote) {
                Some(backend) => builder.backend(backend).template_launcher(launcher),
                None => builder.launcher(launcher),
            });
        }
        Ok(match self.backend {
            Some(backend) => builder.backend(backend),
            None => builder,
        })
    }
}

#[cfg(feature = "backend-exec")]
fn containment(name: &str) -> Result<Containment, String> {
    use snakepit::core::process::ContainmentLevel;

    let (name, shared) = match name {
        "shared-namespace" => ("namespace", true),
        other => (other, false),
    };
    match name.parse() {
        Ok(level) if level != ContainmentLevel::None => Ok(Containment { level, shared }),
        _ => Err("there are: namespace, shared-namespace, cgroup, subreaper".to_owned()),
    }
}

/// Which Python the workers run on.
#[derive(Clone, Debug, Args)]
pub(crate) struct PythonArgs {
    /// Interpreter to use: a path, the directory of a virtual environment, or a name in PATH [default:
    /// $SNAKEPIT_PYTHON, the active virtual environment, then python3 in PATH].
    #[arg(long, value_name = "PATH")]
    pub(crate) python: Option<PathBuf>,
    /// Make this package importable (as pip takes it: numpy, 'pandas>=2'); it is installed into a virtual
    /// environment that later runs use again. May be repeated.
    #[arg(long, value_name = "PKG")]
    pub(crate) with: Vec<String>,
}

impl PythonArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.python.is_some() || !self.with.is_empty()
    }

    /// Finds or makes the environment. Blocks.
    pub(crate) fn environment(&self) -> Result<PythonEnv, Failure> {
        self.environment_on(PythonEnv::builder())
    }

    /// Finds or makes the environment, with what was asked for on top of `builder`. Blocks.
    fn environment_on(&self, builder: PythonEnvBuilder) -> Result<PythonEnv, Failure> {
        let progress = Progress::start();
        let tell = progress.teller();
        let mut builder = builder
            .with_packages(&self.with)
            .on_step(move |step: &Step| tell(step.to_string()));
        if let Some(python) = &self.python {
            builder = builder.interpreter(python);
        }
        Ok(builder.build()?)
    }
}

#[cfg(feature = "registry")]
fn app_name(name: &str) -> Result<String, String> {
    match snakepit::registry::check_app(name) {
        Ok(()) => Ok(name.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn json_value(text: &str) -> Result<Value, String> {
    json::parse(text).map_err(|error| error.to_string())
}

fn json_object(text: &str) -> Result<Value, String> {
    match json_value(text)? {
        value @ Value::Map(_) => Ok(value),
        _ => Err(r#"keyword arguments are an object, as in '{"indent": 2}'"#.to_owned()),
    }
}

/// What is wrong with a time of zero or less.
const NOTHING: &str = "it has to be longer than nothing";

/// A time above zero, as people write it.
fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err(NOTHING.to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; write a number and a unit, as in 5s or 250ms")),
    }
}

/// As [`positive_duration`]; a lone number is seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_nan() => Err("it has to be a number of seconds".to_owned()),
        Ok(number) if number <= 0.0 => Err(NOTHING.to_owned()),
        Ok(number) => match Duration::try_from_secs_f64(number) {
            Ok(Duration::ZERO) => Err(NOTHING.to_owned()),
            Ok(duration) => Ok(duration),
            Err(_) => Err("it is longer than a clock can count".to_owned()),
        },
        Err(_) => positive_duration(text),
    }
}

/// A number of bytes with a binary unit, or none.
fn byte_count(text: &str) -> Result<usize, String> {
    /// What one message takes, with room for its frame.
    const MOST: usize = (2 << 30) - (1 << 20);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        _ => return Err("known units are KiB, MiB and GiB".to_owned()),
    };
    let number: usize = digits
        .trim()
        .parse()
        .map_err(|_| "a whole number of bytes is needed".to_owned())?;
    number
        .checked_mul(unit)
        .filter(|bytes| *bytes <= MOST)
        .ok_or_else(|| "a message is limited to 2 GiB".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least one is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("a whole number from 1 on is needed".to_owned()),
    }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| error.to_string())?;
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err("it is not a directory".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A backend that is there: one that is not compiled in is as wrong as one that does not exist.
fn backend(name: &str) -> Result<Backend, String> {
    let backend: Backend = name
        .parse()
        .map_err(|error: snakepit::BackendError| error.to_string())?;
    backend.launcher().map_err(|error| error.to_string())?;
    Ok(backend)
}
