//! `evenkeel delete`: deletes one record.

use clap::Args;
use evenkeel_client::Condition;
use serde_json::json;

use crate::cluster::connection::Connection;
use crate::output::format::PrintArgs;
use crate::output::outcome::Failure;

#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// Key of the record
    key: String,
    /// Only when the record has this version
    #[arg(long, value_name = "N")]
    if_version: Option<u64>,
    #[command(flatten)]
    shown: PrintArgs,
}

pub async fn run(args: DeleteArgs, connection: &Connection) -> Result<(), Failure> {
    let condition = args.if_version.map(Condition::VersionEquals);
    let deleted = connection.client().await?.delete(args.key, condition).await?;
    let (partition, position, existed) = (deleted.partition_id, deleted.position, deleted.existed);
    args.shown.output.show(
        || match existed {
            true => format!("partition {partition}, position {position}"),
            false => "there was no such record".to_owned(),
        },
        || json!({"partition_id": partition, "position": position, "existed": existed}),
    )
}
