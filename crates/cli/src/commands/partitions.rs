//! `evenkeel partitions`: which there are, how one is, and giving one to another broker.

use clap::{Args, Subcommand};
use comfy_table::Table;
use evenkeel_protocol::v1::{Partition, Role, TopologyResponse};
use serde_json::{Value, json};

use crate::cluster::cluster_api::RebalanceBody;
use crate::cluster::connection::Connection;
use crate::commands::rebalance;
use crate::commands::status::{Lead, Seen, health_name, lead, look, role_name};
use crate::output::format::Output;
use crate::output::outcome::{Failure, print};
use crate::output::tables::{right_align, table};
use crate::output::verdict::{is_misplaced, replicas};

#[derive(Args, Debug)]
pub struct PartitionsArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List the partitions: who leads each, who should, and how many replicas work
    List(ListArgs),
    /// Show everything about one partition
    Describe(DescribeArgs),
    /// Give a partition's leadership to a broker that holds a replica of it; exits as rebalance does
    Transfer(TransferArgs),
}

#[derive(Args, Debug)]
struct ListArgs {
    /// Only those that nobody or another than their primary leads
    #[arg(long)]
    misplaced: bool,
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args, Debug)]
struct DescribeArgs {
    /// Partition
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    partition: u32,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

#[derive(Args, Debug)]
struct TransferArgs {
    /// Partition
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    partition: u32,
    /// Broker that shall lead it
    #[arg(long, value_name = "BROKER")]
    to: u64,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: PartitionsArgs, connection: &Connection) -> Result<(), Failure> {
    match args.what {
        What::List(args) => list(&args, &look(connection).await?),
        What::Describe(args) => describe(&args, &look(connection).await?),
        What::Transfer(args) => transfer(&args, connection).await,
    }
}

fn list(args: &ListArgs, seen: &Seen) -> Result<(), Failure> {
    let Seen { topology, wishes, .. } = seen;
    let wanted = |partition: &&Partition| {
        !args.misplaced || partition.leader.is_none() || is_misplaced(partition, wishes)
    };
    let partitions: Vec<&Partition> = topology.partitions.iter().filter(wanted).collect();
    args.output.show(
        || list_table(topology, &partitions),
        || partitions.iter().map(|partition| to_json(topology, partition)).collect(),
    )
}

/// How its leadership stands, in two words.
fn standing(partition: &Partition) -> &'static str {
    match lead(partition) {
        Lead::Primary => "on primary",
        Lead::Any => "no primary",
        Lead::NotPrimary => "not primary",
        Lead::Nobody => "NO LEADER",
    }
}

fn list_table(topology: &TopologyResponse, partitions: &[&Partition]) -> Table {
    let mut rows =
        table(["partition", "leader", "primary", "led", "term", "replicas work", "lag bytes, most"]);
    let or_dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for partition in partitions {
        let (working, all) = working(topology, partition);
        let lag = replicas(topology, partition).filter_map(|(_, replica)| replica.lag_bytes).max();
        rows.add_row([
            partition.partition_id.to_string(),
            or_dash(partition.leader),
            or_dash(partition.primary),
            standing(partition).to_owned(),
            partition.term.to_string(),
            format!("{working}/{all}"),
            or_dash(lag),
        ]);
    }
    right_align(&mut rows, &[0, 1, 2, 4, 5, 6]);
    rows
}

/// Replicas that take part, of how many.
fn working(topology: &TopologyResponse, partition: &Partition) -> (usize, usize) {
    let all = || replicas(topology, partition);
    let working = all().filter(|(broker, replica)| broker.reachable && replica.role() != Role::Inactive);
    (working.count(), all().count())
}

fn to_json(topology: &TopologyResponse, partition: &Partition) -> Value {
    let (working, all) = working(topology, partition);
    let replicas = replicas(topology, partition).map(|(broker, replica)| {
        json!({
            "node_id": broker.node_id,
            "reachable": broker.reachable,
            "role": role_name(replica.role),
            "health": health_name(replica.health),
            "priority": replica.priority,
            "lag_entries": replica.lag_entries,
            "lag_bytes": replica.lag_bytes,
        })
    });
    json!({
        "partition_id": partition.partition_id,
        "leader": partition.leader,
        "primary": partition.primary,
        "on_primary": lead(partition) == Lead::Primary,
        "term": partition.term,
        "replicas_working": working,
        "quorum_margin": working as i64 - (all / 2 + 1) as i64,
        "replicas": replicas.collect::<Vec<_>>(),
    })
}

