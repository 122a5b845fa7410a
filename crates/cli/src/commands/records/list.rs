//! `evenkeel list`: records in key order.

use clap::Args;
use comfy_table::CellAlignment;
use evenkeel_client::ListQuery;
use evenkeel_protocol::v1::Consistency;
use serde_json::Value;

use crate::cluster::connection::Connection;
use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::output::record_output::{readable, record_json, shortened};
use crate::output::tables::table;

const PAGE_RECORDS_MAX: u32 = 1000;

#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only keys that begin with this
    #[arg(long, default_value = "", hide_default_value = true)]
    prefix: String,
    /// At most this many records
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only this partition
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u32).range(1..))]
    partition: Option<u32>,
    /// Answer from any replica, possibly behind the leader
    #[arg(long)]
    stale: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: ListArgs, connection: &Connection) -> Result<(), Failure> {
    let client = connection.client().await?;
    let mut query = ListQuery {
        prefix: args.prefix.into(),
        partition_id: args.partition.unwrap_or(0),
        consistency: if args.stale { Consistency::Stale } else { Consistency::Linearizable },
        ..ListQuery::default()
    };
    let mut rows = table(["key", "value", "version", "partition"]);
    let mut remaining = args.limit;
    loop {
        query.page_size = remaining.min(u64::from(PAGE_RECORDS_MAX)) as u32;
        let page = client.list(query.clone()).await?;
        for record in page.records.iter().take(remaining as usize) {
            match args.output {
                Output::Table | Output::Wide => {
                    rows.add_row([
                        readable(&record.key),
                        if args.output == Output::Wide {
                            readable(&record.value)
                        } else {
                            shortened(&record.value)
                        },
                        record.version.to_string(),
                        record.partition_id.to_string(),
                    ]);
                }
                data => data.print_one_of_many(Value::Object(record_json(record)))?,
            }
        }
        remaining = remaining.saturating_sub(page.records.len() as u64);
        query.page_token = page.next_page_token;
        if remaining == 0 || query.page_token.is_empty() {
            break;
        }
    }
    let listed = args.limit - remaining;
    if args.output.is_for_people() && listed > 0 {
        for column in rows.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        print(rows)?;
    }
    match (listed, query.page_token.is_empty()) {
        (0, _) => note("no records; write one with `evenkeel put KEY VALUE`"),
        (_, false) => note(format_args!("the first {listed}; there are more: raise --limit")),
        _ => {}
    }
    Ok(())
}
