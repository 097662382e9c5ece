//! Durable record of what a Snakepit host has started, and the cleanup after hosts that died.

pub mod cleanup;
mod host;
mod layout;
mod registry;
mod row;
mod run_dir;
mod settings;
mod store;
#[cfg(test)]
mod testing;
mod writer;

pub use layout::DirError;
pub use registry::{OpenError, Registry};
pub use settings::{AppNameError, Policy, Settings, check_app, default_state_dir};
pub use store::StoreError;
