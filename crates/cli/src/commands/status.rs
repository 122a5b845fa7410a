//! `evenkeel status`: who leads what, who should, and who lags.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table};
use evenkeel_protocol::v1::{Broker, Health, Partition, Replica, Role, TopologyResponse};
use serde_json::{Value, json};

use crate::cluster::cluster_api::BrokerState;
use crate::cluster::connection::Connection;
use crate::commands::waiting::interval;
use crate::output::format::Output;
use crate::output::live::{Frame, repeat};
use crate::output::outcome::Failure;
use crate::output::tables::{right_align, table};
use crate::output::verdict::{Wishes, verdict};

#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Show it again and again, until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// With --watch: how often
    #[arg(long, requires = "watch", value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// The cluster as a gateway sees it, and what operators have asked of it.
pub struct Seen {
    pub topology: TopologyResponse,
    pub wishes: Wishes,
    /// Somebody told who is drained.
    pub drained_known: bool,
}

/// Looks at the cluster.
pub async fn look(connection: &Connection) -> Result<Seen, Failure> {
    let topology = connection.client().await?.topology().await?;
    // Wishes are told by the API port; a gateway that does not tell them is no reason to show nothing.
    let api = connection.cluster_api()?;
    let (brokers, paused) = tokio::join!(api.brokers(), api.is_paused());
    let drained = brokers.ok().as_deref().map(drained_nodes);
    let drained_known = drained.is_some();
    let wishes = Wishes { drained: drained.unwrap_or_default(), paused: matches!(paused, Ok(Some(true))) };
    Ok(Seen { topology, wishes, drained_known })
}

pub async fn run(args: StatusArgs, connection: &Connection) -> Result<(), Failure> {
    if args.watch {
        let frame = || async { Ok(frame(args.output, &look(connection).await?)) };
        return repeat(args.output, args.interval, frame).await;
    }
    let Frame { people, data } = frame(args.output, &look(connection).await?);
    args.output.show(|| people, || data)
}

fn frame(output: Output, Seen { topology, wishes, drained_known }: &Seen) -> Frame {
    let table = match output {
        Output::Wide => wide_table(topology, wishes),
        _ => status_table_with(topology, &wishes.drained),
    };
    let drained = drained_known.then_some(&wishes.drained);
    Frame {
        people: format!("{table}\n{}", verdict(topology, wishes)),
        data: status_json(topology, drained, wishes),
    }
}

/// A line for each replica.
fn wide_table(topology: &TopologyResponse, wishes: &Wishes) -> Table {
    let header = ["partition", "broker", "address", "role", "priority", "primary", "health", "term"];
    let mut rows = table(header.into_iter().chain(["lag entries", "lag bytes", "notes"]));
    for partition in &topology.partitions {
        for broker in &topology.brokers {
            let Some(replica) = replica_of(broker, partition.partition_id) else { continue };
            let leads = partition.leader == Some(broker.node_id);
            let or_dash = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
            let notes = [
                (!broker.reachable, "away"),
                (broker.draining, "stopping"),
                (wishes.drained.contains(&broker.node_id), "drained"),
                (leads && lead(partition) == Lead::NotPrimary, "not primary"),
            ];
            let notes: Vec<&str> = notes.into_iter().filter(|(so, _)| *so).map(|(_, note)| note).collect();
            rows.add_row([
                partition.partition_id.to_string(),
                broker.node_id.to_string(),
                format!("{}:{}", broker.host, broker.port),
                if leads { "LEADER".to_owned() } else { role_name(replica.role).to_owned() },
                replica.priority.to_string(),
                if partition.primary == Some(broker.node_id) { "yes" } else { "" }.to_owned(),
                health_name(replica.health).to_owned(),
                replica.term.to_string(),
                or_dash(replica.lag_entries),
                or_dash(replica.lag_bytes),
                notes.join(", "),
            ]);
        }
    }
    right_align(&mut rows, &[0, 1, 4, 7, 8, 9]);
    rows
}

/// Node ids of drained brokers.
type Drained = BTreeSet<u64>;

fn drained_nodes(brokers: &[BrokerState]) -> Drained {
    brokers.iter().filter(|broker| broker.drained).map(|broker| broker.node_id).collect()
}

/// Where a partition's leadership is, against where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    Primary,
    /// Led, and no single primary to compare with.
    Any,
    NotPrimary,
    Nobody,
}

/// Whether it is led, and by its primary.
pub fn lead(partition: &Partition) -> Lead {
    match (partition.leader, partition.primary) {
        (None, _) => Lead::Nobody,
        (Some(_), None) => Lead::Any,
        (Some(leader), Some(primary)) if leader == primary => Lead::Primary,
        _ => Lead::NotPrimary,
    }
}

