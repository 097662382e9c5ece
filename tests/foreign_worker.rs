//! Programs that are not our runtime: what they must speak, and what is said when they do not.
//!
//! This test binary is the program: started by a pool it serves the protocol, on a Unix path or not at all.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod common;

use std::{env, error::Error, path::PathBuf, sync::LazyLock, time::Duration};

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use snakepit::{
    Concurrency, PoolBuilder, PoolError, PoolStartError, SessionMode, StartErrorKind,
    core::worker::ChannelSpec,
};
use snakepit_proto::v1::{
    AdapterReport, CallRequest, CallResponse, CancelRequest, CancelResponse, Event, EventsRequest,
    HandshakeRequest, HandshakeResponse, HostRequest, HostResponse, PingRequest, PingResponse, ReadyRequest,
    ReadyResponse, ShutdownRequest, ShutdownResponse, StreamRequest, StreamResponse,
    call_response::Outcome,
    ready_response,
    worker_control_server::{WorkerControl, WorkerControlServer},
    worker_server::{Worker, WorkerServer},
};
use tokio::{net::UnixListener, sync::Barrier};
use tonic::{Request, Response, Status, Streaming, body::Body, codegen::Service as _};

/// The protocol version our worker speaks; unset for one that never answers.
const SPEAKS: &str = "FOREIGN_WORKER_SPEAKS";
/// How many calls our worker says that it runs at the same time.
const RUNS: &str = "FOREIGN_WORKER_RUNS";

type Empty<T> = tokio_stream::Empty<Result<T, Status>>;

#[derive(Clone, Copy)]
struct Foreign {
    version: u32,
    concurrency: u32,
}

#[async_trait]
impl WorkerControl for Foreign {
    type EventsStream = Empty<Event>;
    type HostStream = Empty<HostRequest>;

    async fn handshake(&self, _: Request<HandshakeRequest>) -> Result<Response<HandshakeResponse>, Status> {
        Ok(Response::new(HandshakeResponse {
            protocol_version: if self.version == 1 { 1 } else { 0 },
            protocol_versions: vec![self.version],
            pid: std::process::id(),
            concurrency: self.concurrency,
            ..HandshakeResponse::default()
        }))
    }

    async fn ready(&self, _: Request<ReadyRequest>) -> Result<Response<ReadyResponse>, Status> {
        let outcome = Some(ready_response::Outcome::Ready(AdapterReport::default()));
        Ok(Response::new(ReadyResponse { outcome }))
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse::default()))
    }

    async fn cancel(&self, _: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        Ok(Response::new(CancelResponse { was_running: false }))
    }

    async fn shutdown(&self, _: Request<ShutdownRequest>) -> Result<Response<ShutdownResponse>, Status> {
        tokio::spawn(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            std::process::exit(0);
        });
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }

    async fn host(&self, _: Request<Streaming<HostResponse>>) -> Result<Response<Self::HostStream>, Status> {
        Err(Status::unimplemented("it does not have the capability"))
    }
}

#[async_trait]
impl Worker for Foreign {
    type CallStreamStream = Empty<StreamResponse>;

    /// Answers the arguments; `meet` when three calls of it are here.
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        static THREE: LazyLock<Barrier> = LazyLock::new(|| Barrier::new(3));
        let CallRequest {
            call_id,
            function,
            args,
            ..
        } = request.into_inner();
        if function == "meet" {
            THREE.wait().await;
        }
        Ok(Response::new(CallResponse {
            call_id,
            outcome: Some(Outcome::Value(args)),
        }))
    }

    async fn call_stream(
        &self,
        _: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::CallStreamStream>, Status> {
        Ok(Response::new(tokio_stream::empty()))
    }
}

async fn serve(path: &str, foreign: Foreign) -> Result<(), Box<dyn Error>> {
    let listener = UnixListener::bind(path)?;
    let (stream, _) = listener.accept().await?;
    let service =
        hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| async move {
            let path = request.uri().path().to_owned();
            let answer: http::Response<Body> = if path.starts_with("/snakepit.worker.v1.WorkerControl/") {
                WorkerControlServer::new(foreign).call(request).await?
            } else {
                WorkerServer::new(foreign).call(request).await?
            };
            Ok::<_, std::convert::Infallible>(answer)
        });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}

