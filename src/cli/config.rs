//! `snakepit config`, and the pool from a file that other commands take.

mod check;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use snakepit::config::{ConfigError, PoolConfig};

use super::failure::{Failure, chain};

pub(crate) use check::run;

/// Look at a file with settings of pools.
#[derive(Debug, Args)]
pub(crate) struct ConfigCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Check(CheckArgs),
}

/// Say what is wrong in a file, or show every setting that is in effect.
///
/// What is wrong comes with line and column. What is in effect is printed as TOML, of each pool all settings, the
/// defaults marked as such. Nothing is started. Exit code 0: the file is right; 1: something in it is wrong; 2: wrong
/// usage, as a file that cannot be read.
#[derive(Debug, Args)]
struct CheckArgs {
    /// The file.
    #[arg(value_name = "FILE", default_value = "snakepit.toml")]
    file: PathBuf,
    /// Print problems and settings as JSON.
    #[arg(long)]
    json: bool,
}

/// A pool from a file.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Start the pool as this file describes it; what other options say wins. No file is read without this option.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which pool of the file [default: the only one, or the one named default].
    #[arg(long, value_name = "NAME", requires = "config")]
    pool: Option<String>,
}

/// A pool of a file.
pub(crate) struct Chosen {
    pub(crate) config: PoolConfig,
    pub(crate) name: String,
}

impl ConfigArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.config.is_some()
    }

    /// The pool that was asked for, if one was.
    ///
    /// # Errors
    /// When something is wrong with the file, or it has no such pool.
    pub(crate) fn choose(&self) -> Result<Option<Chosen>, Failure> {
        let Some(path) = &self.config else {
            return Ok(None);
        };
        let config = PoolConfig::load(path)?;
        let name = match &self.pool {
            Some(name) => name.clone(),
            None => config.default_name()?.to_owned(),
        };
        Ok(Some(Chosen { config, name }))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Usage(chain(&error))
    }
}
