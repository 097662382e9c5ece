//! How a row is written: JSON, by the names and values below, since version 1 of the store.
//!
//! ```json
//! {"run":"5d0f7e1c0d3b4a5f9e8d7c6b5a493827","worker":7,"state":"active","program":"/usr/bin/python3","launcher":"port",
//!  "endpoint":"fd:0","reserved_at_ms":1767225600000,
//!  "identity":{"pid":4711,"pgid":4711,"start_ticks":8934321,"handle":"254.0102030405060708",
//!              "boot_id":"2f1b6a3e-5f0c-4d0e-9a51-6f5d3c2b1a00","pid_namespace":4026531836},
//!  "containment":"namespace","keeper":{...},"cgroup":"/sys/fs/cgroup/..."}
//! ```
//!
//! `identity` is missing while the row is reserved; `handle`, `keeper` and `cgroup` where there is none. A path that is
//! not UTF-8 is an array of its bytes. Fields that are not known are ignored, so that one can be added without a new version; a
//! version is new when a reader that ignored the change would do harm.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use snakepit_core::{
    RunId, WorkerId,
    ledger::{Row, RowState},
    process::{Containment, ContainmentLevel, ProcessIdentity},
};

use crate::host::{decode_handle, encode_handle};

#[derive(Serialize, Deserialize)]
struct Written {
    run: String,
    worker: u64,
    state: State,
    program: Path8,
    launcher: String,
    endpoint: String,
    reserved_at_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    containment: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keeper: Option<Identity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<Path8>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Reserved,
    Active,
    Ending,
}

#[derive(Serialize, Deserialize)]
struct Identity {
    pid: u32,
    pgid: u32,
    start_ticks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handle: Option<String>,
    boot_id: String,
    pid_namespace: u64,
}

/// A path, as text where it is text.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Path8 {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&Path> for Path8 {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(OsStr::as_bytes(path.as_os_str()).to_owned()),
        }
    }
}

impl From<Path8> for PathBuf {
    fn from(path: Path8) -> Self {
        match path {
            Path8::Text(text) => text.into(),
            Path8::Bytes(bytes) => OsString::from_vec(bytes).into(),
        }
    }
}

impl From<&ProcessIdentity> for Identity {
    fn from(identity: &ProcessIdentity) -> Self {
        Self {
            pid: identity.pid,
            pgid: identity.pgid,
            start_ticks: identity.start_ticks,
            handle: identity.handle.as_ref().map(encode_handle),
            boot_id: identity.boot_id.clone(),
            pid_namespace: identity.pid_namespace,
        }
    }
}

impl From<Identity> for ProcessIdentity {
    fn from(written: Identity) -> Self {
        Self {
            pid: written.pid,
            pgid: written.pgid,
            start_ticks: written.start_ticks,
            handle: written.handle.as_deref().and_then(decode_handle),
            boot_id: written.boot_id,
            pid_namespace: written.pid_namespace,
        }
    }
}

/// The bytes of a row.
pub(crate) fn encode(row: &Row) -> Vec<u8> {
    let since_epoch = row.reserved_at.duration_since(SystemTime::UNIX_EPOCH);
    let written = Written {
        run: row.run_id.to_string(),
        worker: row.worker_id.0,
        state: match row.state {
            RowState::Reserved => State::Reserved,
            RowState::Active => State::Active,
            RowState::Ending => State::Ending,
        },
        program: row.program.as_path().into(),
        launcher: row.launcher.clone(),
        endpoint: row.endpoint.clone(),
        reserved_at_ms: u64::try_from(since_epoch.unwrap_or_default().as_millis()).unwrap_or(u64::MAX),
        identity: row.identity.as_ref().map(Into::into),
        containment: row.containment.level.name().to_owned(),
        keeper: row.containment.keeper.as_ref().map(Into::into),
        cgroup: row.containment.cgroup.as_deref().map(Into::into),
    };
    serde_json::to_vec(&written).expect("strings and numbers can always be written as JSON")
}

/// Why the bytes of a row cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it is not a row")]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Run(#[from] snakepit_core::id::ParseRunIdError),
    #[error("{0}")]
    Level(String),
}