/// Not a test: the program that the pools of this file start.
#[tokio::test]
#[ignore = "started by the other tests as their worker"]
async fn serves_as_a_worker() {
    let Ok(channel) = env::var(snakepit_proto::env::CHANNEL) else {
        return;
    };
    match (channel.strip_prefix("unix:"), env::var(SPEAKS)) {
        (Some(path), Ok(version)) => serve(
            path,
            Foreign {
                version: version.parse().unwrap(),
                concurrency: env::var(RUNS).map_or(0, |runs| runs.parse().unwrap()),
            },
        )
        .await
        .unwrap(),
        _ => std::future::pending().await,
    }
}

fn pool_of_this(sockets: &tempfile::TempDir) -> PoolBuilder {
    let this: PathBuf = env::current_exe().unwrap();
    common::plain_builder()
        .workers(1)
        .program(this, ["--exact", "serves_as_a_worker", "--ignored"])
        .channel(ChannelSpec::UnixIn(sockets.path().to_owned()))
        .start_timeout(Duration::from_secs(60))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_any_language_that_serves_the_protocol_is_a_worker() {
    let sockets = tempfile::tempdir().unwrap();
    let pool = pool_of_this(&sockets).env(SPEAKS, "1").start().await.unwrap();
    let answer: (i64, String) = pool.call("whatever", (1, "one")).await.unwrap();
    assert_eq!(answer, (1, "one".to_owned()));
    let pid = common::worker_pid(&pool).await;
    pool.shutdown().await;
    assert!(common::is_gone(pid));
    let left: Vec<_> = std::fs::read_dir(sockets.path()).unwrap().collect();
    assert!(left.is_empty(), "the worker's socket was left behind: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_runs_several_calls_is_lent_to_as_many_and_never_to_more_than_was_asked_for() {
    for (says, asked, lent) in [
        ("3", Concurrency::One, 3),
        ("5", Concurrency::Threads(3), 3),
        ("1", Concurrency::Threads(3), 1),
    ] {
        let sockets = tempfile::tempdir().unwrap();
        let pool = pool_of_this(&sockets).env(SPEAKS, "1").env(RUNS, says);
        let pool = pool.concurrency(asked).start().await.unwrap();
        assert_eq!(pool.status().await.workers[0].concurrency, lent);
        if lent == 3 {
            let meet = || pool.call::<_, (u32,)>("meet", (7,));
            let answers = tokio::try_join!(meet(), meet(), meet()).unwrap();
            assert_eq!(answers, ((7,), (7,), (7,)));
        }
        pool.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_a_worker_that_knows_nothing_of_sessions_and_is_not_told_of_its_end() {
    let sockets = tempfile::tempdir().unwrap();
    let pool = pool_of_this(&sockets)
        .workers(2)
        .env(SPEAKS, "1")
        .start()
        .await
        .unwrap();
    let session = pool.session(SessionMode::StrictQueue);
    for number in 0..5 {
        let answer: (u32,) = session.call("whatever", (number,)).await.unwrap();
        assert_eq!(answer, (number,));
    }
    let home = session.worker();
    session.end().await.unwrap();
    let status = pool.status().await;
    let worker = status
        .workers
        .iter()
        .find(|worker| worker.child.status.worker == home);
    assert_eq!(worker.unwrap().calls, 5);
    assert_eq!(status.sessions, 0);
    pool.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_version_is_refused_with_both_named() {
    let sockets = tempfile::tempdir().unwrap();
    let error = pool_of_this(&sockets)
        .env(SPEAKS, "99")
        .start()
        .await
        .unwrap_err();
    let PoolError::Pool(PoolStartError::NoWorkers { last, .. }) = error else {
        panic!("{error}")
    };
    assert!(
        matches!(last.kind, StartErrorKind::ProtocolVersion { .. }),
        "{last:?}"
    );
    assert_eq!(
        last.kind.to_string(),
        "no common protocol version: the host speaks 1, the worker 99"
    );
    assert!(common::is_gone(last.pid.unwrap()));
}
