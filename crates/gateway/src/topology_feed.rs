//! Runs the topology: takes events from the broker links, merges them, publishes the view and its metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::v1::Role;
use evenkeel_protocol::{NodeId, PartitionId};
use evenkeel_supervision::Progress;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::clock;
use crate::metric_definitions;
use crate::options::Contact;
use crate::rebalance_record::is_balanced;
use crate::topology::{ClusterState, Event, PartitionView, SharedTopology, Topology};

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(250);
/// After a view, as long again is left to others, but no longer than this: leaders must be known soon.
const PAUSE_MIN: Duration = Duration::from_micros(500);
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// Events merged into one new view when they arrive in a crowd.
const EVENTS_MERGED_MAX: usize = 256;

/// Publishes a new view after every change until all senders of `events` are gone. Goes round at every tick.
pub(crate) async fn run(
    contacts: Vec<Contact>,
    mut events: mpsc::Receiver<Event>,
    publish: watch::Sender<SharedTopology>,
    progress: Progress,
) {
    let mut state = ClusterState::new(&contacts);
    let mut refusals: HashMap<NodeId, String> = HashMap::new();
    let mut roles = RoleGauges::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(EVENTS_MERGED_MAX);
    loop {
        tokio::select! {
            received = events.recv_many(&mut batch, EVENTS_MERGED_MAX) => {
                if received == 0 {
                    return;
                }
            }
            _ = tick.tick() => batch.push(Event::Tick),
        }
        progress.beat();
        let now = clock::now();
        for event in batch.drain(..) {
            let node = match &event {
                Event::Status(status) => Some(NodeId(status.node_id)),
                Event::Lost(_) | Event::Tick => None,
            };
            match (state.apply(event, now), node) {
                (Ok(()), Some(node)) => {
                    refusals.remove(&node);
                }
                (Err(refused), Some(node)) => {
                    let text = refused.to_string();
                    if refusals.insert(node, text.clone()).as_ref() != Some(&text) {
                        tracing::error!("status ignored: {text}");
                    }
                }
                (_, None) => {}
            }
        }
        let began = clock::now();
        let view = state.view(now);
        let changed = **publish.borrow() != view;
        if changed {
            log_leader_changes(&publish.borrow(), &view);
            roles.show(&view);
            publish.send_replace(Arc::new(view));
        }
        // With thousands of replicas a view takes milliseconds: what comes meanwhile is merged into the next.
        let took = clock::now().saturating_duration_since(began);
        if took >= PAUSE_MIN {
            tokio::time::sleep(took.min(PAUSE_MAX)).await;
        }
    }
}

fn log_leader_changes(before: &Topology, after: &Topology) {
    for partition in &after.partitions {
        let earlier = before.partition(partition.id).and_then(|earlier| earlier.leader);
        if earlier != partition.leader {
            tracing::debug!(partition = %partition.id, from = ?earlier, to = ?partition.leader, "leader changed");
        }
    }
}

/// How many more replicas each partition can lose and still have a majority; below 0 it has none now.
pub(crate) fn quorum_margins(view: &Topology) -> BTreeMap<PartitionId, i64> {
    let mut working: BTreeMap<PartitionId, i64> = BTreeMap::new();
    for replica in view.brokers.iter().flat_map(|broker| &broker.replicas) {
        // Replicas of brokers that are away are shown as inactive.
        *working.entry(replica.partition).or_default() += i64::from(replica.role != Role::Inactive);
    }
    let margin = |partition: &PartitionView| {
        let majority = partition.replicas.len() as i64 / 2 + 1;
        (partition.id, working.get(&partition.id).copied().unwrap_or(0) - majority)
    };
    view.partitions.iter().map(margin).collect()
}

/// Sets only the gauges whose role changed: a large cluster has tens of thousands.
#[derive(Default)]
struct RoleGauges {
    shown: BTreeMap<(PartitionId, NodeId), f64>,
    balanced: BTreeMap<PartitionId, bool>,
    margins: BTreeMap<PartitionId, i64>,
    brokers: BTreeMap<NodeId, (bool, bool)>,
}

impl RoleGauges {
    fn show(&mut self, view: &Topology) {
        for partition in &view.partitions {
            let balanced = is_balanced(partition);
            if self.balanced.insert(partition.id, balanced) != Some(balanced) {
                metric_definitions::partition_balanced(partition.id).set(f64::from(u8::from(balanced)));
            }
        }
        for (partition, margin) in quorum_margins(view) {
            if self.margins.insert(partition, margin) != Some(margin) {
                metric_definitions::quorum_margin(partition).set(margin as f64);
            }
        }
        for broker in &view.brokers {
            let state = (broker.reachable, broker.drained);
            if self.brokers.insert(broker.node, state) != Some(state) {
                let number = |yes| f64::from(u8::from(yes));
                metric_definitions::broker_reachable(broker.node).set(number(broker.reachable));
                metric_definitions::broker_drained(broker.node).set(number(broker.drained));
            }
            for replica in &broker.replicas {
                let number = metric_definitions::role_number(replica.role);
                let shown = self.shown.insert((replica.partition, broker.node), number);
                if shown != Some(number) {
                    metric_definitions::partition_role(replica.partition, broker.node).set(number);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::v1::Health;

    use super::*;
    use crate::topology::{BrokerView, ReplicaView};

    /// One partition with a replica on each broker; `None` for a broker that is away.
    fn view(roles: &[Option<Role>]) -> Topology {
        let broker = |(node, role): (u64, &Option<Role>)| BrokerView {
            node: NodeId(node),
            host: "b".into(),
            port: 1,
            version: String::new(),
            uuid: String::new(),
            reachable: role.is_some(),
            draining: false,
            drained: false,
            replicated_bytes_total: 0,
            facts: crate::topology::HostFacts::default(),
            replicas: vec![ReplicaView {
                partition: PartitionId(1),
                role: role.unwrap_or(Role::Inactive),
                health: Health::Healthy,
                priority: 1,
                term: 1,
                lag_entries: None,
                lag_bytes: None,
                indices: crate::topology::Indices::default(),
            }],
        };
        let partition = PartitionView {
            id: PartitionId(1),
            leader: None,
            epoch: None,
            primary: None,
            replicas: (0..roles.len() as u64).map(NodeId).collect(),
            records: 0,
            counted: false,
        };
        let brokers = (0..).zip(roles).map(broker).collect();
        Topology { brokers, partitions: vec![partition], ..Topology::default() }
    }

    #[test]
    fn the_quorum_margin_is_what_can_be_lost_before_the_majority_is() {
        let (leader, follower, away) = (Some(Role::Leader), Some(Role::Follower), None);
        let table = [
            (vec![leader], 0),
            (vec![leader, follower], 0),
            (vec![leader, follower, follower], 1),
            (vec![leader, away, follower], 0),
            (vec![Some(Role::Candidate), away, away], -1),
            (vec![leader, Some(Role::Inactive), follower], 0),
            (vec![leader, follower, follower, follower, follower], 2),
            (vec![away, away, away], -2),
        ];
        for (roles, margin) in table {
            assert_eq!(quorum_margins(&view(&roles)), [(PartitionId(1), margin)].into(), "{roles:?}");
        }
    }
}
