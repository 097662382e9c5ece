//! What host and worker say to each other before the first call.

use snakepit_proto::{
    PROTOCOL_VERSIONS,
    v1::{AdapterReport, HandshakeRequest, ReadyRequest, ready_response::Outcome},
};

use super::{ChannelSpec, Control, GrpcWorkerSpec, host, monitor};
use crate::{id::WorkerId, rpc::RemoteError, worker::StartErrorKind};

/// What a worker says of itself.
pub(super) struct Agreed {
    pub(super) concurrency: usize,
    pub(super) keeps_journal: bool,
    pub(super) beats: bool,
    pub(super) calls_host: bool,
    pub(super) ends_sessions: bool,
    pub(super) takes_input: bool,
    pub(super) maps_arena: bool,
    pub(super) takes_calls: bool,
    pub(super) takes_batches: bool,
}

/// Shakes hands.
pub(super) async fn handshake(
    spec: &GrpcWorkerSpec,
    id: WorkerId,
    mut control: Control,
) -> Result<Agreed, StartErrorKind> {
    let (kind, asked) = spec.concurrency.asked();
    let request = HandshakeRequest {
        protocol_versions: PROTOCOL_VERSIONS.to_vec(),
        run_id: spec.run_id.to_string(),
        worker_id: id.0,
        host_version: env!("CARGO_PKG_VERSION").to_owned(),
        adapters: spec.adapters.clone(),
        paths: spec.paths.iter().map(|path| path.display().to_string()).collect(),
        log_level: spec.log_level,
        concurrency: asked,
        concurrency_kind: kind.into(),
        host_functions: spec.host_functions.names().map(str::to_owned).collect(),
        host_calls: host::UNDER_WAY as u32,
        beat_ms: match spec.channel {
            ChannelSpec::Inherited => monitor::beat_ms(spec.heartbeat.interval),
            ChannelSpec::UnixIn(_) => 0,
        },
    };
    let answer = control
        .handshake(request)
        .await
        .map_err(|status| channel_error(&status))?
        .into_inner();
    if PROTOCOL_VERSIONS.contains(&answer.protocol_version) {
        let concurrency = spec.concurrency.agreed(answer.concurrency);
        if concurrency < asked as usize {
            tracing::warn!(worker = %id, asked, concurrency, "the worker runs fewer calls at the same time than it was asked to");
        }
        let has = |name| answer.capabilities.iter().any(|ability| ability == name);
        Ok(Agreed {
            concurrency,
            keeps_journal: has("journal"),
            beats: has("beats"),
            calls_host: has("host"),
            ends_sessions: has("session"),
            takes_input: has("input"),
            maps_arena: has("arena"),
            takes_calls: has("calls"),
            takes_batches: has("batch"),
        })
    } else {
        let theirs = answer.protocol_versions;
        Err(StartErrorKind::ProtocolVersion {
            ours: PROTOCOL_VERSIONS.to_vec(),
            theirs,
        })
    }
}

pub(super) async fn ready(mut control: Control) -> Result<AdapterReport, StartErrorKind> {
    let answer = control
        .ready(ReadyRequest {})
        .await
        .map_err(|status| channel_error(&status))?
        .into_inner();
    match answer.outcome {
        Some(Outcome::Ready(adapters)) => Ok(adapters),
        Some(Outcome::Error(error)) => Err(StartErrorKind::Adapter(Box::new(RemoteError::from(error)))),
        None => Err(StartErrorKind::Protocol("Ready without an outcome".into())),
    }
}

fn channel_error(status: &tonic::Status) -> StartErrorKind {
    StartErrorKind::Channel(format!("{:?}: {}", status.code(), status.message()))
}
