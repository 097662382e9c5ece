//! What workers' process trees use: a resource of each slot, fed by one sampler for the whole host.

mod collector;
mod sampler;
mod usage;

pub use collector::MetricsCollector;
pub use sampler::{Sampler, SamplerCost};

/// Use of memory and CPU by a worker's process tree.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct MetricsSample {
    /// Resident memory of the tree in bytes. Pages shared within the tree count once for each process.
    pub rss_bytes: u64,
    /// CPU use since the last sample; 1.0 is one core. Zero in the first sample after the sampler came to
    /// life, which has nothing to compare with.
    pub cpu: f32,
    /// Processes in the tree.
    pub processes: u32,
}

impl MetricsSample {
    /// Resident memory of the tree in MiB, for people.
    #[expect(clippy::cast_precision_loss, reason = "2^53 bytes of memory are far away")]
    pub fn rss_mib(&self) -> f64 {
        self.rss_bytes as f64 / f64::from(1 << 20)
    }
}
