//! Who is left when somebody is killed, of five processes that are hard to end.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    Result, crowd::Crowd, host::Plan, options::Options, record::Record, role::Role, systems::System,
    work::Work,
};

/// How long whoever is left is waited for. The peers were given the same.
const BOUND: Duration = Duration::from_secs(12);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Killed {
    /// The host.
    Host,
    /// The guardian, while the host lives on.
    Guardian,
    /// The guardian, and at once the host.
    Both,
}

impl Killed {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Host, Self::Guardian, Self::Both];
}

/// Who is looked at: a system, and whether its worker is Python's.
pub(crate) const SUBJECTS: [(System, Work); 6] = [
    (System::Namespace, Work::Tree),
    (System::Shared, Work::Tree),
    (System::Cgroup, Work::Tree),
    (System::Subreaper, Work::Tree),
    (System::Port, Work::PythonTree),
    (System::Port, Work::Tree),
];

/// What became of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) system: System,
    pub(crate) work: Work,
    pub(crate) killed: Killed,
    /// Who was left in any round.
    pub(crate) left: BTreeSet<String>,
    /// When the last of the others had ended, in the slowest round.
    pub(crate) last: Duration,
}

fn key(system: System, work: Work, killed: Killed) -> String {
    format!("left/{system}/{work:?}/{killed:?}/count")
}

/// How many were left of a foreign program's tree, every round of every case.
pub(crate) fn counts(record: &Record, system: System) -> Vec<f64> {
    let of = |killed| record.values(&key(system, Work::Tree, killed)).to_vec();
    Killed::ALL.map(of).concat()
}

/// Looks at each, several times as long as nobody is left.
pub(crate) fn measure(available: &[System], options: &Options, record: &mut Record) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    for (system, work) in SUBJECTS {
        if !available.contains(&system) {
            continue;
        }
        for killed in Killed::ALL {
            if system == System::Port && killed != Killed::Host {
                continue;
            }
            eprintln!("left: {system}, {killed:?} killed");
            let mut outcome = Outcome {
                system,
                work,
                killed,
                left: BTreeSet::new(),
                last: Duration::ZERO,
            };
            for _ in 0..options.rounds {
                let (left, last) = once(system, work, killed)?;
                record.push(key(system, work, killed), left.len() as f64);
                outcome.left.extend(left);
                outcome.last = outcome.last.max(last);
                if !outcome.left.is_empty() {
                    break;
                }
            }
            outcomes.push(outcome);
        }
    }
    Ok(outcomes)
}

fn once(system: System, work: Work, killed: Killed) -> Result<(Vec<String>, Duration)> {
    let mut host = Role::host(&Plan::new(system, work, 1))?;
    host.ready()?;
    let crowd = Crowd::gather("the tree", Crowd::has_tree)?;
    let began = if killed == Killed::Host {
        host.kill()?
    } else {
        let [guardian] = &crowd.children_of(host.pid())[..] else {
            return Err("a host of the exec backend has one child, its guardian".into());
        };
        let began = Instant::now();
        guardian.pidfd.signal(libc::SIGKILL)?;
        if killed == Killed::Both {
            host.kill()?;
        }
        began
    };
    let alive = (killed == Killed::Guardian).then(|| host.pid());
    Ok(crowd
        .only(|one| Some(one.pidfd.pid()) != alive)
        .left(began, BOUND))
}
