//! Workers below a guardian process, in the style of erlexec.

#[allow(dead_code, reason = "called by the launcher, which comes next")]
mod embedded;
#[allow(
    dead_code,
    reason = "spoken by the launcher and the guardian, which come next"
)]
mod wire;
