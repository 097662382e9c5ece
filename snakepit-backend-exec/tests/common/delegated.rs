//! A cgroup that is another user's, as systemd's `Delegate=yes` gives one.

use std::{
    fs,
    io::Read,
    os::unix::fs::chown,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use snakepit_core::{RunId, process::cgroup::Cgroup};

/// What a user must own to manage what is below: cgroups(7), "Cgroup delegation".
const FILES: [&str; 4] = ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// Removed, with all that is in it, when dropped.
pub struct Delegated {
    cgroup: Cgroup,
    /// Where processes begin: the cgroup itself must have none, to hand its controllers on.
    inside: Cgroup,
    inhabitant: Option<Child>,
}

impl Delegated {
    /// For a user. `None` where no cgroup can be made.
    pub fn to(user: u32) -> Option<Self> {
        let delegated = Self::make()?;
        delegated.inside.create().expect("it is ours");
        for cgroup in [&delegated.cgroup, &delegated.inside] {
            for file in FILES {
                chown(cgroup.path().join(file), Some(user), Some(user)).expect("we are root");
            }
        }
        Some(delegated)
    }

    /// One that has a process itself, as the cgroup of a service has.
    pub fn inhabited() -> Option<Self> {
        let mut delegated = Self::make()?;
        delegated.inside = delegated.cgroup.clone();
        let mut inhabitant = delegated.command();
        inhabitant.args(["sh", "-c", "echo; read line"]);
        let mut inhabitant = inhabitant
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is there");
        let mut stdout = inhabitant.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0]).expect("it is in");
        delegated.inhabitant = Some(inhabitant);
        Some(delegated)
    }

    /// With the controllers that there are. `None`, and said so, where no cgroup can be made.
    fn make() -> Option<Self> {
        let own = match std::env::var_os(super::DELEGATED) {
            Some(path) => Some(Cgroup::at(path)),
            None => Cgroup::own().expect("/proc is readable"),
        };
        let made = own.ok_or_else(|| std::io::Error::other("cgroup v2 is not mounted"));
        let made = made.and_then(|own| {
            let cgroup = own.child(&format!("snakepit-test-{}", RunId::random()));
            cgroup.create()?;
            Ok((own, cgroup))
        });
        let (own, cgroup) = match made {
            Ok(made) => made,
            Err(error) => {
                eprintln!("SKIPPED: no cgroup can be delegated here: {error}");
                return None;
            }
        };
        let inside = cgroup.child("tests");
        for controller in ["cpu", "memory", "pids"] {
            hand_on(&own, controller);
        }
        Some(Self {
            cgroup,
            inside,
            inhabitant: None,
        })
    }

    /// Whether the level is to be had with it: not before Linux 5.14.
    pub fn is_enough(&self) -> bool {
        self.cgroup.can_kill()
    }

    pub fn path(&self) -> &Path {
        self.cgroup.path()
    }

    /// Starts in it what the further arguments name.
    pub fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]);
        command.arg(self.inside.path().join("cgroup.procs"));
        command
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        if let Some(mut inhabitant) = self.inhabitant.take() {
            // Killed by its number, which is its own until it is reaped.
            let _ = inhabitant.kill();
            let _ = inhabitant.wait();
        }
        for done in [self.cgroup.kill(), self.cgroup.remove(Duration::from_secs(10))] {
            if let Err(error) = done {
                eprintln!("{}: {error}", self.cgroup.path().display());
            }
        }
    }
}

/// Hands a controller on to the cgroups below this one; says so where that is not possible.
fn hand_on(cgroup: &Cgroup, controller: &str) {
    let file = |name: &str| cgroup.path().join(name);
    let is_handed_on = |text: String| text.split_whitespace().any(|name| name == controller);
    if fs::read_to_string(file("cgroup.subtree_control")).is_ok_and(is_handed_on) {
        return;
    }
    // Where it has a type it is not the root, and no process can be below it that hands controllers on and has one itself.
    let inhabitants = fs::read_to_string(file("cgroup.procs")).unwrap_or_default();
    let done = if file("cgroup.type").exists() && !inhabitants.is_empty() {
        Err(std::io::Error::other("it has processes itself"))
    } else {
        fs::write(file("cgroup.subtree_control"), format!("+{controller}"))
    };
    if let Err(error) = done {
        let path = cgroup.path().display();
        eprintln!("SKIPPED: no {controller} controller in {path}: {error}");
    }
}
