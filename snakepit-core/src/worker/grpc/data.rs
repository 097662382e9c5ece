//! The connection for what is called over HTTP/2, which many workers never need.

use std::{
    os::unix::net::UnixStream,
    sync::{Arc, Mutex, PoisonError},
};

use snakepit_proto::v1::worker_client::WorkerClient;
use tokio::{runtime::Handle, sync::OnceCell};

use crate::{
    rpc::{Connection, MAX_MESSAGE_LEN, error_chain},
    worker::TransportError,
};

/// A client of the service `Worker`. Clones share its connection.
#[derive(Clone, Debug)]
pub(super) struct Data(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    client: OnceCell<WorkerClient<Connection>>,
    /// What the connection is made of when it is first asked for.
    socket: Mutex<Option<UnixStream>>,
    /// Drives it: the runtime that the worker was started in, whoever calls first.
    runtime: Handle,
}

impl Data {
    fn new(client: OnceCell<WorkerClient<Connection>>, socket: Option<UnixStream>) -> Self {
        Self(Arc::new(Shared {
            client,
            socket: Mutex::new(socket),
            runtime: Handle::current(),
        }))
    }

    /// Over a connection that is open.
    pub(super) fn over(connection: Connection) -> Self {
        Self::new(OnceCell::new_with(Some(client(connection))), None)
    }

    /// Over a socket, once somebody calls.
    pub(super) fn on_demand(socket: UnixStream) -> Self {
        Self::new(OnceCell::new(), Some(socket))
    }

    /// The client.
    ///
    /// # Errors
    /// When the connection cannot be opened, now or when it was first asked for.
    pub(super) async fn client(&self) -> Result<WorkerClient<Connection>, TransportError> {
        if let Some(client) = self.0.client.get() {
            return Ok(client.clone());
        }
        let shared = Arc::clone(&self.0);
        // To its end, also when the caller gives up.
        let opening = self.0.runtime.spawn(async move {
            let client = shared.client.get_or_try_init(|| shared.open()).await;
            client.cloned().map_err(|message| TransportError { message })
        });
        opening.await.unwrap_or_else(|_| {
            Err(TransportError {
                message: "the runtime of the worker is gone".into(),
            })
        })
    }
}

impl Shared {
    async fn open(&self) -> Result<WorkerClient<Connection>, String> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = socket.ok_or("the connection could not be opened before")?;
        let connection = Connection::open(socket)
            .await
            .map_err(|error| error_chain(&error))?;
        Ok(client(connection))
    }
}

fn client(connection: Connection) -> WorkerClient<Connection> {
    WorkerClient::with_origin(connection, Connection::origin())
        .max_decoding_message_size(MAX_MESSAGE_LEN)
        .max_encoding_message_size(MAX_MESSAGE_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of HTTP/2.
    async fn preface(socket: &UnixStream) -> String {
        socket.set_nonblocking(true).unwrap();
        let socket = tokio::net::UnixStream::from_std(socket.try_clone().unwrap()).unwrap();
        let mut bytes = [0; 14];
        socket.readable().await.unwrap();
        assert_eq!(socket.try_read(&mut bytes).unwrap(), bytes.len());
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn nothing_is_said_before_somebody_calls_and_then_it_is_said_once() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let data = Data::on_demand(ours);
        theirs.set_nonblocking(true).unwrap();
        let nothing = std::io::Read::read(&mut &theirs, &mut [0]).unwrap_err();
        assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
        let (first, second) = tokio::join!(data.client(), data.client());
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(preface(&theirs).await, "PRI * HTTP/2.0");
    }

    #[test]
    fn the_connection_lives_in_the_runtime_of_the_worker() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        };
        let (of_worker, of_caller) = (runtime(), runtime());
        let data = of_worker.block_on(async { Data::on_demand(ours) });
        of_caller.block_on(data.client()).unwrap();
        // A caller that gives up at once has it opened all the same.
        drop(of_caller);
        of_worker.block_on(async {
            assert_eq!(preface(&theirs).await, "PRI * HTTP/2.0");
            assert!(data.client().await.is_ok());
        });
        drop(of_worker);
        assert!(
            runtime().block_on(data.client()).is_ok(),
            "what is open stays known"
        );
    }
}
