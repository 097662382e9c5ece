//! Which backend starts the workers.

use std::{fmt, str::FromStr, sync::Arc};

use snakepit_core::launch::Launcher;

/// A backend that users choose by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Workers are direct children, their standard input is the channel. Feature `backend-port`.
    Port,
}

/// A backend that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No backend has this name.
    #[error("there is no backend `{name}`; there are: {}", names(Backend::ALL))]
    Unknown {
        /// The name given.
        name: String,
    },
    /// The backend exists and was not compiled in.
    #[error(
        "the backend `{backend}` is not compiled in: enable the Cargo feature `{}`; compiled in: {}",
        .backend.feature(),
        names(Backend::compiled_in())
    )]
    Absent {
        /// The backend.
        backend: Backend,
    },
}

fn names(backends: impl IntoIterator<Item = Backend>) -> String {
    let names: Vec<_> = backends.into_iter().map(Backend::name).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

impl Backend {
    /// Every backend there is.
    pub const ALL: [Self; 1] = [Self::Port];

    /// The backends that are compiled in.
    pub fn compiled_in() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|backend| backend.launcher().is_ok())
    }

    /// The name by which users choose it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
        }
    }

    /// The Cargo feature that brings it.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::Port => "backend-port",
        }
    }

    /// Its launcher.
    ///
    /// # Errors
    /// When it is not compiled in.
    pub fn launcher(self) -> Result<Arc<dyn Launcher>, BackendError> {
        match self {
            #[cfg(feature = "backend-port")]
            Self::Port => Ok(Arc::new(snakepit_backend_port::PortLauncher::new())),
            #[cfg(not(feature = "backend-port"))]
            Self::Port => Err(BackendError::Absent { backend: self }),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Backend {
    type Err = BackendError;

    fn from_str(name: &str) -> Result<Self, BackendError> {
        Self::ALL
            .into_iter()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| BackendError::Unknown {
                name: name.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_lists_those_that_are() {
        assert_eq!("port".parse(), Ok(Backend::Port));
        let error = "ports".parse::<Backend>().unwrap_err().to_string();
        assert_eq!(error, "there is no backend `ports`; there are: port");
    }

    #[test]
    fn an_absent_backend_names_its_feature() {
        let error = BackendError::Absent {
            backend: Backend::Port,
        }
        .to_string();
        assert!(error.contains("`backend-port`"), "{error}");
    }
}
