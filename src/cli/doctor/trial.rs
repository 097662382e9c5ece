//! The proof: a pool of one worker is started, called and ended.

use snakepit::{Pool, PythonEnv};
use tokio::time::Instant;

use super::Finding;
use crate::cli::{
    failure::{self, Failure},
    output::duration,
    session,
};

const SECTION: &str = "Trial";
const NAME: &str = "one call";

/// Makes one call in a pool of its own. Only Ctrl-C is a failure of the command; all else is a finding.
pub(super) fn run(environment: PythonEnv) -> Result<Finding, Failure> {
    let builder = Pool::builder()
        .name("doctor")
        .workers(1)
        .metrics(false)
        .python(environment);
    // Nothing is left behind by looking.
    #[cfg(feature = "registry")]
    let builder = builder.without_registry();
    let began = Instant::now();
    let tried = session::small_runtime()?.block_on(session::with_pool(builder, async |pool| {
        let ready = began.elapsed();
        let began = Instant::now();
        let answer: f64 = pool.call("math:hypot", (3.0, 4.0)).await?;
        Ok((ready, began.elapsed(), answer))
    }));
    match tried {
        Ok((ready, called, 5.0)) => Ok(Finding::good(
            SECTION,
            NAME,
            format!(
                "a worker was ready after {} and answered after {}",
                duration(ready),
                duration(called)
            ),
        )),
        Ok((_, _, answer)) => Ok(Finding::missing(
            SECTION,
            NAME,
            format!("math:hypot(3, 4) is {answer}"),
            "this Python is damaged; use another one (--python)",
        )),
        Err(Failure::Interrupted) => Err(Failure::Interrupted),
        Err(failure) => Ok(Finding::missing(
            SECTION,
            NAME,
            failure::chain(&failure),
            "see what the worker said, with -v, and mend what it names",
        )),
    }
}
