//! Which service answers a request, by the prefix of its path.

use std::{convert::Infallible, future::Future, pin::Pin, sync::OnceLock};

use http::{Request, Response};
use hyper::body::Incoming;
use snakepit_proto::{
    MAX_HOST_MESSAGE,
    v1::{FILE_DESCRIPTOR_SET, worker_control_server::WorkerControlServer, worker_server::WorkerServer},
};
use tonic::{Status, body::Body};
use tonic_health::{
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower_service::Service;

use crate::{control::Control, data::Data};

/// The largest message either way: the protocol's own 32-bit length allows no more.
const MAX_MESSAGE: usize = i32::MAX as usize;

/// An answer to come.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;
type Route = Box<dyn Fn(Request<Incoming>) -> Reply + Send + Sync>;

/// The services of one kind of connection.
pub(crate) struct Router {
    routes: Vec<(&'static str, Route)>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|(prefix, _)| prefix))
            .finish()
    }
}

impl Router {
    /// Routes to nothing.
    pub(crate) fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Adds the service that runs calls.
    pub(crate) fn with_data(mut self, data: Data) -> Self {
        let server = WorkerServer::new(data)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        self.routes.push(("/snakepit.worker.v1.Worker/", route(server)));
        self
    }

    /// Adds control, health and reflection.
    pub(crate) fn with_control(mut self, control: Control, health: HealthReporter) -> Self {
        let health = HealthServer::new(HealthService::from_health_reporter(health));
        self.routes.push((
            "/snakepit.worker.v1.WorkerControl/",
            route(WorkerControlServer::new(control).max_decoding_message_size(MAX_HOST_MESSAGE)),
        ));
        self.routes.push(("/grpc.health.v1.Health/", route(health)));
        self.routes
            .push(("/grpc.reflection.v1.ServerReflection/", reflection_v1()));
        self.routes
            .push(("/grpc.reflection.v1alpha.ServerReflection/", reflection_v1alpha()));
        self
    }

    /// Answers one request.
    pub(crate) fn route(&self, request: Request<Incoming>) -> Reply {
        let path = request.uri().path();
        match self.routes.iter().find(|(prefix, _)| path.starts_with(prefix)) {
            Some((_, route)) => route(request),
            None => unimplemented_service(path),
        }
    }
}

fn unimplemented_service(path: &str) -> Reply {
    let status = Status::unimplemented(format!("this connection serves no {path}"));
    Box::pin(std::future::ready(Ok(status.into_http())))
}

fn route<S>(service: S) -> Route
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    Box::new(move |request| Box::pin(service.clone().call(request)))
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// Reflection decodes descriptors, which costs a start more than most workers ever need: done on first use.
fn reflection_v1() -> Route {
    let built = OnceLock::new();
    Box::new(
        move |request| match built.get_or_init(|| reflection().build_v1().map(route)) {
            Ok(route) => route(request),
            Err(error) => broken_reflection(error),
        },
    )
}

/// The same for the older name of the service, which many tools still ask for.
fn reflection_v1alpha() -> Route {
    let built = OnceLock::new();
    Box::new(
        move |request| match built.get_or_init(|| reflection().build_v1alpha().map(route)) {
            Ok(route) => route(request),
            Err(error) => broken_reflection(error),
        },
    )
}

fn broken_reflection(error: &tonic_reflection::server::Error) -> Reply {
    let status = Status::internal(format!("failed to build the reflection service: {error}"));
    Box::pin(std::future::ready(Ok(status.into_http())))
}
