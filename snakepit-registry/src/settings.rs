//! Where a registry is and what it insists on.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest name of an application.
const LONGEST_NAME: usize = 64;

/// What happens when the disk does not play along: full, read-only, not ours, broken, or silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Opening fails, and so does the start of a worker that cannot be recorded.
    Required,
    /// One warning, and the records are kept in memory from then on. What a killed host leaves is found by the
    /// environment of its processes alone, as the next start looks for it anyway. The default: a pool that cannot
    /// write a file still serves.
    #[default]
    BestEffort,
}

/// Settings of a [`Registry`](crate::Registry).
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "settings do nothing until a registry is opened with them"]
pub struct Settings {
    app: String,
    state_dir: Option<PathBuf>,
    policy: Policy,
    cleanup_bound: Duration,
    write_bound: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self::new()
    }
}

impl Settings {
    /// The defaults: the executable's name as application, the user's state directory, best effort.
    pub fn new() -> Self {
        Self {
            app: app_of_executable(env::current_exe().ok().as_deref()),
            state_dir: None,
            policy: Policy::default(),
            cleanup_bound: Duration::from_secs(10),
            write_bound: Duration::from_secs(5),
        }
    }

    /// The application's name: hosts with the same name clean up after each other. 1 to 64 of the characters `A-Z a-z
    /// 0-9 . _ -`, the first a letter or digit; another name is refused when the registry is opened. Default: the file name of
    /// the executable, other characters replaced by `-`.
    pub fn with_app(self, app: impl Into<String>) -> Self {
        Self {
            app: app.into(),
            ..self
        }
    }

    /// The directory that has one directory for each application. Default: [`default_state_dir`].
    pub fn with_state_dir(self, directory: impl Into<PathBuf>) -> Self {
        Self {
            state_dir: Some(directory.into()),
            ..self
        }
    }

    /// What happens when records cannot be written. Default [`Policy::BestEffort`].
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// How long the cleanup after dead hosts may hold up the start of a pool. Default 10 s; zero does without cleanup.
    pub fn with_cleanup_bound(self, bound: Duration) -> Self {
        Self {
            cleanup_bound: bound,
            ..self
        }
    }

    /// How long a start or an ending waits for the disk before the registry counts as broken. Default 5 s: a disk
    /// that is merely busy answers within it, and a start has a deadline of 30 s.
    pub fn with_write_bound(self, bound: Duration) -> Self {
        Self {
            write_bound: bound,
            ..self
        }
    }

    /// The application's name.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        absolute(self.state_dir.clone().unwrap_or_else(default_state_dir))
    }

    /// What a process carries as [`env::APP`](snakepit_core::launch::env::APP) that a host with these settings starts. The
    /// directory belongs to it: applications of the same name with records elsewhere have nothing to do with each other.
    pub fn tag(&self) -> String {
        format!("{}@{}", self.app, self.state_dir().display())
    }

    /// What happens when records cannot be written.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How long cleanup may hold up the start of a pool.
    pub fn cleanup_bound(&self) -> Duration {
        self.cleanup_bound
    }

    /// How long a write may take.
    pub fn write_bound(&self) -> Duration {
        self.write_bound
    }
}

/// The application and the state directory in a [tag](Settings::tag).
pub(crate) fn parse_tag(tag: &str) -> Option<(&str, &str)> {
    tag.split_once('@').filter(|(app, _)| check_app(app).is_ok())
}

/// The path from the root; as it is where there is no working directory to begin with.
pub(crate) fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// A name that no application can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` cannot be the name of an application: 1 to 64 of A-Z, a-z, 0-9, `.`, `_`, `-` are allowed, the first a letter or \
     digit"
)]
pub struct AppNameError(String);

/// Checks the name of an application. It becomes the name of a directory, beside names of ours that begin with a dot.
///
/// # Errors
/// When it is not as [`Settings::with_app`] wants it.
pub fn check_app(name: &str) -> Result<(), AppNameError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && name.len() <= LONGEST_NAME && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(AppNameError(name.to_owned()))
    }
}

