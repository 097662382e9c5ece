//! A pool and a sequential description of it, driven by the same random operations.
//!
//! The pool runs whole, on fake workers and in paused time. Calls stay in their workers until an operation answers them, so
//! what happens is decided by the operations alone. After each of them everything that can happen without time passing
//! happens; then what was seen is checked against the [description](model::Model). Time passes in strides that end where the
//! description knows of a time that is up, so that it can tell exact times.
//!
//! A failure is shrunk to a short list of operations and printed, and its seed is kept in
//! `tests/proptest-regressions/main.txt`, to be tried first from then on. `PROPTEST_CASES` sets how many lists are tried.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod caller;
mod check;
mod drive;
mod model;
mod ops;
mod stage;

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_pool_does_what_its_description_says(play in ops::play()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(drive::run(play));
    }
}
