//! The host's own share of a call, by size of the pool: `cargo bench -p snakepit-core --bench dispatch`.
//!
//! Must stay under 5 us and be the same for one worker and a thousand. `noop` finds an
//! idle worker at once; `contended` has sixteen callers for one worker, as a busy service does.
#![expect(
    clippy::unwrap_used,
    reason = "a benchmark that cannot start has nothing better to do"
)]

mod noop;

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tokio::{runtime::Runtime, task::JoinSet, time::Instant};

const WORKERS: [usize; 4] = [1, 10, 100, 1000];

/// Callers of the one worker in `contended`.
const CALLERS: u64 = 16;

fn idle(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let mut group = criterion.benchmark_group("noop");
    for workers in WORKERS {
        let pool = runtime.block_on(noop::pool(workers)).unwrap();
        group.bench_with_input(BenchmarkId::from_parameter(workers), &pool, |bencher, pool| {
            bencher.to_async(&runtime).iter(|| noop::call(pool));
        });
        runtime.block_on(pool.shutdown());
    }
    group.finish();
}

fn queued(criterion: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let pool = runtime.block_on(noop::pool(1)).unwrap();
    criterion.bench_function("contended", |bencher| {
        bencher.to_async(&runtime).iter_custom(async |calls| -> Duration {
            let start = Instant::now();
            let mut callers = JoinSet::new();
            for _ in 0..CALLERS {
                let pool = pool.clone();
                callers.spawn(async move {
                    for _ in 0..calls.div_ceil(CALLERS) {
                        noop::call(&pool).await;
                    }
                });
            }
            callers.join_all().await;
            start.elapsed()
        });
    });
    runtime.block_on(pool.shutdown());
}

criterion_group!(benches, idle, queued);
criterion_main!(benches);
