//! One line about a cluster: how it is, and what would help. It advises only what can work now: no rebalance while those
//! who should lead are away, lag or may not be moved.

use std::collections::BTreeSet;

use evenkeel_gateway::planner::REPLICATION_LAG_BYTES_MAX;
use evenkeel_protocol::v1::{Broker, Partition, Replica, TopologyResponse};
use evenkeel_protocol::{LagVerdict, judge_lag};

use crate::commands::status::{Lead, lead, leaders_per_broker};

/// What operators have asked of the cluster, as far as the gateway tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Node ids of brokers that are to lead nothing.
    pub drained: BTreeSet<u64>,
    /// Every rebalance is refused.
    pub paused: bool,
}

/// One line: how it is, and what to do about it.
pub fn verdict(topology: &TopologyResponse, wishes: &Wishes) -> String {
    let total = topology.partitions_count as usize;
    let led = topology.partitions.iter().filter(|partition| lead(partition) != Lead::Nobody).count();
    let misplaced: Vec<&Partition> =
        topology.partitions.iter().filter(|partition| is_misplaced(partition, wishes)).collect();
    let mut parts = Vec::new();
    if total == 0 {
        parts.push("the gateway knows no partition yet: are the brokers running?".to_owned());
    } else if led < total {
        parts.push(format!("{} of {total} partitions have no leader: {}", total - led, elections(topology)));
    }
    if !misplaced.is_empty() {
        let count = misplaced.len();
        let advice = advice(topology, &misplaced, wishes);
        parts.push(format!("{count} of {led} leaders are not on their primary: {advice}"));
    } else if total > 0 && led == total {
        let spread = leaders_per_broker(topology).iter().map(|(_, led)| led.to_string()).collect::<Vec<_>>();
        parts.push(format!("balanced: {} leaders per broker", spread.join("/")));
    }
    let away = topology.brokers.iter().filter(|broker| !broker.reachable).map(|broker| broker.node_id);
    let away: BTreeSet<u64> = away.collect();
    if !away.is_empty() {
        parts.push(format!("not reachable: broker {}", listed(&away)));
    }
    if !wishes.drained.is_empty() {
        let drained = listed(&wishes.drained);
        parts.push(format!("drained: broker {drained}; `evenkeel undrain` lets it lead again"));
    }
    parts.join("; ")
}

/// A drained primary is not to lead, and a drained leader is to leave.
pub fn is_misplaced(partition: &Partition, wishes: &Wishes) -> bool {
    let drained = |node: Option<u64>| node.is_some_and(|node| wishes.drained.contains(&node));
    match drained(partition.primary) {
        true => drained(partition.leader),
        false => lead(partition) == Lead::NotPrimary,
    }
}

/// What would help a misplaced partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helps {
    Rebalance,
    /// This broker has to catch up first.
    Wait(u64),
    /// This broker has to be started first.
    Start(u64),
}

fn advice(topology: &TopologyResponse, misplaced: &[&Partition], wishes: &Wishes) -> String {
    if !topology.priority_election {
        return "priority election is off, so priorities do not decide; `evenkeel rebalance --policy even-count` evens \
                them out"
            .to_owned();
    }
    let helps: Vec<Helps> = misplaced.iter().map(|partition| helps(topology, partition, wishes)).collect();
    let movable = helps.iter().filter(|helps| **helps == Helps::Rebalance).count();
    let wait: BTreeSet<u64> = helps
        .iter()
        .filter_map(|helps| if let Helps::Wait(node) = helps { Some(*node) } else { None })
        .collect();
    let start: BTreeSet<u64> = helps
        .iter()
        .filter_map(|helps| if let Helps::Start(node) = helps { Some(*node) } else { None })
        .collect();
    let mut first = Vec::new();
    if !start.is_empty() {
        first.push(format!("start broker {}", listed(&start)));
    }
    if !wait.is_empty() {
        first.push(format!("wait until broker {} has caught up", listed(&wait)));
    }
    let rebalance = match wishes.paused {
        true => "`evenkeel resume`, since ownership is paused, and then run `evenkeel rebalance`",
        false => "run `evenkeel rebalance`",
    };
    match (movable, first.is_empty()) {
        (_, true) => rebalance.to_owned(),
        (0, false) => format!("{}, then {rebalance}", first.join(" and ")),
        (_, false) => format!("{rebalance}, which moves {movable}; for the others {}", first.join(" and ")),
    }
}

