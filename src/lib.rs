//! x

pub mod python_env;

pub use python_env::PythonEnv;
