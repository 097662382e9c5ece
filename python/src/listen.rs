//! Listening on a Unix path or a TCP address, for workers that have no inherited channel.

use std::{
    io,
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net as unix},
    },
    path::Path,
    sync::Arc,
};

use tokio::{sync::mpsc, time::timeout};

use crate::{control_thread::finished, lenient::Lenient, router::Router, serve, shared::Shared};

/// A bound socket.
#[derive(Debug)]
pub(crate) enum Listener {
    /// On a path.
    Unix(unix::UnixListener),
    /// On an address.
    Tcp(std::net::TcpListener),
}

impl Listener {
    /// Binds a path. A socket file that a dead worker left is replaced, a live one is not.
    ///
    /// # Errors
    /// When something else is at the path, somebody listens there, or the system refuses.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            use std::os::unix::fs::FileTypeExt as _;
            if !found.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the path exists and is no socket",
                ));
            }
            match unix::UnixStream::connect(path) {
                Ok(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::AddrInUse,
                        "a live process listens there",
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                Err(error) => return Err(error),
            }
        }
        let listener = unix::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Unix(listener))
    }

    /// Binds an address.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn tcp(address: &str) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Where a client reaches it, in the form of `SNAKEPIT_CHANNEL`.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(unix::SocketAddr::as_pathname);
                format!(
                    "unix:{}",
                    path.map_or_else(String::new, |path| path.display().to_string())
                )
            }
            Self::Tcp(listener) => {
                format!(
                    "tcp:{}",
                    listener
                        .local_addr()
                        .map_or_else(|_| String::new(), |addr| addr.to_string())
                )
            }
        }
    }

    /// The descriptor's number.
    pub(crate) fn descriptor(&self) -> i32 {
        match self {
            Self::Unix(listener) => listener.as_raw_fd(),
            Self::Tcp(listener) => listener.as_raw_fd(),
        }
    }

    /// Notes the socket file for removal at the end.
    pub(crate) fn register(&self, path: &Path, shared: &Shared) {
        if let Ok(found) = std::fs::symlink_metadata(path) {
            let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            // Set once: a process listens once.
            let _ = shared.socket_file.set((absolute, found.dev(), found.ino()));
        }
    }

    /// Accepts and serves connections until the worker leaves, then waits for them to flush.
    pub(crate) async fn serve(self, router: Arc<Router>, shared: &Arc<Shared>) {
        // Every connection holds a sender; the receiver ends when the last one is gone.
        let (alive, mut all_gone) = mpsc::channel::<()>(1);
        let accepting = async {
            let result = match self {
                Self::Unix(listener) => accept_unix(listener, &router, shared, &alive).await,
                Self::Tcp(listener) => accept_tcp(listener, &router, shared, &alive).await,
            };
            if let Err(error) = result {
                eprintln!("snakepit: failed to accept connections: {error}");
            }
        };
        tokio::select! {
            () = accepting => finished(shared).await,
            () = finished(shared) => {}
        }
        drop(alive);
        // Connections bound their own flush; this is only in case one does not.
        let _ = timeout(serve::FLUSH_LIMIT * 2, all_gone.recv()).await;
    }
}

/// Out of descriptors or memory: the condition may pass, a loop that spins would not help it to.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

async fn accept_unix(
    listener: unix::UnixListener,
    router: &Arc<Router>,
    shared: &Arc<Shared>,
    alive: &mpsc::Sender<()>,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => spawn(Lenient::new(socket), router, shared, alive),
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

async fn accept_tcp(
    listener: std::net::TcpListener,
    router: &Arc<Router>,
    shared: &Arc<Shared>,
    alive: &mpsc::Sender<()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // Without it small answers wait for acknowledgements; a socket that refuses still works.
                let _ = socket.set_nodelay(true);
                spawn(socket, router, shared, alive);
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn spawn<S>(socket: S, router: &Arc<Router>, shared: &Arc<Shared>, alive: &mpsc::Sender<()>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (router, shared, alive) = (Arc::clone(router), Arc::clone(shared), alive.clone());
    tokio::spawn(async move {
        serve::connection(socket, router, finished(&shared)).await;
        drop(alive);
    });
}
