//! Ending what dead hosts have left.

use crate::{Result, options::Options, record::Record};

/// The record's name of the command's time, in milliseconds.
pub(crate) const COMMAND: &str = "cleanup/command/ms";

/// The same, with nothing to clean.
pub(crate) const COMMAND_NOTHING: &str = "cleanup/command_nothing/ms";

/// The record's name of the library's time, in milliseconds.
pub(crate) const LIBRARY: &str = "cleanup/library/ms";

/// The same, with nothing to clean.
pub(crate) const LIBRARY_NOTHING: &str = "cleanup/library_nothing/ms";

/// Nothing yet.
pub(crate) fn measure(_options: &Options, _record: &mut Record) -> Result<()> {
    Ok(())
}
