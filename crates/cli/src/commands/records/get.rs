//! `evenkeel get`: reads one record.

use std::io::IsTerminal;

use clap::Args;
use evenkeel_protocol::v1::Consistency;
use serde_json::Value;

use crate::cluster::connection::Connection;
use crate::output::format::Output;
use crate::output::outcome::{Failure, print, write_out};
use crate::output::record_output::record_json;

#[derive(Args, Debug)]
pub struct GetArgs {
    /// Key of the record
    key: String,
    /// Answer from any replica, possibly behind the leader
    #[arg(long)]
    stale: bool,
    /// table prints the value alone, the others the whole record
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: GetArgs, connection: &Connection) -> Result<(), Failure> {
    let consistency = if args.stale { Consistency::Stale } else { Consistency::Linearizable };
    let client = connection.client().await?;
    let Some(record) = client.get(args.key.clone(), consistency).await? else {
        let message = format!("there is no record {:?}; see what there is with `evenkeel list`", args.key);
        return Err(Failure::new(1, message));
    };
    if !args.output.is_for_people() {
        return args.output.print(Value::Object(record_json(&record)));
    }
    write_out(&record.value)?;
    // A pipe or file gets the value and nothing else.
    if std::io::stdout().is_terminal() { print("") } else { Ok(()) }
}
