//! `evenkeel put`: writes one record.

use std::io::Read;

use bytes::Bytes;
use clap::Args;
use evenkeel_client::Condition;
use serde_json::json;

use crate::cluster::connection::Connection;
use crate::output::format::PrintArgs;
use crate::output::outcome::Failure;

#[derive(Args, Debug)]
pub struct PutArgs {
    /// Key of the record
    key: String,
    /// Its value; - reads it from standard input
    value: String,
    /// Only when there is no such record
    #[arg(long, conflicts_with = "if_version")]
    if_absent: bool,
    /// Only when the record has this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    #[command(flatten)]
    shown: PrintArgs,
}

pub async fn run(args: PutArgs, connection: &Connection) -> Result<(), Failure> {
    let value = match args.value.as_str() {
        "-" => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::new(1, format!("standard input: {error}")))?;
            Bytes::from(bytes)
        }
        _ => Bytes::from(args.value),
    };
    let condition = match (args.if_absent, args.if_version) {
        (true, _) => Some(Condition::MustNotExist),
        (_, Some(version)) => Some(Condition::VersionEquals(version)),
        _ => None,
    };
    let put = connection.client().await?.put(args.key, value, condition).await?;
    args.shown.output.show(
        || format!("partition {}, position {}, version {}", put.partition_id, put.position, put.version),
        || json!({"partition_id": put.partition_id, "position": put.position, "version": put.version}),
    )
}