fn describe(args: &DescribeArgs, seen: &Seen) -> Result<(), Failure> {
    let topology = &seen.topology;
    let Some(partition) = topology.partitions.iter().find(|found| found.partition_id == args.partition)
    else {
        return Err(unknown(args.partition, topology.partitions_count));
    };
    args.output.show(|| description(topology, partition), || to_json(topology, partition))
}

fn unknown(partition: u32, count: u32) -> Failure {
    Failure::not_found(format!(
        "there is no partition {partition}, they are 1 to {count}; list them with `evenkeel partitions list`"
    ))
}

fn description(topology: &TopologyResponse, partition: &Partition) -> String {
    let (working, all) = working(topology, partition);
    let broker =
        |node: Option<u64>| node.map_or_else(|| "nobody".to_owned(), |node| format!("broker {node}"));
    let mut rows = table(["broker", "role", "priority", "health", "lag entries", "lag bytes", "reachable"]);
    let or_dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    for (broker, replica) in replicas(topology, partition) {
        rows.add_row([
            broker.node_id.to_string(),
            role_name(replica.role).to_owned(),
            replica.priority.to_string(),
            health_name(replica.health).to_owned(),
            or_dash(replica.lag_entries),
            or_dash(replica.lag_bytes),
            if broker.reachable { "yes" } else { "no" }.to_owned(),
        ]);
    }
    right_align(&mut rows, &[0, 2, 4, 5]);
    let margin = working as i64 - (all / 2 + 1) as i64;
    let id = partition.partition_id;
    let next = match lead(partition) {
        Lead::NotPrimary => format!("\nbring it back: evenkeel rebalance --partition {id}"),
        _ => String::new(),
    };
    format!(
        "partition  {id}\nleader     {} ({})\nprimary    {}\nterm       {}\nquorum     {working} of {all} replicas work, \
         {} can be lost\n{rows}{next}",
        broker(partition.leader),
        standing(partition),
        broker(partition.primary),
        partition.term,
        margin.max(0),
    )
}

async fn transfer(args: &TransferArgs, connection: &Connection) -> Result<(), Failure> {
    let body = RebalanceBody {
        partitions: Some(vec![args.partition]),
        targets: [(args.partition, args.to)].into(),
        ..RebalanceBody::default()
    };
    let api = connection.cluster_api()?;
    if args.dry_run {
        return rebalance::show_plan(&api, &body, args.output).await;
    }
    match api.start(&body).await? {
        Some(id) => rebalance::follow_and_tell(&api, id, false, args.output).await,
        None => print(format_args!("broker {} leads partition {} already", args.to, args.partition)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::topology;

    #[test]
    fn the_list_lines_up_and_says_who_leads_and_who_should() {
        let view = topology(&[Some(0), Some(0), None]);
        let all: Vec<&Partition> = view.partitions.iter().collect();
        let expected = "\
╭───────────┬────────┬─────────┬─────────────┬──────┬───────────────┬─────────────────╮
│ partition ┆ leader ┆ primary ┆ led         ┆ term ┆ replicas work ┆ lag bytes, most │
╞═══════════╪════════╪═════════╪═════════════╪══════╪═══════════════╪═════════════════╡
│         1 ┆      0 ┆       0 ┆ on primary  ┆    1 ┆           3/3 ┆            2000 │
│         2 ┆      0 ┆       1 ┆ not primary ┆    1 ┆           3/3 ┆            2000 │
│         3 ┆      - ┆       2 ┆ NO LEADER   ┆    1 ┆           3/3 ┆            2000 │
╰───────────┴────────┴─────────┴─────────────┴──────┴───────────────┴─────────────────╯";
        assert_eq!(list_table(&view, &all).to_string(), expected);
    }

    #[test]
    fn a_description_has_every_replica_and_the_next_command() {
        let view = topology(&[Some(0), Some(0), Some(2)]);
        let text = description(&view, &view.partitions[1]);
        assert!(text.contains("leader     broker 0 (not primary)\nprimary    broker 1"), "{text}");
        assert!(text.contains("3 of 3 replicas work, 1 can be lost"), "{text}");
        assert!(text.ends_with("bring it back: evenkeel rebalance --partition 2"), "{text}");
        assert_eq!(to_json(&view, &view.partitions[1])["quorum_margin"], 1);
        let failure = unknown(9, 3);
        assert_eq!((failure.code, failure.next_command()), (1, None));
    }
}
