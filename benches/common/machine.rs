//! The machine and the versions a run was made with.

use serde::Serialize;

use super::{Result, proc};

/// Facts that figures without them would be worthless.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Processor model.
    pub(crate) cpu: String,
    /// Processors available to the benchmark.
    pub(crate) cores: usize,
    /// Memory in GiB.
    pub(crate) memory_gib: f64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Distribution.
    pub(crate) system: String,
    /// Load average over the last minute when the run began: other work on the machine.
    pub(crate) load: String,
    /// Python and the packages in use.
    pub(crate) python: String,
    /// This project's version.
    pub(crate) snakepit: &'static str,
    /// The compiler, as named by the build.
    pub(crate) rust: String,
}

impl Machine {
    /// Looks at this machine. `python` names the interpreter and the packages that the run is about.
    pub(crate) fn describe(python: String) -> Result<Self> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let word = |text: String| text.split_whitespace().next().unwrap_or("unknown").to_owned();
        let rustc = std::process::Command::new("rustc").arg("--version").output();
        let memory = proc::field("/proc/meminfo", "MemTotal").unwrap_or_default();
        let system = read("/etc/os-release");
        let pretty = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Ok(Self {
            cpu: proc::field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into()),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: word(memory).parse::<f64>().unwrap_or(0.0) / (1024.0 * 1024.0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: pretty.unwrap_or("unknown").trim_matches('"').to_owned(),
            load: word(read("/proc/loadavg")),
            python,
            snakepit: env!("CARGO_PKG_VERSION"),
            rust: rustc.map_or_else(
                |_| "unknown".into(),
                |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
            ),
        })
    }
}
