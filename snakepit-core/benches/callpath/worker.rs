//! A worker that costs nothing: it answers what it was given.

use std::{
    convert::Infallible,
    future::poll_fn,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixStream},
};

use async_trait::async_trait;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use snakepit_proto::{
    PROTOCOL_VERSIONS, frames, preamble,
    v1::{
        AdapterReport, CallRequest, CallResponse, CancelRequest, CancelResponse, Event, EventsRequest,
        HandshakeRequest, HandshakeResponse, HostRequest, HostResponse, PingRequest, PingResponse,
        ReadyRequest, ReadyResponse, ShutdownRequest, ShutdownResponse, StreamRequest, StreamResponse,
        call_response::Outcome,
        ready_response,
        stream_request::Message as Asked,
        stream_response::Message as Told,
        worker_control_server::{WorkerControl, WorkerControlServer},
        worker_server::{Worker, WorkerServer},
    },
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming, body::Body, codegen::Service as _};

/// Serves the channel on standard input, until the host closes it or has the worker leave.
pub(crate) async fn serve() {
    let (data, [control, calls]) = inherited();
    // However one of them ends, the worker does, too.
    tokio::select! {
        () = connection(data) => {}
        () = connection(control) => {}
        () = answer_calls(calls) => {}
    }
}

/// What the preamble brings.
fn inherited() -> (UnixStream, [UnixStream; 2]) {
    let data = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let mut bytes = [0; preamble::LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let read = recvmsg(&data, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
    assert_eq!(read.unwrap().bytes, preamble::LEN);
    let sent = ancillary.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut sent = sent.flatten().map(UnixStream::from);
    (data.into(), [sent.next().unwrap(), sent.next().unwrap()])
}

async fn connection(socket: UnixStream) {
    socket.set_nonblocking(true).unwrap();
    let stream = tokio::net::UnixStream::from_std(socket).unwrap();
    let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
        let control = request
            .uri()
            .path()
            .starts_with("/snakepit.worker.v1.WorkerControl/");
        let answer: http::Response<Body> = if control {
            WorkerControlServer::new(Echo).call(request).await?
        } else {
            WorkerServer::new(Echo).call(request).await?
        };
        Ok::<_, Infallible>(answer)
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // Its end is what there is to tell.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer_calls(socket: UnixStream) {
    let (mut requests, mut answers) = frames::split(socket).unwrap();
    while let Ok(Some(request)) = poll_fn(|cx| requests.poll_next(cx)).await {
        assert!(answers.send(&answer(request)).unwrap(), "few are under way");
    }
}

#[derive(Clone, Copy)]
struct Echo;

type Nothing<T> = tokio_stream::Pending<Result<T, Status>>;

#[async_trait]
impl WorkerControl for Echo {
    type EventsStream = Nothing<Event>;
    type HostStream = Nothing<HostRequest>;

    async fn handshake(&self, _: Request<HandshakeRequest>) -> Result<Response<HandshakeResponse>, Status> {
        Ok(Response::new(HandshakeResponse {
            protocol_version: PROTOCOL_VERSIONS[0],
            protocol_versions: PROTOCOL_VERSIONS.to_vec(),
            capabilities: vec!["calls".to_owned()],
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
        // The host ends what has not left.
        Ok(Response::new(ShutdownResponse {}))
    }

    async fn events(&self, _: Request<EventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }

    async fn host(&self, _: Request<Streaming<HostResponse>>) -> Result<Response<Self::HostStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

fn answer(request: CallRequest) -> CallResponse {
    let CallRequest { call_id, args, .. } = request;
    CallResponse {
        call_id,
        outcome: Some(Outcome::Value(args)),
    }
}

#[async_trait]
impl Worker for Echo {
    type CallStreamStream = ReceiverStream<Result<StreamResponse, Status>>;

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        Ok(Response::new(answer(request.into_inner())))
    }

    /// Yields as many items as the first byte of the arguments' one number says, and no more than it has credit for.
    async fn call_stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::CallStreamStream>, Status> {
        let mut requests = request.into_inner();
        let (items, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut left = None;
            while let Some(Ok(request)) = requests.next().await {
                let (call_id, credit) = match request.message {
                    Some(Asked::Start(start)) => {
                        let call = start.call.unwrap_or_default();
                        left = Some((call.call_id, call.args[1]));
                        (call.call_id, start.credit)
                    }
                    Some(Asked::Credit(credit)) => (left.map_or(0, |(id, _)| id), credit),
                    None => continue,
                };
                for _ in 0..credit {
                    let Some((_, more)) = left.as_mut().filter(|(_, more)| *more > 0) else {
                        return;
                    };
                    *more -= 1;
                    // MessagePack's zero.
                    let message = Some(Told::Item(vec![0].into()));
                    if items.send(Ok(StreamResponse { call_id, message })).await.is_err() {
                        return;
                    }
                }
                if matches!(left, Some((_, 0))) {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