/// Every partition is led by its primary, as far as it has one.
pub fn is_balanced(topology: &TopologyResponse) -> bool {
    let known = topology.partitions.len() == topology.partitions_count as usize;
    let settled = |partition| matches!(lead(partition), Lead::Primary | Lead::Any);
    known && !topology.partitions.is_empty() && topology.partitions.iter().all(settled)
}

/// Partitions that their primary does not lead, while somebody does.
pub fn misplaced(topology: &TopologyResponse) -> BTreeSet<u32> {
    let misplaced = topology.partitions.iter().filter(|partition| lead(partition) == Lead::NotPrimary);
    misplaced.map(|partition| partition.partition_id).collect()
}

/// Every follower that can be reached has told how far it is.
pub fn lags_are_known(topology: &TopologyResponse) -> bool {
    let reachable = topology.brokers.iter().filter(|broker| broker.reachable);
    let mut replicas = reachable.flat_map(|broker| &broker.replicas);
    replicas.all(|replica| replica.role == i32::from(Role::Leader) || replica.lag_entries.is_some())
}

/// Partitions led by each broker, by node id.
pub fn leaders_per_broker(topology: &TopologyResponse) -> Vec<(u64, usize)> {
    let led = |node| topology.partitions.iter().filter(|partition| partition.leader == Some(node)).count();
    topology.brokers.iter().map(|broker| (broker.node_id, led(broker.node_id))).collect()
}

pub fn role_name(role: i32) -> &'static str {
    match Role::try_from(role) {
        Ok(Role::Leader) => "leader",
        Ok(Role::Follower) => "follower",
        Ok(Role::Candidate) => "candidate",
        Ok(Role::Inactive) => "inactive",
        Ok(Role::Unspecified) | Err(_) => "unknown",
    }
}

pub fn health_name(health: i32) -> &'static str {
    match Health::try_from(health) {
        Ok(Health::Healthy) => "healthy",
        Ok(Health::Unhealthy) => "unhealthy",
        Ok(Health::Dead) => "dead",
        Ok(Health::Unspecified) | Err(_) => "unknown",
    }
}

fn replica_of(broker: &Broker, partition_id: u32) -> Option<&Replica> {
    broker.replicas.iter().find(|replica| replica.partition_id == partition_id)
}

fn cell(broker: &Broker, partition: &Partition) -> String {
    let Some(replica) = replica_of(broker, partition.partition_id) else {
        return String::new();
    };
    let priority = replica.priority;
    if !broker.reachable {
        return format!("away ({priority})");
    }
    if partition.leader == Some(broker.node_id) {
        let misplaced = if lead(partition) == Lead::NotPrimary { " not primary" } else { "" };
        return format!("LEADER ({priority}){misplaced}");
    }
    let lag = replica.lag_entries.map_or_else(|| "lag ?".to_owned(), |lag| format!("lag {lag}"));
    format!("{} ({priority}) {lag}", role_name(replica.role))
}

/// Partitions × brokers: role, (priority), lag.
pub fn status_table(topology: &TopologyResponse) -> Table {
    status_table_with(topology, &Drained::new())
}

fn status_table_with(topology: &TopologyResponse, drained: &Drained) -> Table {
    let brokers = topology.brokers.iter();
    let header = brokers.map(|broker| {
        let mark = if drained.contains(&broker.node_id) { " drained" } else { "" };
        format!("broker {}{mark}\n{}:{}", broker.node_id, broker.host, broker.port)
    });
    let mut rows = table(std::iter::once("partition".to_owned()).chain(header));
    for partition in &topology.partitions {
        let cells = topology.brokers.iter().map(|broker| Cell::new(cell(broker, partition)));
        let id = Cell::new(partition.partition_id).set_alignment(CellAlignment::Right);
        rows.add_row(std::iter::once(id).chain(cells));
    }
    rows
}

