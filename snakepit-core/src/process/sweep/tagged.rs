//! Every process that carries a run in its environment.

use std::io;

use super::{
    super::{
        Member, ProcessIdentity, ourselves_and_ancestors,
        proc_dir::{self, EXEC_LOOKS, EXEC_PAUSE, Environ, is_gone},
    },
    Tags,
    scan::is_refused,
};

/// A living process that carries a run in its environment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tagged {
    /// Who it is.
    pub identity: ProcessIdentity,
    /// What its environment says.
    pub tags: Tags,
    /// Whether it is this very process or an ancestor of it, which a [`sweep`](super::sweep) leaves out.
    pub is_ours: bool,
}

/// Looks once at every process of the machine and returns those that carry a run. Blocks, and keeps no descriptors
/// open: what it returns has to be opened anew by its identity.
///
/// What cannot be looked into (another user's) is left out.
///
/// # Errors
/// What reading `/proc` answers, as with `EMFILE`.
pub fn tagged() -> io::Result<Vec<Tagged>> {
    let ours = ourselves_and_ancestors()?;
    let proc = proc_dir::open()?;
    let mut pids = proc_dir::pids_in(&proc)?;
    let mut found = Vec::new();
    let mut buffer = Vec::with_capacity(16 * 1024);
    for _ in 0..EXEC_LOOKS {
        let mut executing = Vec::new();
        for pid in pids {
            buffer.clear();
            match proc_dir::read_environ(&proc, &format!("{pid}/"), &mut buffer) {
                Ok(Environ::Read) if Tags::parse(&buffer).run_id.is_some() => {
                    found.extend(hold(pid, ours.contains(&pid))?);
                }
                Ok(Environ::Empty) => executing.push(pid),
                Ok(Environ::Read | Environ::None) => {}
                Err(error) if is_gone(&error) || is_refused(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if executing.is_empty() {
            break;
        }
        pids = executing;
        std::thread::sleep(EXEC_PAUSE);
    }
    Ok(found)
}

/// Reads a process again while it is held, so that what is read and who it is belong together.
fn hold(pid: u32, is_ours: bool) -> io::Result<Option<Tagged>> {
    let mut tags = Tags::default();
    let held = Member::hold(pid, |dir, _| {
        let mut buffer = Vec::new();
        match dir.environ(&mut buffer) {
            Ok(Environ::Read) => tags = Tags::parse(&buffer),
            Ok(Environ::Empty | Environ::None) => {}
            Err(error) if is_refused(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(tags.run_id.is_some())
    })?;
    held.map(|member| {
        Ok(Tagged {
            identity: member.identity()?,
            tags,
            is_ours,
        })
    })
    .transpose()
}

#[cfg(test)]
mod tests {
    use snakepit_proto::env;

    use super::{super::super::testing::Child, *};
    use crate::id::{RunId, WorkerId};

    #[test]
    fn finds_a_process_with_all_that_its_environment_says() {
        let run = RunId::random();
        let vars = [
            (env::RUN_ID, run.to_string()),
            (env::WORKER_ID, "3".to_owned()),
            (env::APP, "some-app".to_owned()),
        ];
        let child = Child::start_with_env("read line", &vars);
        let found = || {
            let all = tagged().unwrap();
            all.into_iter().find(|found| found.tags.run_id == Some(run))
        };
        // It may be executing its program for longer than one look waits for.
        let it = (0..1000).find_map(|_| found()).expect("it lives");
        assert_eq!((it.identity.pid, it.is_ours), (child.pid(), false));
        assert_eq!(it.tags.worker_id, Some(WorkerId(3)));
        assert_eq!(it.tags.app.as_deref(), Some("some-app"));
        child.kill_unreaped();
        assert!(found().is_none());
    }
}
