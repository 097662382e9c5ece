//! Pools from a file, `snakepit.toml`: [`PoolConfig`].
//!
//! Each pool is a table `[pool.NAME]`, and what can be set in it goes by the names of [`PoolBuilder`]'s methods. The guide's
//! page `settings.md` lists all of it.
//!
//! ```
//! use snakepit::config::PoolConfig;
//!
//! let config = PoolConfig::parse(
//!     r#"
//!     [pool.images]
//!     workers = 4
//!     adapters = ["resize"]
//!     paths = ["python"]             # relative to the file
//!     run_timeout = "2s"
//!     env.CACHE = "/tmp/images-{slot}"
//!     "#,
//!     "/etc/shop/snakepit.toml",
//! )?;
//! let builder = config.pool("images")?; // start() it, or go on in Rust
//! # drop(builder);
//!
//! let error = PoolConfig::parse("[pool.images]\nworker = 4\n", "snakepit.toml").unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "snakepit.toml:2:1: pool.images.worker: there is no such setting; did you mean `workers`?"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod draft;
mod error;
mod forms;
mod kinds;
mod node;
mod read;
mod schema;
#[cfg(test)]
mod tests;

use std::{
    fs,
    path::{Path, PathBuf},
};

use toml::{Spanned, de::DeValue};

use crate::{Pool, PoolBuilder, python_env::PythonEnvBuilder};
use draft::Draft;
pub use error::{ConfigError, Problem};

/// A file with settings of pools, all of it checked.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    path: PathBuf,
    /// Where relative paths in it begin.
    directory: PathBuf,
    text: String,
    names: Vec<String>,
}

/// One setting of a pool, as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// Its name in the table of the pool, as `shutdown.grace`.
    pub key: &'static str,
    /// Its value in TOML; `None` where there is none, as for `cwd` unless it is set.
    pub value: Option<String>,
    /// What holds where there is no value, or where the machine decides what the default is: "the host's".
    pub default: Option<&'static str>,
    /// Whether the file says so.
    pub is_set: bool,
}

impl PoolConfig {
    /// Reads a file. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or with everything that is wrong in it.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Reads text as if it stood in the file `path`: relative paths in it begin in that file's directory.
    ///
    /// # Errors
    /// With everything that is wrong in it.
    pub fn parse(text: &str, path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        // Without a working directory a relative path stays one, and fails where it is used.
        let absolute = std::path::absolute(&path).unwrap_or_else(|_| path.clone());
        let directory = absolute.parent().map(Path::to_owned).unwrap_or_default();
        match read::names(text, &directory) {
            Ok(names) => Ok(Self {
                path,
                directory,
                text: text.to_owned(),
                names,
            }),
            Err(mut problems) => {
                problems.sort_by_key(|problem| (problem.line, problem.column));
                Err(ConfigError::Wrong { path, problems })
            }
        }
    }

    /// The names of the pools, in the order of the alphabet.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// The name of the pool that is meant when none is named: the only one, or `default`.
    ///
    /// # Errors
    /// [`ConfigError::Which`] when there are several, and none is called so.
    pub fn default_name(&self) -> Result<&str, ConfigError> {
        const DEFAULT: &str = "default";
        let mut names = self.names();
        match (names.next(), names.next()) {
            (Some(only), None) => Ok(only),
            _ if self.names().any(|name| name == DEFAULT) => Ok(DEFAULT),
            _ => Err(ConfigError::Which {
                path: self.path.clone(),
                names: self.names.clone(),
            }),
        }
    }

    /// The settings of a pool, which may be changed before it is started.
    ///
    /// # Errors
    /// [`ConfigError::NoPool`] when the file has none of this name.
    pub fn pool(&self, name: &str) -> Result<PoolBuilder, ConfigError> {
        self.apply(name, Pool::builder())
    }

    /// The settings of a pool on top of others: what the file sets wins, and its `adapters`, `paths`, `env` and `env_remove`
    /// come after those that are there.
    ///
    /// # Errors
    /// [`ConfigError::NoPool`] when the file has none of this name.
    pub fn apply(&self, name: &str, builder: PoolBuilder) -> Result<PoolBuilder, ConfigError> {
        Ok(self.draft(name, builder)?.finish().name(name))
    }

    /// The Python environment of a pool, to be made when it suits, as before a runtime is started; `None` for one that runs
    /// another program.
    ///
    /// # Errors
    /// [`ConfigError::NoPool`] when the file has none of this name.
    pub fn python(&self, name: &str) -> Result<Option<PythonEnvBuilder>, ConfigError> {
        let draft = self.draft(name, Pool::builder())?;
        Ok(draft.builder.program.is_none().then(|| draft.python.builder()))
    }

    /// Every setting of a pool with the value that is in effect. As a table of TOML they mean the same pool again.
    ///
    /// # Errors
    /// [`ConfigError::NoPool`] when the file has none of this name.
    pub fn settings(&self, name: &str) -> Result<Vec<Setting>, ConfigError> {
        let mut draft = self.draft(name, Pool::builder())?;
        let shown = schema::all().into_iter().filter(|entry| entry.is_compiled_in());
        let shown = shown.map(|entry| Setting {
            key: entry.key,
            value: entry.show(&mut draft).map(|value| value.to_string()),
            default: entry.default,
            is_set: draft.set.contains(&entry.key),
        });
        Ok(shown.collect())
    }

    fn draft(&self, name: &str, builder: PoolBuilder) -> Result<Draft, ConfigError> {
        if self.names().all(|known| known != name) {
            return Err(ConfigError::NoPool {
                path: self.path.clone(),
                name: name.to_owned(),
                names: self.names.clone(),
            });
        }
        let mut draft = Draft::of(builder);
        read::pool(&self.text, name, &self.directory, &mut draft);
        Ok(draft)
    }
}

/// A value where it stands.
type Value<'a> = Spanned<DeValue<'a>>;
