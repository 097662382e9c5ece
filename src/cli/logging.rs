//! Log records on standard error.

use std::{
    fmt,
    io::{self, IsTerminal as _},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::output;

/// What workers print and what they log; the pool names its records so.
const OUTPUT: [&str; 2] = ["snakepit::stdout", "snakepit::stderr"];

/// What is shown unless `RUST_LOG` says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// What workers print and log, and warnings of ours.
    Workers,
    /// Only errors: a display of its own tells the rest.
    Errors,
}

/// Begins to write records. `verbose` shows every state change, twice the details.
pub(crate) fn start(show: Show, verbose: u8) {
    let default = match (show, verbose) {
        (Show::Workers, 0) => {
            "warn,snakepit_core::event=error,snakepit::reload=error,snakepit::stdout=info,snakepit::stderr=info,\
             snakepit::python=info"
        }
        (Show::Errors, 0) => "error",
        (_, 1) => {
            "info,snakepit=debug,snakepit_core=debug,snakepit_backend_port=debug,snakepit_backend_exec=debug,\
             snakepit_registry=debug"
        }
        (_, _) => "debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|error| {
        if std::env::var_os("RUST_LOG").is_some() {
            output::tell(format_args!(
                "warning: RUST_LOG is left out, as it is no filter: {error}"
            ));
        }
        EnvFilter::new(default)
    });
    let lines = Lines {
        colour: io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::Records)
        // It would tell a standard error that is gone, and panic.
        .log_internal_errors(false)
        .event_format(lines);
    // Only a second call fails, and that would leave the first in place.
    let _ = subscriber.try_init();
}

/// One line for each record. What a worker prints stands as it printed it.
struct Lines {
    colour: bool,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let target = event.metadata().target();
        if OUTPUT.contains(&target) {
            return writeln!(out, "{}", fields.message);
        }
        let (name, colour) = match *event.metadata().level() {
            Level::ERROR => ("error", "31"),
            Level::WARN => ("warning", "33"),
            Level::INFO => ("info", "32"),
            Level::DEBUG => ("debug", "2"),
            Level::TRACE => ("trace", "2"),
        };
        if self.colour {
            write!(out, "\x1b[{colour}m{name}\x1b[0m: ")?;
        } else {
            write!(out, "{name}: ")?;
        }
        if target == "snakepit::python" {
            writeln!(out, "{}: {}", fields.logger, fields.message)?;
            return match fields.exception {
                Some(exception) => writeln!(out, "{}", exception.trim_end()),
                None => Ok(()),
            };
        }
        writeln!(out, "{}{}", fields.message, fields.rest)
    }
}

/// The fields of a record, as far as they are shown.
#[derive(Default)]
struct Fields {
    message: String,
    logger: String,
    exception: Option<String>,
    rest: String,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "logger" => value.clone_into(&mut self.logger),
            "exception" => self.exception = Some(value.to_owned()),
            _ => self.record_debug(field, &format_args!("{value}")),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.rest.push_str(&format!(" {name}={value:?}")),
        }
    }
}
