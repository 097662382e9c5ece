//! How the tour looks.

use std::{cell::Cell, fmt::Display, time::Duration};

use crate::cli::{
    failure::Failure,
    output::{self, Style},
};

/// Where figures begin; times stand in a column of their own behind them.
const WIDTH: usize = 88;

/// Writes the tour to standard output.
#[derive(Debug)]
pub(super) struct Show {
    style: Style,
    step: Cell<u32>,
}

impl Show {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            step: Cell::new(0),
        }
    }

    pub(super) fn title(&self, workers: usize) -> Result<(), Failure> {
        output::line(self.style.bold("A hundred years of the Nile"))?;
        let plural = if workers == 1 { "" } else { "s" };
        output::line(format_args!(
            "Rust asks {workers} supervised Python worker{plural} about the river's yearly flow at Aswan, 1871 to 1970."
        ))
    }

    /// A heading.
    pub(super) fn step(&self, name: &str, about: &str) -> Result<(), Failure> {
        self.step.set(self.step.get() + 1);
        let heading = format!("{}. {name:<9}", self.step.get());
        output::line(format_args!(
            "\n{}{}",
            self.style.bold(heading),
            self.style.dim(about)
        ))
    }

    /// A line of findings, with the time it took.
    pub(super) fn figure(&self, text: impl Display, took: Option<Duration>) -> Result<(), Failure> {
        let text = text.to_string();
        match took {
            None => output::line(format_args!("   {text}")),
            Some(took) => {
                let pad = WIDTH.saturating_sub(text.chars().count());
                output::line(format_args!(
                    "   {text}{:pad$}{}",
                    "",
                    self.style.green(format_args!("{:>8}", output::duration(took)))
                ))
            }
        }
    }

    /// A line that tells of something bad that was meant to happen.
    pub(super) fn bad(&self, text: impl Display) -> Result<(), Failure> {
        output::line(format_args!("   {}", self.style.red(text)))
    }

    /// A year's flow as a bar.
    pub(super) fn bar(&self, label: impl Display, value: i64, remark: &str) -> Result<(), Failure> {
        let bar = "█".repeat(usize::try_from(value / 40).unwrap_or(0));
        let bar = if remark.starts_with('-') {
            self.style.yellow(bar)
        } else {
            self.style.green(bar)
        };
        output::line(format_args!(
            "   {label}  {value:>5}  {bar} {}",
            self.style.dim(remark)
        ))
    }

    pub(super) fn closing(&self) -> Result<(), Failure> {
        let next = "snakepit call math:hypot 3 4   |   snakepit bench   |   snakepit doctor";
        output::line(format_args!("Now yours: {}", self.style.bold(next)))
    }
}
