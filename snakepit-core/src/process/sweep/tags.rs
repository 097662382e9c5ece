//! The variables that mark a process as ours, read from the text of an environment.

use snakepit_proto::env;

use crate::id::{RunId, WorkerId};

/// What an environment says about where its process comes from.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) run_id: Option<RunId>,
    pub(super) worker_id: Option<WorkerId>,
    pub(super) outer_run_ids: Vec<RunId>,
}

impl Tags {
    /// Reads them from variables that end with NUL. The first of several with one name counts, as in
    /// getenv(3); what cannot be parsed counts as absent.
    pub(super) fn parse(environ: &[u8]) -> Self {
        let mut tags = Self::default();
        let mut seen = [false; 3];
        for variable in environ.split(|&byte| byte == 0) {
            // All names of ours begin like this; nearly all variables of a process do not.
            if !variable.starts_with(b"SNAKEPIT_") {
                continue;
            }
            let Ok(text) = std::str::from_utf8(variable) else {
                continue;
            };
            let Some((name, value)) = text.split_once('=') else {
                continue;
            };
            let names = [env::RUN_ID, env::WORKER_ID, env::OUTER_RUN_IDS];
            let Some(which) = names.iter().position(|&known| known == name) else {
                continue;
            };
            if std::mem::replace(&mut seen[which], true) {
                continue;
            }
            match which {
                0 => tags.run_id = value.parse().ok(),
                1 => tags.worker_id = value.parse().ok().map(WorkerId),
                _ => tags.outer_run_ids = value.split(':').filter_map(|id| id.parse().ok()).collect(),
            }
        }
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_first_of_each_and_ignores_the_rest() {
        let (run, outer) = (RunId::random(), RunId::random());
        let text = format!(
            "PATH=/bin\0SNAKEPIT_RUN_ID={run}\0SNAKEPIT_WORKER_ID=7\0SNAKEPIT_WORKER_ID=8\0\
             SNAKEPIT_OUTER_RUN_IDS={outer}:nonsense\0SNAKEPIT_CHANNEL=fd:0\0XSNAKEPIT_RUN_ID=1\0"
        );
        let expected = Tags {
            run_id: Some(run),
            worker_id: Some(WorkerId(7)),
            outer_run_ids: vec![outer],
        };
        assert_eq!(Tags::parse(text.as_bytes()), expected);
    }

    #[test]
    fn what_is_not_an_id_is_absent() {
        for text in [
            &b""[..],
            b"\0\0",
            b"SNAKEPIT_RUN_ID",
            b"SNAKEPIT_RUN_ID=",
            b"SNAKEPIT_RUN_ID=\xff\xfe",
            b"SNAKEPIT_WORKER_ID=-1",
        ] {
            assert_eq!(Tags::parse(text), Tags::default(), "{text:?}");
        }
    }
}
