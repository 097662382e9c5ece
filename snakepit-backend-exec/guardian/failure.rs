//! What went wrong, as the host is told.

use std::io;

use crate::{sys::constants::EIO, wire::Step};

/// A step and its errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl Failure {
    pub(crate) fn new(step: Step, errno: i32) -> Self {
        Self { step, errno }
    }

    /// As the two numbers of a message.
    pub(crate) fn numbers(self) -> (i64, i64) {
        (self.step as i64, i64::from(self.errno))
    }
}

/// Names the step that a system call belonged to.
pub(crate) trait At<T> {
    fn at(self, step: Step) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, step: Step) -> Result<T, Failure> {
        self.map_err(|error| Failure::new(step, errno(&error)))
    }
}

pub(crate) fn errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(EIO)
}
