//! The host's own share of a call: queue and lease, with workers in memory that answer at once.

/// Sizes of the pool.
pub(crate) const WORKERS: [usize; 4] = [1, 10, 100, 1000];

/// The record's name of one dispatch, in microseconds.
pub(crate) fn key(workers: usize) -> String {
    format!("dispatch/{workers}/us")
}
