//! `evenkeel delete`: deletes one record.

use clap::Args;
use evenkeel_client::Condition;

use crate::cluster::connection::Connection;
use crate::output::outcome::{Failure, print};

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Key of the record
    key: String,
    /// Only when the record has this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
}

pub async fn run(args: DeleteArgs, connection: &Connection) -> Result<(), Failure> {
    let condition = args.if_version.map(Condition::VersionEquals);
    let deleted = connection.client().await?.delete(args.key, condition).await?;
    match deleted.existed {
        true => print(format_args!("partition {}, position {}", deleted.partition_id, deleted.position)),
        false => print("there was no such record"),
    }
}
