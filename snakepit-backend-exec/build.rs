//! Compiles the guardian, so that the crate carries it: whoever depends on the crate has nothing else to install.
//!
//! It is a program of its own, with the standard library alone, so that the compiler that is compiling this crate is
//! all it takes.

use std::{env, ffi::OsString, io, path::PathBuf, process::Command};

fn main() -> io::Result<()> {
    for source in ["build.rs", "guardian", "src/wire.rs"] {
        println!("cargo::rerun-if-changed={source}");
    }
    for variable in ["RUSTC_LINKER", "CARGO_ENCODED_RUSTFLAGS"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let variable = |name| env::var_os(name).unwrap_or_default();
    let output = PathBuf::from(variable("OUT_DIR")).join("snakepit-guardian");
    if variable("CARGO_CFG_TARGET_OS") != "linux" {
        // The crate compiles elsewhere and has no guardian there.
        return std::fs::write(output, []);
    }

    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        "--crate-name",
        "snakepit_guardian",
        "--crate-type",
        "bin",
        "--edition",
        "2024",
    ]);
    // Small, as it shares the machine with every worker; a panic has nobody to be caught by.
    rustc.args([
        "-Copt-level=s",
        "-Cpanic=abort",
        "-Clto=fat",
        "-Ccodegen-units=1",
        "-Cstrip=symbols",
    ]);
    rustc.args(["-Cdebug-assertions=off", "--cap-lints=allow", "--target"]);
    rustc.arg(variable("TARGET"));
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = OsString::from("-Clinker=");
        option.push(linker);
        rustc.arg(option);
    }
    // Such as a C library to be linked statically.
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    rustc.args(flags.split('\x1f').filter(|flag| !flag.is_empty()));
    rustc.arg("-o").arg(output).arg("guardian/main.rs");
    let status = rustc.status()?;
    if !status.success() {
        return Err(io::Error::other(format!(
            "the guardian could not be compiled: {rustc:?}: {status}"
        )));
    }
    Ok(())
}