/// A rebalance hands over to whoever has a higher priority than the leader, can be reached and lacks little.
fn helps(topology: &TopologyResponse, partition: &Partition, wishes: &Wishes) -> Helps {
    let leader = partition.leader;
    let must_leave = leader.is_some_and(|leader| wishes.drained.contains(&leader));
    let own = replicas(topology, partition).find(|(broker, _)| Some(broker.node_id) == leader);
    let own = own.map_or(0, |(_, replica)| replica.priority);
    let mut better: Vec<(&Broker, &Replica)> = replicas(topology, partition)
        .filter(|(broker, _)| Some(broker.node_id) != leader && !wishes.drained.contains(&broker.node_id))
        .filter(|(_, replica)| must_leave || replica.priority > own)
        .collect();
    better.sort_by_key(|(_, replica)| std::cmp::Reverse(replica.priority));
    let able = |(broker, replica): &(&Broker, &Replica)| {
        let lag = judge_lag(replica.lag_entries, replica.lag_bytes, REPLICATION_LAG_BYTES_MAX);
        broker.reachable && lag == LagVerdict::WithinLimit
    };
    match better.first() {
        _ if better.iter().any(able) => Helps::Rebalance,
        Some((broker, _)) if broker.reachable => Helps::Wait(broker.node_id),
        Some((broker, _)) => Helps::Start(broker.node_id),
        // The gateway names a primary whose replica it does not show: it has not heard that broker yet.
        None => Helps::Start(partition.primary.unwrap_or_default()),
    }
}

/// What to do about partitions that nobody leads.
fn elections(topology: &TopologyResponse) -> String {
    let mut start = BTreeSet::new();
    for partition in topology.partitions.iter().filter(|partition| lead(partition) == Lead::Nobody) {
        let (here, away): (Vec<_>, Vec<_>) =
            replicas(topology, partition).map(|(broker, _)| broker).partition(|broker| broker.reachable);
        // Without a majority there is no election to wait for.
        if here.len() <= (here.len() + away.len()) / 2 {
            start.extend(away.iter().map(|broker| broker.node_id));
        }
    }
    match start.is_empty() {
        true => "wait for their election, it takes half a second".to_owned(),
        false => format!("start broker {}, most replicas of a partition must run", listed(&start)),
    }
}

pub fn replicas<'a>(
    topology: &'a TopologyResponse,
    partition: &'a Partition,
) -> impl Iterator<Item = (&'a Broker, &'a Replica)> {
    let of_partition = |broker: &'a Broker| {
        let mut replicas = broker.replicas.iter();
        Some((broker, replicas.find(|replica| replica.partition_id == partition.partition_id)?))
    };
    topology.brokers.iter().filter_map(of_partition)
}

