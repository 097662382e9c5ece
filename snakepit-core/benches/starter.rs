//! What the starter costs: each slot through supervisor, starter and worker, against the direct topology with the
//! supervisor right over the worker.
//!
//! Workers are fakes, so that nothing but supervision is measured. Run with
//! `cargo bench -p snakepit-core --bench starter`; the price in bytes and the price in time, both topologies
//! measured in turn, are printed first. `-- none` prints these alone.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use snakepit_core::{
    SlotId,
    event::Events,
    supervision::{
        ChildKind, ChildSpec, DynamicSupervisor, SlotEvent, SlotObserver, SlotStarterFactory, StarterFactory,
        Supervisor, SupervisorLimits,
    },
    testing::{FakeWorkerFactory, Journal},
    worker::Worker as _,
};
use tokio::{runtime::Runtime, sync::Notify};

#[path = "starter/direct.rs"]
mod direct;

/// Counts the bytes that are allocated now.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator that counts cannot be written without")]
// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Counts workers that are ready, and wakes whoever waits for all of them.
#[derive(Debug, Default)]
struct Counter {
    ready: AtomicUsize,
    changed: Notify,
}

impl SlotObserver for Counter {
    fn slot_event(&self, event: SlotEvent) {
        if matches!(event, SlotEvent::Ready { .. }) {
            self.ready.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}

impl Counter {
    async fn wait(&self, count: usize) {
        while self.ready.load(Ordering::Relaxed) < count {
            self.changed.notified().await;
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Topology {
    Starter,
    Direct,
}

const TOPOLOGIES: [(Topology, &str); 2] = [(Topology::Starter, "starter"), (Topology::Direct, "direct")];

struct Pit {
    supervisor: DynamicSupervisor,
    fakes: FakeWorkerFactory,
    observer: Arc<Counter>,
    children: Arc<dyn StarterFactory>,
    kind: ChildKind,
}

impl Pit {
    fn new(topology: Topology) -> Self {
        let fakes = FakeWorkerFactory::with_journal(Journal::off());
        let observer = Arc::new(Counter::default());
        let told: Arc<dyn SlotObserver> = observer.clone();
        let events = Events::new("bench");
        let workers = Arc::new(fakes.clone());
        let (children, kind): (Arc<dyn StarterFactory>, _) = match topology {
            Topology::Starter => {
                let starters = SlotStarterFactory::new(workers, Arc::clone(&told), events.clone());
                (Arc::new(starters), ChildKind::Supervisor)
            }
            Topology::Direct => {
                let direct = direct::DirectFactory::new(workers, Arc::clone(&told), events.clone());
                (Arc::new(direct), ChildKind::Worker)
            }
        };
        let supervisor = DynamicSupervisor::start(SupervisorLimits::default(), told, events);
        Self {
            supervisor,
            fakes,
            observer,
            children,
            kind,
        }
    }

    async fn start(&self, slots: u32) {
        for slot in 0..slots {
            let spec = ChildSpec::new(SlotId(slot), Arc::clone(&self.children)).with_kind(self.kind);
            self.supervisor.start_child(spec).await.expect("the slot is free");
        }
        self.observer.wait(slots as usize).await;
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("two threads can be started")
}

/// Bytes that are live for each slot while its worker is ready and nothing happens.
fn print_bytes() {
    const SLOTS: u32 = 1000;
    let bytes = TOPOLOGIES.map(|(topology, name)| {
        let runtime = runtime();
        let bytes = runtime.block_on(async {
            let pit = Pit::new(topology);
            // A first round fills what is allocated once and kept.
            pit.start(1).await;
            pit.supervisor.terminate_child(SlotId(0)).await.expect("it runs");
            pit.observer.ready.store(0, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(200)).await;
            let before = LIVE.load(Ordering::Relaxed);
            pit.start(SLOTS).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            let after = LIVE.load(Ordering::Relaxed);
            pit.supervisor.shutdown().await;
            after.saturating_sub(before) / SLOTS as usize
        });
        println!("bytes for each worker, {name}: {bytes}");
        bytes
    });
    println!(
        "bytes for each worker, price of the starter: {}",
        bytes[0] as i64 - bytes[1] as i64
    );
}

/// Medians over rounds that take turns, so that a busy machine slows both alike.
fn print_times() {
    const ROUNDS: usize = 41;
    let runtime = runtime();
    for slots in [1_u32, 100, 1000] {
        let mut took = TOPOLOGIES.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (at, (topology, _)) in TOPOLOGIES.into_iter().enumerate() {
                let began = tokio::time::Instant::now();
                runtime.block_on(async {
                    let pit = Pit::new(topology);
                    pit.start(slots).await;
                    pit.supervisor.shutdown().await;
                });
                took[at].push(began.elapsed() / slots);
            }
        }
        let [starter, direct] = took.map(|mut took| {
            took.sort();
            took[ROUNDS / 2].as_secs_f64() * 1e6
        });
        println!(
            "start and terminate {slots} slots, for each worker: starter {starter:.1} us, direct {direct:.1} us, \
             price {:.1} us",
            starter - direct
        );
    }
}

/// Starts so many slots, waits until all are ready, ends all.
fn life(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("start and terminate");
    let runtime = runtime();
    for slots in [1, 100, 1000] {
        group.throughput(Throughput::Elements(u64::from(slots)));
        for (topology, name) in TOPOLOGIES {
            group.bench_with_input(BenchmarkId::new(name, slots), &slots, |bencher, &slots| {
                bencher.to_async(&runtime).iter_batched(
                    || topology,
                    |topology| async move {
                        let pit = Pit::new(topology);
                        pit.start(slots).await;
                        pit.supervisor.shutdown().await;
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

/// From a worker's crash to its replacement being told ready. The direct topology has no such path of its own:
/// its supervisor restarts the child, which is what is compared.
fn replacement(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crash to ready");
    let runtime = runtime();
    for (topology, name) in TOPOLOGIES {
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter_custom(|rounds| async move {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let pit = Pit::new(topology);
                    pit.start(1).await;
                    let worker = pit.fakes.worker(SlotId(0)).expect("it is ready");
                    let began = tokio::time::Instant::now();
                    worker.crash();
                    pit.observer.wait(2).await;
                    took += began.elapsed();
                    black_box(worker.id());
                    pit.supervisor.shutdown().await;
                }
                took
            });
        });
    }
    group.finish();
}

fn main() {
    print_bytes();
    print_times();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .sample_size(30)
        .configure_from_args();
    life(&mut criterion);
    replacement(&mut criterion);
    criterion.final_summary();
}
