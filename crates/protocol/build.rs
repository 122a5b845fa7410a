//! Compiles `proto/` with protox, so that no system protoc is needed.
use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 6] = [
    "evenkeel/v1/records.proto",
    "evenkeel/v1/cluster.proto",
    "evenkeel/internal/v1/command.proto",
    "evenkeel/internal/v1/raft.proto",
    "evenkeel/internal/v1/broker.proto",
    "gateway_protocol/gateway.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let serde = "#[derive(serde::Serialize, serde::Deserialize)]";
    tonic_prost_build::configure()
        .bytes(".")
        // openraft wants its response type to be serializable.
        .type_attribute(".evenkeel.internal.v1.Outcome", serde)
        .type_attribute(".evenkeel.v1.BatchResult", serde)
        .compile_fds(descriptors)?;
    Ok(())
}