/// `drained` is `None` when nobody told who is.
pub fn status_json(topology: &TopologyResponse, drained: Option<&Drained>, wishes: &Wishes) -> Value {
    let replicas = |partition_id: u32| -> Vec<Value> {
        let of_broker = |broker: &Broker| {
            replica_of(broker, partition_id).map(|replica| {
                json!({
                    "node_id": broker.node_id,
                    "role": role_name(replica.role),
                    "health": health_name(replica.health),
                    "priority": replica.priority,
                    "lag_entries": replica.lag_entries,
                    "lag_bytes": replica.lag_bytes,
                })
            })
        };
        topology.brokers.iter().filter_map(of_broker).collect()
    };
    let partitions = topology.partitions.iter().map(|partition| {
        json!({
            "partition_id": partition.partition_id,
            "leader": partition.leader,
            "primary": partition.primary,
            "on_primary": lead(partition) == Lead::Primary,
            "term": partition.term,
            "replicas": replicas(partition.partition_id),
        })
    });
    let leaders = leaders_per_broker(topology);
    let brokers = topology.brokers.iter().zip(leaders).map(|(broker, (_, leaders))| {
        json!({
            "node_id": broker.node_id,
            "host": broker.host,
            "port": broker.port,
            "version": broker.version,
            "reachable": broker.reachable,
            "drained": drained.map(|drained| drained.contains(&broker.node_id)),
            "leaders": leaders,
        })
    });
    json!({
        "balanced": is_balanced(topology),
        "verdict": verdict(topology, wishes),
        "cluster_size": topology.cluster_size,
        "partitions_count": topology.partitions_count,
        "replication_factor": topology.replication_factor,
        "priority_election": topology.priority_election,
        "gateway_version": topology.gateway_version,
        "brokers": brokers.collect::<Vec<_>>(),
        "partitions": partitions.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// `leaders[p-1]` leads partition p; partition p's primary is broker (p-1) mod 3.
    pub fn topology(leaders: &[Option<u64>]) -> TopologyResponse {
        let partitions = leaders.iter().zip(1u32..).map(|(leader, partition_id)| Partition {
            partition_id,
            leader: *leader,
            primary: Some(u64::from(partition_id - 1) % 3),
            term: 1,
            ..Partition::default()
        });
        let partitions: Vec<Partition> = partitions.collect();
        let brokers = (0..3u64).map(|node_id| {
            let replicas = partitions.iter().map(|partition| Replica {
                partition_id: partition.partition_id,
                role: if partition.leader == Some(node_id) { Role::Leader } else { Role::Follower }.into(),
                priority: if partition.primary == Some(node_id) { 3 } else { 1 },
                lag_entries: (partition.leader != Some(node_id)).then_some(node_id * 10),
                lag_bytes: (partition.leader != Some(node_id)).then_some(node_id * 1_000),
                ..Replica::default()
            });
            Broker {
                node_id,
                host: "h".into(),
                port: 1,
                reachable: true,
                replicas: replicas.collect(),
                ..Broker::default()
            }
        });
        TopologyResponse {
            brokers: brokers.collect(),
            partitions_count: partitions.len() as u32,
            partitions,
            cluster_size: 3,
            replication_factor: 3,
            priority_election: true,
            ..TopologyResponse::default()
        }
    }

    #[test]
    fn balanced_is_what_primaries_lead() {
        let skewed = topology(&[Some(0), Some(0), Some(2)]);
        assert!(!is_balanced(&skewed));
        assert_eq!(misplaced(&skewed), [2].into());
        let even = topology(&[Some(0), Some(1), Some(2)]);
        assert!(is_balanced(&even) && lags_are_known(&even));
        assert!(!is_balanced(&topology(&[Some(0), None, Some(2)])));
    }

    #[test]
    fn a_drained_broker_is_marked() {
        let away = topology(&[Some(0), Some(2), Some(2)]);
        let text = status_table_with(&away, &Drained::from([1])).to_string();
        assert!(text.contains("broker 1 drained") && !text.contains("broker 0 drained"), "{text}");
    }

    #[test]
    fn the_table_shows_role_priority_and_lag_and_marks_misplaced_leaders() {
        let expected = "\
╭───────────┬────────────────────────┬─────────────────────┬─────────────────────╮
│ partition ┆ broker 0               ┆ broker 1            ┆ broker 2            │
│           ┆ h:1                    ┆ h:1                 ┆ h:1                 │
╞═══════════╪════════════════════════╪═════════════════════╪═════════════════════╡
│         1 ┆ LEADER (3)             ┆ follower (1) lag 10 ┆ follower (1) lag 20 │
│         2 ┆ LEADER (1) not primary ┆ follower (3) lag 10 ┆ follower (1) lag 20 │
╰───────────┴────────────────────────┴─────────────────────┴─────────────────────╯";
        assert_eq!(status_table(&topology(&[Some(0), Some(0)])).to_string(), expected);
    }

    #[test]
    fn json_says_the_same() {
        let wishes = Wishes { drained: [1].into(), paused: false };
        let json = status_json(&topology(&[Some(0), Some(0), Some(2)]), Some(&wishes.drained), &wishes);
        assert_eq!(json["balanced"], false);
        assert_eq!(json["partitions"][1]["on_primary"], false);
        assert_eq!(json["partitions"][1]["replicas"][1]["lag_entries"], 10);
        assert_eq!(json["brokers"][0]["leaders"], 2);
        assert_eq!(
            (&json["brokers"][0]["drained"], &json["brokers"][1]["drained"]),
            (&false.into(), &true.into())
        );
        assert!(
            status_json(&topology(&[Some(0)]), None, &Wishes::default())["brokers"][0]["drained"].is_null()
        );
    }
}