/// The row of these bytes.
pub(crate) fn decode(bytes: &[u8]) -> Result<Row, DecodeError> {
    let written: Written = serde_json::from_slice(bytes)?;
    let level = written.containment.parse::<ContainmentLevel>();
    let mut containment = Containment::new(level.map_err(|error| DecodeError::Level(error.to_string()))?);
    containment.keeper = written.keeper.map(Into::into);
    containment.cgroup = written.cgroup.map(Into::into);
    Ok(Row {
        run_id: written.run.parse::<RunId>()?,
        worker_id: WorkerId(written.worker),
        program: written.program.into(),
        launcher: written.launcher,
        state: match written.state {
            State::Reserved => RowState::Reserved,
            State::Active => RowState::Active,
            State::Ending => RowState::Ending,
        },
        endpoint: written.endpoint,
        identity: written.identity.map(Into::into),
        containment,
        // Beyond the end of time there is nothing to tell apart.
        reserved_at: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(written.reserved_at_ms))
            .unwrap_or(SystemTime::UNIX_EPOCH),
    })
}

#[cfg(test)]
mod tests {
    use snakepit_core::process::PidfsHandle;

    use super::*;

    /// What version 1 wrote. It must be read for as long as there is a version 1 to read.
    const RESERVED: &str = r#"{"run":"5d0f7e1c0d3b4a5f9e8d7c6b5a493827","worker":7,"state":"reserved","program":"/usr/bin/python3","launcher":"port","endpoint":"fd:0","reserved_at_ms":1767225600000,"containment":"none"}"#;
    const ACTIVE: &str = r#"{"run":"5d0f7e1c0d3b4a5f9e8d7c6b5a493827","worker":18446744073709551615,"state":"active","program":[47,255],"launcher":"exec","endpoint":"unix:/x","reserved_at_ms":1767225600000,"identity":{"pid":4711,"pgid":4711,"start_ticks":8934321,"handle":"254.0102030405060708","boot_id":"2f1b6a3e","pid_namespace":4026531836},"containment":"namespace","keeper":{"pid":4710,"pgid":4709,"start_ticks":8934320,"boot_id":"2f1b6a3e","pid_namespace":4026531836},"cgroup":"/sys/fs/cgroup/x"}"#;

    fn reserved() -> Row {
        Row {
            run_id: "5d0f7e1c0d3b4a5f9e8d7c6b5a493827".parse().unwrap(),
            worker_id: WorkerId(7),
            program: "/usr/bin/python3".into(),
            launcher: "port".into(),
            state: RowState::Reserved,
            endpoint: "fd:0".into(),
            identity: None,
            containment: Containment::default(),
            reserved_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        }
    }

    fn active() -> Row {
        let identity = ProcessIdentity {
            pid: 4711,
            pgid: 4711,
            start_ticks: 8_934_321,
            handle: Some(PidfsHandle {
                handle_type: 254,
                bytes: (1..=8).collect(),
            }),
            boot_id: "2f1b6a3e".into(),
            pid_namespace: 4_026_531_836,
        };
        let keeper = ProcessIdentity {
            pid: 4710,
            pgid: 4709,
            start_ticks: 8_934_320,
            handle: None,
            ..identity.clone()
        };
        Row {
            worker_id: WorkerId(u64::MAX),
            state: RowState::Active,
            program: OsString::from_vec(vec![b'/', 0xff]).into(),
            launcher: "exec".into(),
            endpoint: "unix:/x".into(),
            identity: Some(identity),
            containment: Containment::new(ContainmentLevel::Namespace)
                .with_keeper(keeper)
                .with_cgroup("/sys/fs/cgroup/x"),
            ..reserved()
        }
    }

    #[test]
    fn rows_are_written_as_version_1_always_was() {
        for (row, text) in [(reserved(), RESERVED), (active(), ACTIVE)] {
            assert_eq!(String::from_utf8(encode(&row)).unwrap(), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), row);
        }
    }

    #[test]
    fn fields_that_are_not_known_are_ignored() {
        let text = RESERVED.replace(r#""worker""#, r#""colour":{"a":[1]},"worker""#);
        assert_eq!(decode(text.as_bytes()).unwrap(), reserved());
    }

    #[test]
    fn what_is_not_a_row_is_an_error() {
        for text in [
            "".to_owned(),
            "\0\0\0".to_owned(),
            RESERVED.replace("5d0f", "5d"),
            RESERVED.replace("none", "jail"),
            RESERVED.replace("reserved", "asleep"),
            RESERVED.replace("7,", "-7,"),
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
    }
}