/// The name of an application whose executable this is.
fn app_of_executable(path: Option<&Path>) -> String {
    let name = path
        .and_then(Path::file_name)
        .map(OsStr::to_string_lossy)
        .unwrap_or_default();
    // So the kernel marks a program that was replaced since it started.
    let name = name.strip_suffix(" (deleted)").unwrap_or(&name);
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = name.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let mut name = name
        .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned();
    name.truncate(LONGEST_NAME);
    if name.is_empty() {
        "unnamed".to_owned()
    } else {
        name
    }
}

/// The state directory of this user: `$XDG_STATE_HOME/snakepit`, or `$HOME/.local/state/snakepit`
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>). Without either, as for a service without a home:
/// `/run/user/UID/snakepit` if there is such a directory, else `snakepit-state-UID` in the directory for temporary files.
/// A relative path counts as none.
pub fn default_state_dir() -> PathBuf {
    let user = rustix::process::geteuid().as_raw();
    let runtime = PathBuf::from(format!("/run/user/{user}"));
    state_dir_of(
        |name| env::var_os(name).map(PathBuf::from),
        runtime.is_dir().then_some(runtime),
        &env::temp_dir(),
        user,
    )
}

fn state_dir_of(
    variable: impl Fn(&str) -> Option<PathBuf>,
    runtime: Option<PathBuf>,
    temporary: &Path,
    user: u32,
) -> PathBuf {
    let directory = |name| variable(name).filter(|path| path.is_absolute());
    directory("XDG_STATE_HOME")
        .or_else(|| directory("HOME").map(|home| home.join(".local/state")))
        .or(runtime)
        .map_or_else(
            || temporary.join(format!("snakepit-state-{user}")),
            |state| state.join("snakepit"),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_named_after_its_executable() {
        for (path, name) in [
            ("/usr/bin/serve", "serve"),
            ("/opt/my app/run it (deleted)", "run-it"),
            ("/x/.hidden", "hidden"),
            ("/x/größe", "gr--e"),
            ("/x/--", "unnamed"),
            ("/", "unnamed"),
        ] {
            let derived = app_of_executable(Some(Path::new(path)));
            assert_eq!(derived, name, "{path}");
            check_app(&derived).unwrap();
        }
        let long = app_of_executable(Some(Path::new(&"x".repeat(100))));
        check_app(&long).unwrap();
        check_app(Settings::new().app()).unwrap();
    }

    #[test]
    fn a_name_that_is_no_file_name_of_its_own_is_refused() {
        for name in ["", ".", "..", ".new-x", "a/b", "a b", "ä", &"x".repeat(65)] {
            let error = check_app(name).unwrap_err().to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }

    #[test]
    fn a_tag_tells_the_application_and_where_its_records_are() {
        let tag = Settings::new().with_app("a.b").with_state_dir("/x@y/z").tag();
        assert_eq!(tag, "a.b@/x@y/z");
        assert_eq!(parse_tag(&tag), Some(("a.b", "/x@y/z")));
        assert_eq!(parse_tag("a.b"), None);
        assert_eq!(parse_tag("@/x"), None);
    }

    #[test]
    fn the_state_directory_is_defined_without_a_home_too() {
        let of = |xdg: Option<&str>, home: Option<&str>, runtime: Option<&str>| {
            let variable = |name: &str| match name {
                "XDG_STATE_HOME" => xdg.map(PathBuf::from),
                _ => home.map(PathBuf::from),
            };
            let found = state_dir_of(variable, runtime.map(PathBuf::from), Path::new("/tmp"), 7);
            found.to_str().unwrap().to_owned()
        };
        assert_eq!(of(Some("/s"), Some("/h"), None), "/s/snakepit");
        assert_eq!(of(Some("s"), Some("/h"), None), "/h/.local/state/snakepit");
        assert_eq!(of(None, None, Some("/run/user/7")), "/run/user/7/snakepit");
        assert_eq!(of(None, Some(""), None), "/tmp/snakepit-state-7");
    }
}
