//! What workers do here: mostly nothing.

use std::{ffi::OsString, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What each worker of a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// A foreign program that reads nothing, with a grandchild in a session of its own.
    Sleepers,
    /// A foreign program that reads nothing and ends at SIGTERM.
    Obedient,
    /// A foreign program, with its four processes that are hard to end.
    Tree,
    /// A Python worker, with a grandchild in a session of its own.
    Python,
    /// A Python worker with nothing else.
    BarePython,
    /// A Python worker, with the five processes that are hard to end.
    PythonTree,
}

impl Work {
    /// The adapter, for Python workers.
    pub(crate) fn adapter(self) -> Option<&'static str> {
        match self {
            Self::Python => Some("family"),
            Self::PythonTree => Some("brings_tree"),
            Self::Sleepers | Self::Obedient | Self::Tree | Self::BarePython => None,
        }
    }

    /// The command line, for foreign programs; `None` for Python workers.
    pub(crate) fn command(self) -> Option<(PathBuf, Vec<OsString>)> {
        match self {
            Self::Sleepers => Some(sleepers()),
            Self::Obedient => Some(("sleep".into(), vec!["600".into()])),
            Self::Tree => {
                let script = programs().join("tree.py").into_os_string();
                Some(("python3".into(), vec!["-I".into(), "-S".into(), script]))
            }
            Self::Python | Self::BarePython | Self::PythonTree => None,
        }
    }
}

/// A process and its grandchild in a session of its own, small ones.
pub(crate) fn sleepers() -> (PathBuf, Vec<OsString>) {
    let script = "setsid sleep 600 & exec sleep 600";
    ("/bin/sh".into(), vec!["-c".into(), script.into()])
}

/// Where the Python programs and adapters are.
pub(crate) fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/survival/python")
}
