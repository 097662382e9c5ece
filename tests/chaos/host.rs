//! The host program: a pool on real workers that does what its standard input says.

use std::{
    io::{BufRead as _, BufReader},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::setsid;
use snakepit::{
    CallError, Pool, PoolBuilder, Shutdown,
    core::{launch::Launcher, ledger::Ledger as _, process::Pidfd, rpc::error_chain},
};
use snakepit_registry::{Registry, Settings};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use crate::{
    contender::{Contender, registry},
    cycles, neighbours,
    orders::{self, Command, Orders, tell},
    steps::Steps,
};

/// Between two looks at what the test waits for, with a bound of its own.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// What a host runs on.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    orders: Arc<Orders>,
    pub(crate) launcher: Arc<dyn Launcher>,
    settings: Settings,
    /// The pool has it open too.
    pub(crate) ledger: Arc<Registry>,
    counts: Arc<Counts>,
}

impl Host {
    pub(crate) fn contender(&self) -> &Contender {
        &self.orders.contender
    }
}

/// Answered and lost calls of the callers that go on.
#[derive(Debug, Default)]
struct Counts {
    answered: AtomicUsize,
    lost: AtomicUsize,
}

/// The host's whole life.
pub(crate) fn main() {
    let Some(orders) = orders::taken::<Orders>() else {
        return;
    };
    // In a session of its own, as a service: whoever adopts its workers is outside of it.
    setsid().unwrap();
    tell(format_args!("host is {}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(orders));
    // Without waiting for the thread that reads.
    std::process::exit(0);
}

async fn run(orders: Orders) {
    let mut commands = commands();
    let settings = registry(&orders.state_dir);
    let ledger = match Registry::shared(&settings) {
        Ok(ledger) => ledger,
        Err(error) => return tell(format_args!("failed: {}", error_chain(&error))),
    };
    let host = Host {
        launcher: Steps(orders.stay_at).of(orders.contender.launcher(ledger.clone())),
        settings,
        ledger,
        orders: Arc::new(orders),
        counts: Arc::default(),
    };
    tell("starting");
    let pool = match host.pool().start().await {
        Ok(pool) => pool,
        Err(error) => return tell(format_args!("failed: {}", error_chain(&error))),
    };
    tell(format_args!("ready {}", pids(&pool).await));
    while let Some(command) = commands.recv().await {
        match command {
            Command::Shutdown => break,
            Command::Call { function, args } => {
                let pool = pool.clone();
                tell("calling");
                tokio::spawn(async move {
                    match pool.call::<_, serde_json::Value>(&function, args).await {
                        Ok(answer) => tell(format_args!("answered {answer}")),
                        Err(error) => tell(format_args!("lost: {}", error_chain(&error))),
                    }
                });
            }
            Command::KeepCalling(callers) => {
                for caller in 0..callers {
                    tokio::spawn(host.clone().keep_calling(pool.clone(), caller));
                }
            }
            Command::Report => {
                let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
                let (answered, lost) = (count(&host.counts.answered), count(&host.counts.lost));
                tell(format_args!("report {answered} {lost} {}", pids(&pool).await));
            }
            Command::KeepRecycling => {
                tokio::spawn(host.clone().keep_recycling(pool.clone()));
            }
            Command::Start(count) => {
                tokio::spawn(host.clone().start(count));
            }
            Command::Cycle(count) => cycles::run(&host, count).await,
            Command::Forge { pid, flaw } => neighbours::forge(&host, pid, flaw).await,
        }
    }
    tell("shutting down");
    pool.shutdown().await;
    let rows = host.ledger.rows().await.unwrap();
    assert!(
        rows.is_empty(),
        "the pool is gone, and its rows are not: {rows:?}"
    );
    tell("done");
}

impl Host {
    fn pool(&self) -> PoolBuilder {
        let orders = &self.orders;
        let grace = Duration::from_millis(orders.grace_ms);
        let mut pool = orders
            .contender
            .pool(Arc::clone(&self.launcher), &self.settings)
            .workers(orders.workers)
            .shutdown(Shutdown { drain: grace, grace });
        if let Some(adapter) = &orders.adapter {
            pool = pool.adapter(adapter);
        }
        if let Some([program, args @ ..]) = orders.program.as_deref() {
            pool = pool.program(program, args);
        }
        pool
    }

    async fn keep_calling(self, pool: Pool, caller: usize) {
        loop {
            let number = caller + self.counts.answered.load(Ordering::Relaxed);
            match pool.call::<_, usize>("slow:echo_after", (number, 0.005)).await {
                Ok(answer) if answer == number => &self.counts.answered,
                Ok(answer) => return tell(format_args!("failed: {answer} is not the answer to {number}")),
                Err(CallError::WorkerLost(_)) => &self.counts.lost,
                // Only the end of the pool ends the calls.
                Err(_) => return,
            }
            .fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn keep_recycling(self, pool: Pool) {
        loop {
            for worker in pool.status().await.workers {
                if let Some(pid) = worker.child.status.pid
                    && let Ok(pidfd) = Pidfd::open(pid)
                {
                    tell(format_args!("recycling {pid}"));
                    // One that is gone is replaced already.
                    let _ = pidfd.signal(libc::SIGKILL);
                }
                while pool.status().await.ready < self.orders.workers {
                    sleep(LOOK_AGAIN).await;
                }
            }
        }
    }

    /// Workers that have a row; a template has one as well.
    async fn recorded_workers(&self) -> usize {
        let rows = self.ledger.rows().await.unwrap();
        rows.iter()
            .filter(|row| row.launcher == self.launcher.name())
            .count()
    }

    async fn start(self, count: usize) {
        for n in 0..count {
            let starting = self.pool().start();
            if n % 2 == 0 {
                let patience = Duration::from_millis(n as u64 * 7 % 60);
                // Dropping it is what this is about.
                let _ = timeout(patience, starting).await;
            } else {
                match starting.await {
                    Ok(pool) => pool.kill().await,
                    Err(error) => return tell(format_args!("failed: {}", error_chain(&error))),
                }
            }
            tell(format_args!("started {n}"));
        }
        while self.recorded_workers().await > self.orders.workers {
            sleep(LOOK_AGAIN).await;
        }
        tell("dropped");
    }
}

async fn pids(pool: &Pool) -> String {
    let status = pool.status().await;
    let pids = status.workers.iter().filter_map(|worker| worker.child.status.pid);
    pids.map(|pid| pid.to_string()).collect::<Vec<_>>().join(" ")
}

/// What comes on standard input; the end of it ends the host.
fn commands() -> UnboundedReceiver<Command> {
    let (sender, commands) = unbounded_channel();
    thread::spawn(move || {
        for line in BufReader::new(std::io::stdin()).lines() {
            let Ok(line) = line else { break };
            if sender.send(serde_json::from_str(&line).unwrap()).is_err() {
                break;
            }
        }
    });
    commands
}
