//! Writing to standard output and standard error.

mod queue;

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal as _, Write},
    sync::{Arc, OnceLock},
};

use queue::Queue;

use super::failure::Failure;

/// Standard error. Whoever does not read it holds up nothing: records that there is no room for are left out.
static ERRORS: OnceLock<Arc<Queue>> = OnceLock::new();

fn errors() -> &'static Queue {
    ERRORS.get_or_init(|| Queue::new(io::stderr))
}

/// Writes one line, at once: whoever reads a stream wants each item as it comes.
pub(crate) fn line(text: impl Display) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Writes lines on standard output while other things go on: calls, their deadlines, and Ctrl-C.
#[derive(Debug)]
pub(crate) struct Lines(Arc<Queue>);

impl Lines {
    pub(crate) fn of_stdout() -> Self {
        Self(Queue::new(io::stdout))
    }

    /// Writes one line, at once. Waits while nobody reads those before it.
    pub(crate) async fn line(&self, text: impl Display) -> Result<(), Failure> {
        let line = format!("{text}\n").into_bytes();
        self.0.add(line).await.map_err(Failure::Output)
    }

    /// Awaits something, unless nobody can read any more.
    pub(crate) async fn while_read<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            biased;
            error = self.0.failed() => Err(Failure::Output(error)),
            done = work => Ok(done),
        }
    }

    /// Resolves when all lines are written.
    pub(crate) async fn written(&self) -> Result<(), Failure> {
        self.0.written().await.map_err(Failure::Output)
    }
}

/// Writes one line on standard error. A terminal that is gone takes none, and there is nobody to tell then.
pub(crate) fn tell(text: impl Display) {
    errors().insist(format!("{text}\n").as_bytes());
}

/// Whether all that was [told](tell) is written, as it mostly is.
pub(crate) fn is_told() -> bool {
    ERRORS.get().is_none_or(|errors| errors.is_written())
}

/// Resolves when all that was [told](tell) is written, or cannot be.
pub(crate) async fn told() {
    let _ = errors().written().await;
}

/// Standard error for those who write records to it, each whole.
pub(crate) struct Records;

impl Write for Records {
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        errors().offer(record);
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a value as JSON, on lines for people to read.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
    line(text)
}

/// Emphasis, where standard output is a terminal that wants it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Emphasis unless the output is no terminal or `NO_COLOR` is set (<https://no-color.org>).
    pub(crate) fn of_stdout() -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            colour: io::stdout().is_terminal() && !refused && !dumb,
        }
    }

    pub(crate) fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    pub(crate) fn red(self, text: impl Display) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

/// A number of bytes for people: three digits and a binary unit.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    let mut amount = number as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1023.95 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A whole number with its thousands apart.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A duration for people: three digits at most, in the unit that suits.
pub(crate) fn duration(time: std::time::Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 10.0 => format!("{s:.1} s"),
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 0.1 => format!("{:.0} ms", s * 1e3),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn amounts_are_short_and_have_a_unit() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(25_280_749_568), "23.5 GiB");
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123_456), "123,456");
        assert_eq!(duration(Duration::from_micros(45)), "45 µs");
        assert_eq!(duration(Duration::from_micros(6_240)), "6.2 ms");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_millis(1500)), "1.50 s");
    }
}
