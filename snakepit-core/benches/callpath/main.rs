//! The host's whole share of a call, for counting its instructions: `.ci/callpath.py`.
//!
//! Makes a number of calls of one kind and ends. The worker is this program in another role and a process of its own, so
//! that only the host runs under the counter. Run by hand it says how long that took.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark that cannot start has nothing better to do, and says how it went"
)]

mod launcher;
mod worker;

use std::{sync::Arc, time::Duration};

use launcher::Direct;
use snakepit_core::{
    event::Events,
    ledger::MemoryLedger,
    pool::Pool,
    rpc::Value,
    worker::{ChannelSpec, GrpcWorkerFactory, GrpcWorkerSpec, Heartbeat},
};
use tokio::{task::JoinSet, time::Instant};

/// Items of a stream.
const ITEMS: u64 = 100;
/// Callers of the one worker in `callers`.
const CALLERS: u64 = 16;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    // One thread, so that the same is done in the same order each time.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker"] => runtime.block_on(worker::serve()),
        [kind, calls] => runtime.block_on(host(kind, calls.parse().unwrap())),
        _ => println!("usage: callpath small|kilobyte|callers|stream CALLS"),
    }
}

async fn host(kind: &str, calls: u64) {
    let pool = pool().await;
    let began = Instant::now();
    match kind {
        "small" => one_by_one(&pool, &[0; 64], calls).await,
        "kilobyte" => one_by_one(&pool, &[0; 1024], calls).await,
        "callers" => {
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                let pool = pool.clone();
                callers.spawn(async move { one_by_one(&pool, &[0; 64], calls / CALLERS).await });
            }
            callers.join_all().await;
        }
        "stream" => {
            for _ in 0..calls / ITEMS {
                let mut items = pool
                    .request("items")
                    .args(&(ITEMS,))
                    .unwrap()
                    .stream::<u64>()
                    .await
                    .unwrap();
                while items.next().await.transpose().unwrap().is_some() {}
            }
        }
        other => panic!("no kind of call is named {other}"),
    }
    println!("{calls} of {kind} in {:?}", began.elapsed());
    pool.shutdown().await;
}

async fn pool() -> Pool {
    let events = Events::new("callpath");
    let (launcher, ledger) = (Arc::new(Direct), Arc::new(MemoryLedger::new()));
    let program = std::env::current_exe().unwrap();
    let mut spec = GrpcWorkerSpec::new(events.clone(), launcher, ledger, program);
    spec.args = vec!["worker".into()];
    spec.channel = ChannelSpec::Inherited;
    // A counted program is slow, and its pings must not be counted for calls.
    spec.start_deadline = Duration::from_secs(600);
    spec.heartbeat = Heartbeat {
        interval: Duration::from_secs(3600),
        stuck_after: Duration::from_secs(3600),
    };
    let builder = Pool::builder(Arc::new(GrpcWorkerFactory::new(spec)), events);
    builder.workers(1).start().await.unwrap()
}

async fn one_by_one(pool: &Pool, argument: &[u8], calls: u64) {
    for _ in 0..calls {
        let argument = Value::Bytes(argument.to_vec().into());
        let request = pool.request("echo").args(&(argument,)).unwrap();
        request.send_raw().await.unwrap();
    }
}
