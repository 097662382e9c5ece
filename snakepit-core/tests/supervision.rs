//! Supervision with real actors over fake workers, on a paused clock.

#[path = "supervision/common.rs"]
mod common;
#[path = "supervision/kill.rs"]
mod kill;
#[path = "supervision/parallel.rs"]
mod parallel;
#[path = "supervision/random.rs"]
mod random;
#[path = "supervision/replace.rs"]
mod replace;
#[path = "supervision/resources.rs"]
mod resources;
#[path = "supervision/starter.rs"]
mod starter;
#[path = "supervision/supervisor.rs"]
mod supervisor;
