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
use crate::topology::{BrokerView, ClusterState, Event, ReplicaView, SharedTopology, Topology};

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
                Event::Status(status) => Some(NodeId(status.head.node_id)),
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
        if **publish.borrow() != view {
            let before = publish.borrow().clone();
            log_leader_changes(&before, &view);
            show_gauges(&before, &view);
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
    view.partitions.iter().map(|partition| partition.id).zip(margins(view)).collect()
}

/// In order of partition.
fn margins(view: &Topology) -> impl Iterator<Item = i64> {
    let mut working = vec![0; view.partitions.len() + 1];
    for replica in view.brokers.iter().flat_map(|broker| &broker.replicas) {
        // Replicas of brokers that are away are shown as inactive.
        if let Some(working) = working.get_mut(replica.partition.0 as usize) {
            *working += i64::from(replica.role != Role::Inactive);
        }
    }
    view.partitions.iter().map(move |partition| {
        let majority = partition.replicas.len() as i64 / 2 + 1;
        working.get(partition.id.0 as usize).copied().unwrap_or(0) - majority
    })
}

/// Sets only the gauges that changed: a large cluster has tens of thousands.
fn show_gauges(before: &Topology, now: &Topology) {
    let number = |yes| f64::from(u8::from(yes));
    let before_margins = margins(before).map(Some).chain(std::iter::repeat(None));
    for ((partition, margin), before_margin) in now.partitions.iter().zip(margins(now)).zip(before_margins) {
        let balanced = is_balanced(partition);
        if before.partition(partition.id).map(is_balanced) != Some(balanced) {
            metric_definitions::partition_balanced(partition.id).set(number(balanced));
        }
        if before_margin != Some(margin) {
            metric_definitions::quorum_margin(partition.id).set(margin as f64);
        }
    }
    for broker in &now.brokers {
        let earlier = before.broker(broker.node);
        let state = |broker: &BrokerView| (broker.reachable, broker.drained);
        if earlier.map(state) != Some(state(broker)) {
            metric_definitions::broker_reachable(broker.node).set(number(broker.reachable));
            metric_definitions::broker_drained(broker.node).set(number(broker.drained));
        }
        let role = |replica: &ReplicaView| (replica.partition, replica.role);
        for (at, replica) in broker.replicas.iter().enumerate() {
            let then = earlier.and_then(|earlier| earlier.replicas.get(at)).map(role);
            if then != Some(role(replica)) {
                let shown = metric_definitions::role_number(replica.role);
                metric_definitions::partition_role(replica.partition, broker.node).set(shown);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::v1::Health;

    use super::*;
    use crate::topology::PartitionView;

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
