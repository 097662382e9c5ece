//! Which backend starts the workers.

use std::{fmt, str::FromStr, sync::Arc};

use snakepit_core::launch::Launcher;

/// A backend that users choose by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Backend {
    /// Workers are direct children, their standard input is the channel. Feature `backend-port`.
    Port,
    /// A guardian process owns the workers, and the kernel ends them with it. Feature `backend-exec`.
    Exec,
    /// Workers are forked from one interpreter that has imported everything, which the exec backend starts when it is compiled
    /// in, else the port backend. Feature `backend-zygote`.
    Zygote,
    /// As [`Zygote`](Self::Zygote), with an interpreter that the port backend starts. Feature `backend-zygote`.
    ZygotePort,
    /// As [`Zygote`](Self::Zygote), with an interpreter that the exec backend starts. Features `backend-zygote` and
    /// `backend-exec`.
    ZygoteExec,
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
    pub const ALL: [Self; 5] = [
        Self::Port,
        Self::Exec,
        Self::Zygote,
        Self::ZygotePort,
        Self::ZygoteExec,
    ];

    /// The backends that are compiled in; the first is the default.
    pub fn compiled_in() -> impl Iterator<Item = Self> {
        let compiled_in = |backend: &Self| match backend {
            Self::Port => cfg!(feature = "backend-port"),
            Self::Exec => cfg!(feature = "backend-exec"),
            Self::Zygote | Self::ZygotePort => cfg!(feature = "backend-zygote"),
            Self::ZygoteExec => cfg!(feature = "backend-zygote") && cfg!(feature = "backend-exec"),
        };
        Self::ALL.into_iter().filter(compiled_in)
    }

    /// The name by which users choose it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Port => "port",
            Self::Exec => "exec",
            Self::Zygote => "zygote",
            Self::ZygotePort => "zygote+port",
            Self::ZygoteExec => "zygote+exec",
        }
    }

    /// The Cargo feature that brings it.
    pub const fn feature(self) -> &'static str {
        match self {
            Self::Port => "backend-port",
            Self::Exec => "backend-exec",
            Self::ZygoteExec if cfg!(feature = "backend-zygote") => "backend-exec",
            Self::Zygote | Self::ZygotePort | Self::ZygoteExec => "backend-zygote",
        }
    }

    /// Whether the workers are forked from a template.
    pub const fn is_zygote(self) -> bool {
        matches!(self, Self::Zygote | Self::ZygotePort | Self::ZygoteExec)
    }

    /// What starts processes for it: workers, or the template that they are forked from.
    const fn below(self) -> Self {
        match self {
            Self::Port | Self::ZygotePort => Self::Port,
            Self::Exec | Self::ZygoteExec => Self::Exec,
            Self::Zygote if cfg!(feature = "backend-exec") => Self::Exec,
            Self::Zygote => Self::Port,
        }
    }

    /// Whether it is, or rests on, the exec backend.
    #[cfg(feature = "config")]
    pub(crate) fn has_guardian(self) -> bool {
        self.below() == Self::Exec
    }

    /// Its launcher; of the zygote backend that of its template, around which a pool puts a
    /// `ZygoteLauncher` when it knows what is to be imported. The pools of one tokio runtime that use the exec backend at a
    /// time share one guardian.
    ///
    /// # Errors
    /// When it is not compiled in.
    pub fn launcher(self) -> Result<Arc<dyn Launcher>, BackendError> {
        if Self::compiled_in().all(|there| there != self) {
            return Err(BackendError::Absent { backend: self });
        }
        match self.below() {
            #[cfg(feature = "backend-port")]
            Self::Port => Ok(Arc::new(snakepit_backend_port::PortLauncher::new())),
            #[cfg(not(feature = "backend-port"))]
            Self::Port => Err(BackendError::Absent { backend: self }),
            #[cfg(feature = "backend-exec")]
            Self::Exec => Ok(shared_exec()),
            #[cfg(not(feature = "backend-exec"))]
            Self::Exec => Err(BackendError::Absent { backend: self }),
            Self::Zygote | Self::ZygotePort | Self::ZygoteExec => {
                unreachable!("what a template is started by is no template")
            }
        }
    }
}

/// The launcher that the pools of one tokio runtime share for as long as one of them uses it; its guardian leaves with the
/// last. Not those of another runtime: what looks after the guardian goes with the runtime that it began on.
#[cfg(feature = "backend-exec")]
fn shared_exec() -> Arc<snakepit_backend_exec::ExecLauncher> {
    use std::{
        collections::HashMap,
        sync::{Mutex, PoisonError, Weak},
    };

    use snakepit_backend_exec::ExecLauncher;
    use tokio::runtime::{Handle, Id};

    static SHARED: Mutex<Option<HashMap<Option<Id>, Weak<ExecLauncher>>>> = Mutex::new(None);
    let runtime = Handle::try_current().ok().map(|handle| handle.id());
    // Each use leaves it whole.
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = shared.get_or_insert_default();
    shared.retain(|_, launcher| launcher.strong_count() > 0);
    let place = shared.entry(runtime).or_default();
    place.upgrade().unwrap_or_else(|| {
        let launcher = Arc::default();
        *place = Arc::downgrade(&launcher);
        launcher
    })
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
        assert_eq!(
            error,
            "there is no backend `ports`; there are: port, exec, zygote, zygote+port, zygote+exec"
        );
    }

    #[test]
    fn an_absent_backend_names_its_feature() {
        for backend in Backend::ALL {
            let error = BackendError::Absent { backend }.to_string();
            assert!(error.contains(&format!("`{}`", backend.feature())), "{error}");
            let is_there = Backend::compiled_in().any(|there| there == backend);
            assert_eq!(backend.launcher().is_ok(), is_there);
        }
    }

    #[cfg(feature = "backend-exec")]
    #[test]
    fn pools_share_a_guardian_for_as_long_as_one_uses_it() {
        let first = shared_exec();
        assert!(Arc::ptr_eq(&first, &shared_exec()));
        let gone = Arc::downgrade(&first);
        drop(first);
        assert!(gone.upgrade().is_none());
    }

    #[cfg(feature = "backend-exec")]
    #[test]
    fn pools_of_another_runtime_have_a_guardian_of_their_own() {
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (first, second) = (runtime(), runtime());
        let launchers = [&first, &first, &second].map(|runtime| runtime.block_on(async { shared_exec() }));
        assert!(Arc::ptr_eq(&launchers[0], &launchers[1]));
        assert!(!Arc::ptr_eq(&launchers[0], &launchers[2]));
    }
}
