//! `evenkeel watch`: prints changes as they happen, until interrupted.

use std::collections::BTreeMap;

use clap::Args;
use evenkeel_client::WatchQuery;
use evenkeel_protocol::v1::watch_event::Kind;
use evenkeel_protocol::v1::{Record, WatchEvent};
use serde_json::{Value, json};

use crate::cluster::connection::Connection;
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::output::record_output::{readable, record_json, shortened};
use crate::processes::signals::stop_requested;

#[derive(Args, Debug)]
pub struct WatchArgs {
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// Only what follows this position; may be given for several partitions. Others start now
    #[arg(long, value_name = "PARTITION=POSITION", value_parser = partition_position)]
    from: Vec<(u32, u64)>,
    /// How to print the changes
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn partition_position(text: &str) -> Result<(u32, u64), String> {
    let parsed = text.split_once('=').and_then(|(partition, position)| {
        Some((partition.trim().parse().ok().filter(|p| *p > 0)?, position.trim().parse().ok()?))
    });
    parsed.ok_or_else(|| "write partition=position, such as 3=1200".to_owned())
}

pub async fn run(args: WatchArgs, connection: &Connection) -> Result<(), Failure> {
    let client = connection.client().await?;
    let after = args.from.into_iter().collect::<BTreeMap<_, _>>();
    let query = WatchQuery { prefix: args.prefix.into(), partition_ids: Vec::new(), after };
    let mut watch = client.watch(query).await?;
    note("watching; Ctrl-C ends it");
    let stop = stop_requested()?;
    tokio::pin!(stop);
    loop {
        let changes = tokio::select! {
            changes = watch.next() => changes?,
            _ = &mut stop => break,
        };
        for WatchEvent { kind, record } in changes.events {
            let Some(record) = record else { continue };
            let deleted = kind == i32::from(Kind::Delete);
            match args.output {
                Output::Table | Output::Wide => print(line(deleted, &record))?,
                data => {
                    let mut object = record_json(&record);
                    object.insert("event".into(), json!(if deleted { "delete" } else { "put" }));
                    if deleted {
                        object.remove("value");
                    }
                    data.print_one_of_many(Value::Object(object))?;
                }
            }
        }
    }
    let reached =
        watch.positions().iter().map(|(partition, position)| format!(" --from {partition}={position}"));
    let reached = reached.collect::<String>();
    if !reached.is_empty() {
        note(format_args!("continue with `evenkeel watch{reached}`"));
    }
    Ok(())
}

fn line(deleted: bool, record: &Record) -> String {
    let (partition, position, key) = (record.partition_id, record.position, readable(&record.key));
    match deleted {
        true => format!("{partition}={position} delete {key}"),
        false => format!("{partition}={position} put {key} v{} {}", record.version, shortened(&record.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_position_names_its_partition() {
        assert_eq!(partition_position("3=1200"), Ok((3, 1200)));
        for bad in ["", "3", "=3", "0=3", "a=1", "1=-1"] {
            assert!(partition_position(bad).is_err(), "{bad}");
        }
    }
}