pub fn listed(nodes: &BTreeSet<u64>) -> String {
    nodes.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::topology;

    fn told(topology: &TopologyResponse) -> String {
        verdict(topology, &Wishes::default())
    }

    /// What broker `node` lacks everywhere.
    fn lags(topology: &mut TopologyResponse, node: usize, bytes: u64) {
        for replica in &mut topology.brokers[node].replicas {
            (replica.lag_entries, replica.lag_bytes) = (Some(9), Some(bytes));
        }
    }

    #[test]
    fn it_advises_a_rebalance_only_where_one_would_move_something() {
        const NOT_PRIMARY: &str = "1 of 3 leaders are not on their primary: ";
        let skewed = topology(&[Some(0), Some(0), Some(2)]);
        assert_eq!(told(&skewed), format!("{NOT_PRIMARY}run `evenkeel rebalance`"));

        let mut away = skewed.clone();
        away.brokers[1].reachable = false;
        let expected =
            format!("{NOT_PRIMARY}start broker 1, then run `evenkeel rebalance`; not reachable: broker 1");
        assert_eq!(told(&away), expected);

        let mut lagging = skewed.clone();
        lags(&mut lagging, 1, REPLICATION_LAG_BYTES_MAX + 1);
        let expected =
            format!("{NOT_PRIMARY}wait until broker 1 has caught up, then run `evenkeel rebalance`");
        assert_eq!(told(&lagging), expected);
        lags(&mut lagging, 1, REPLICATION_LAG_BYTES_MAX);
        assert_eq!(told(&lagging), format!("{NOT_PRIMARY}run `evenkeel rebalance`"));

        let mut mixed = topology(&[Some(2), Some(0), Some(2)]);
        mixed.brokers[1].reachable = false;
        let expected = "2 of 3 leaders are not on their primary: run `evenkeel rebalance`, which moves 1; for the others \
                        start broker 1; not reachable: broker 1";
        assert_eq!(told(&mixed), expected);

        let paused = Wishes { paused: true, ..Wishes::default() };
        assert_eq!(
            verdict(&skewed, &paused),
            format!(
                "{NOT_PRIMARY}`evenkeel resume`, since ownership is paused, and then run `evenkeel rebalance`"
            )
        );
        let without_priorities = TopologyResponse { priority_election: false, ..skewed };
        assert!(told(&without_priorities).contains("`evenkeel rebalance --policy even-count`"));
    }

    #[test]
    fn a_next_best_replica_that_can_take_over_is_worth_a_rebalance() {
        // Broker 0 should lead partition 1 and is away; broker 1 has the next priority.
        let mut view = topology(&[Some(2), Some(1), Some(2)]);
        view.brokers[0].reachable = false;
        view.brokers[1].replicas[0].priority = 2;
        assert!(
            told(&view).starts_with("1 of 3 leaders are not on their primary: run `evenkeel rebalance`;")
        );
    }

    #[test]
    fn a_cluster_in_order_is_called_balanced() {
        assert_eq!(told(&topology(&[Some(0), Some(1), Some(2)])), "balanced: 1/1/1 leaders per broker");
        assert!(told(&TopologyResponse::default()).contains("no partition yet"));
    }

    #[test]
    fn what_nobody_leads_needs_brokers_or_a_moment() {
        let mut headless = topology(&[Some(0), None, Some(2)]);
        let wait = "1 of 3 partitions have no leader: wait for their election, it takes half a second";
        assert_eq!(told(&headless), wait);
        headless.brokers[1].reachable = false;
        assert!(told(&headless).starts_with(wait), "two of three can elect");
        headless.brokers[2].reachable = false;
        assert!(
            told(&headless).starts_with("1 of 3 partitions have no leader: start broker 1, 2, most replicas")
        );
    }

    #[test]
    fn partitions_of_a_drained_broker_are_not_called_misplaced_unless_it_leads_them() {
        let wishes = Wishes { drained: [1].into(), paused: false };
        let remedy = "drained: broker 1; `evenkeel undrain` lets it lead again";
        let left = topology(&[Some(0), Some(2), Some(2)]);
        assert_eq!(verdict(&left, &wishes), format!("balanced: 1/0/2 leaders per broker; {remedy}"));
        let still_there = topology(&[Some(0), Some(1), Some(2)]);
        let expected = format!("1 of 3 leaders are not on their primary: run `evenkeel rebalance`; {remedy}");
        assert_eq!(verdict(&still_there, &wishes), expected);
    }
}
