//! Compiles the protocol without an installed `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 1] = ["snakepit/worker/v1/worker.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("snakepit.worker.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".snakepit.worker.v1")
        // Few calls have them, and every call carries the field.
        .boxed(".snakepit.worker.v1.CallRequest.blocks")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
