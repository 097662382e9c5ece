//! A connection pool for each worker: opened when the worker is ready, closed before it ends, replaced with it.
//!
//! The "database" is a task of this program that knows prices. Python code reaches it through a host function, which uses the
//! connections of the worker that asks. The program checks itself, and `cargo test` runs it.

mod connections;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use connections::{Connections, ConnectionsFactory};
use snakepit::{
    EventKind, Pool,
    core::{host::HostCall, process::Pidfd},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{sleep, timeout},
};

const WORKERS: usize = 2;
const CONNECTIONS: usize = 3;

/// Answers a price for each byte that it is asked, and counts its connections.
async fn serve(listener: UnixListener, open: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let open = Arc::clone(&open);
        open.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            // An error is a client that has closed.
            let _ = answer(stream).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn answer(mut stream: UnixStream) -> std::io::Result<()> {
    loop {
        let item = stream.read_u8().await?;
        stream.write_u32(100 * u32::from(item - b'a' + 1)).await?;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) -> Result<(), Box<dyn Error>> {
    let waited = timeout(Duration::from_secs(60), async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    Ok(waited
        .await
        .map_err(|_| format!("it never came to this: {what}"))?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let server = dir.path().join("prices.sock");
    let open = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(UnixListener::bind(&server)?, Arc::clone(&open)));

    let connections = Connections::default();
    let asked = connections.clone();
    let pool = Pool::builder()
        .name("shop")
        .workers(WORKERS)
        .path(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/slot_resource"))
        .adapter("shop")
        .resource(Arc::new(ConnectionsFactory {
            server,
            count: CONNECTIONS,
            connections,
        }))
        .host_call_function("price", move |call: HostCall| {
            let asked = asked.clone();
            async move {
                let (item,): (char,) = call.args()?;
                let price = asked.ask(call.worker(), item as u8).await?;
                Ok::<_, Box<dyn Error + Send + Sync>>(price)
            }
        })
        .start()
        .await?;
    let total: u32 = pool.call("total", (["a", "b", "d"],)).await?;
    println!("a, b and d cost {total}");
    assert_eq!(total, 700);

    // A worker that dies takes its connections along, and its replacement gets others.
    let mut events = pool.events();
    let pid: u32 = pool.call("pid", ()).await?;
    Pidfd::open(pid)?.signal(9)?;
    let mut changes = Vec::new();
    while changes.last() != Some(&"opened") {
        match events.recv().await?.kind {
            EventKind::ResourceEnded { resource, .. } if &*resource == "connections" => {
                changes.push("closed")
            }
            EventKind::WorkerEnded { .. } => changes.push("worker ended"),
            // The other worker's may have been opened just now.
            EventKind::ResourceStarted { resource, .. }
                if &*resource == "connections" && !changes.is_empty() =>
            {
                changes.push("opened")
            }
            _ => {}
        }
    }
    assert_eq!(changes, ["closed", "worker ended", "opened"]);
    let total: u32 = pool.call("total", (["c"],)).await?;
    assert_eq!(total, 300);
    println!("{}", pool.tree().await);
    until("every worker has as many", || {
        open.load(Ordering::SeqCst) == WORKERS * CONNECTIONS
    })
    .await?;

    pool.shutdown().await;
    until("all are closed", || open.load(Ordering::SeqCst) == 0).await?;
    println!("no connection is left");
    Ok(())
}
