//! The variables that mark a process as ours, read from the text of an environment.

use snakepit_proto::env;

use crate::id::{RunId, WorkerId};

/// What an environment says about where its process comes from. What cannot be parsed counts as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tags {
    /// The run that started it.
    pub run_id: Option<RunId>,
    /// The worker it is, or belongs to.
    pub worker_id: Option<WorkerId>,
    /// The runs outside of that one, outermost first.
    pub outer_run_ids: Vec<RunId>,
    /// The host of the run, in the form of [`env::HOST`](crate::launch::env::HOST).
    pub host: Option<String>,
    /// The application of the host, in the form of [`env::APP`](crate::launch::env::APP).
    pub app: Option<String>,
}

impl Tags {
    /// Reads them from variables that end with NUL. The first of several with one name counts, as in
    /// getenv(3); what cannot be parsed counts as absent.
    pub(super) fn parse(environ: &[u8]) -> Self {
        let mut tags = Self::default();
        let mut seen = [false; 5];
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
            let names = [
                env::RUN_ID,
                env::WORKER_ID,
                env::OUTER_RUN_IDS,
                env::HOST,
                env::APP,
            ];
            let Some(which) = names.iter().position(|&known| known == name) else {
                continue;
            };
            if std::mem::replace(&mut seen[which], true) {
                continue;
            }
            match which {
                0 => tags.run_id = value.parse().ok(),
                1 => tags.worker_id = value.parse().ok().map(WorkerId),
                2 => tags.outer_run_ids = value.split(':').filter_map(|id| id.parse().ok()).collect(),
                3 => tags.host = Some(value.to_owned()),
                _ => tags.app = Some(value.to_owned()),
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
             SNAKEPIT_OUTER_RUN_IDS={outer}:nonsense\0SNAKEPIT_CHANNEL=fd:0\0XSNAKEPIT_RUN_ID=1\0\
             SNAKEPIT_HOST=1.2.3.b\0SNAKEPIT_APP=app\0"
        );
        let expected = Tags {
            run_id: Some(run),
            worker_id: Some(WorkerId(7)),
            outer_run_ids: vec![outer],
            host: Some("1.2.3.b".to_owned()),
            app: Some("app".to_owned()),
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
