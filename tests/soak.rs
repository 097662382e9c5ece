//! The soak that `cargo bench --bench soak` runs, for some seconds: that it calls, watches and tells what it should. Whether
//! something grows takes its ten minutes to say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../benches/soak/soak.rs"]
mod soak;

use soak::{
    Plan,
    trend::{Limit, Trend},
};

const LIMIT: Limit = Limit {
    relative: 0.05,
    absolute: 2.0,
};

fn grows(sample: impl Fn(u32) -> f64) -> bool {
    let samples: Vec<_> = (0..120).map(sample).collect();
    Trend::of(&samples, LIMIT).unwrap().grows
}

#[test]
fn a_slow_leak_is_told_from_noise_bursts_and_warming_up() {
    let noise = |at: u32| f64::from(at.wrapping_mul(2_654_435_761) >> 24) / 64.0;
    assert!(!grows(|at| 100.0 + noise(at)));
    assert!(grows(|at| 100.0 + 0.2 * f64::from(at) + noise(at)));
    assert!(
        !grows(|at| if at < 60 { f64::from(at) } else { 60.0 }),
        "warming up"
    );
    assert!(
        !grows(|at| if (80..95).contains(&at) { 900.0 } else { 100.0 }),
        "a busy minute"
    );
    assert!(!grows(|at| 200.0 - f64::from(at)));
    // Less than the absolute limit, however much that is of so little.
    assert!(!grows(|at| 1.0 + f64::from(at) / 50.0));
    assert_eq!(Trend::of(&[1.0; 6], LIMIT), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_soak_calls_watches_and_tells() {
    let plan = Plan::default().minutes(0.15).unwrap();
    let summary = soak::run(&plan).await.unwrap();
    let unexpected: Vec<_> = summary.unexpected().collect();
    assert!(unexpected.is_empty(), "{summary}");
    assert!(summary.calls > 50, "{summary}");
    for outcome in [
        "dies: WorkerLost",
        "leaves: left",
        "overruns: DeadlineExceeded",
        "raises: Failed",
    ] {
        assert!(summary.told.contains_key(outcome), "{outcome}: {summary}");
    }
    assert!(summary.deaths >= 1, "{summary}");
    for (name, trend) in &summary.trends {
        assert!(trend.is_some_and(|trend| trend.median > 0.0), "{name}: {summary}");
    }
}
