//! From the host's SIGKILL to the end of the last process.

use std::{fmt, time::Duration};

use snakepit_core::process::Stat;
use tokio::time::Instant;

use crate::{
    Result,
    crowd::{Crowd, MADE_AHEAD, One},
    host::Plan,
    options::Options,
    record::Record,
    role::Role,
    systems::System,
    work::Work,
};

/// Workers of each host, and namespaces of the kernel's figure.
pub(crate) const WORKERS: usize = 100;

/// Longer than any of them needs, on any machine.
const BOUND: Duration = Duration::from_secs(60);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// The inits of namespaces made directly.
    Kernel,
    /// The inits of the namespace level's own workers, while their host and its guardian are stopped.
    Keepers(Work),
    /// A host.
    Host(System, Work),
}

impl Victim {
    /// All that are compared, foreign programs first.
    pub(crate) const ALL: [Self; 8] = [
        Self::Kernel,
        Self::Host(System::Namespace, Work::Sleepers),
        Self::Host(System::Shared, Work::Sleepers),
        Self::Host(System::Cgroup, Work::Sleepers),
        Self::Host(System::Subreaper, Work::Sleepers),
        Self::Keepers(Work::Python),
        Self::Host(System::Namespace, Work::Python),
        Self::Host(System::Port, Work::Python),
    ];

    /// What its ratio is taken to.
    pub(crate) fn base(self) -> Self {
        match self {
            Self::Kernel | Self::Host(_, Work::Sleepers) => Self::Kernel,
            Self::Keepers(_) | Self::Host(..) => Self::Keepers(Work::Python),
        }
    }

    /// The record's name of the time, in milliseconds.
    pub(crate) fn key(self) -> String {
        format!("kill/{self}/ms")
    }

    /// Whether it can be measured where these systems are available.
    fn is_possible(self, available: &[System]) -> bool {
        match self {
            Self::Kernel => true,
            Self::Keepers(_) => available.contains(&System::Namespace),
            Self::Host(system, _) => available.contains(&system),
        }
    }

    fn once(self) -> Result<Duration> {
        let sleepers = match self {
            Self::Kernel | Self::Host(_, Work::Sleepers) => 2 * WORKERS,
            Self::Keepers(_) | Self::Host(..) => WORKERS,
        };
        let mut role = match self {
            Self::Kernel => Role::start("namespaces", &WORKERS.to_string())?,
            Self::Keepers(work) => Role::host(&Plan::new(System::Namespace, work, WORKERS))?,
            Self::Host(system, work) => Role::host(&Plan::new(system, work, WORKERS))?,
        };
        role.ready()?;
        let crowd = Crowd::gather(&self.to_string(), |crowd| crowd.named("sleep") == sleepers)?;
        let (began, crowd) = match self {
            Self::Host(..) => (role.kill()?, crowd),
            Self::Kernel => {
                let inits = crowd.children_of(role.pid());
                (
                    kill_each(&inits)?,
                    crowd.only(|one| one.pidfd.pid() != role.pid()),
                )
            }
            Self::Keepers(_) => {
                let [guardian] = &crowd.children_of(role.pid())[..] else {
                    return Err("a host of the exec backend has one child, its guardian".into());
                };
                let guardian = guardian.pidfd.pid();
                for one in crowd
                    .children_of(std::process::id())
                    .iter()
                    .chain(&crowd.children_of(role.pid()))
                {
                    stop(one)?;
                }
                // What was made ahead is no worker yet, and is killed by nobody here.
                let below = |keeper: &One| crowd.children_of(keeper.pidfd.pid());
                let (keepers, ahead): (Vec<_>, Vec<_>) = crowd
                    .children_of(guardian)
                    .into_iter()
                    .partition(|keeper| below(keeper).iter().any(|one| one.name != MADE_AHEAD));
                let began = kill_each(&keepers)?;
                let mut stay = vec![role.pid(), guardian];
                for keeper in &ahead {
                    stay.push(keeper.pidfd.pid());
                    stay.extend(below(keeper).iter().map(|one| one.pidfd.pid()));
                }
                let crowd = crowd.only(|one| !stay.contains(&one.pidfd.pid()));
                (began, crowd)
            }
        };
        let gone = crowd.gone(began, BOUND);
        gone.ok_or_else(|| format!("{self}: something is left after {BOUND:?}").into())
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => write!(f, "foreign programs: the kernel, inits killed directly"),
            Self::Keepers(_) => write!(f, "Python workers: the kernel, inits killed directly"),
            Self::Host(system, Work::Sleepers) => write!(f, "foreign programs: {system}"),
            Self::Host(system, _) => write!(f, "Python workers: {system}"),
        }
    }
}

/// SIGKILL for each; when the first was sent.
fn kill_each(all: &[One]) -> Result<Instant> {
    if all.len() != WORKERS {
        return Err(format!("there are {} inits, not {WORKERS}", all.len()).into());
    }
    let began = Instant::now();
    for one in all {
        one.pidfd.signal(libc::SIGKILL)?;
    }
    Ok(began)
}

/// SIGSTOP, and waits until it has stopped.
fn stop(one: &One) -> Result<()> {
    one.pidfd.signal(libc::SIGSTOP)?;
    while Stat::read(one.pidfd.pid())?.state != b'T' {
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// Runs the rounds, each in another order.
pub(crate) fn measure(available: &[System], options: &Options, record: &mut Record) -> Result<()> {
    let mut victims = Victim::ALL.to_vec();
    victims.retain(|victim| victim.is_possible(available));
    for round in 0..options.rounds {
        eprintln!("kill: round {} of {}", round + 1, options.rounds);
        for victim in &victims {
            let took = victim.once()?;
            record.push(victim.key(), took.as_secs_f64() * 1e3);
        }
        victims.rotate_left(1);
    }
    Ok(())
}
