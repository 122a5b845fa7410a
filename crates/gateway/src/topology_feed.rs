//! Runs the topology: takes events from the broker links, merges them, publishes the view and its metrics.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::{NodeId, PartitionId};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::metric_definitions;
use crate::options::Contact;
use crate::rebalance_record::is_balanced;
use crate::topology::{ClusterState, Event, SharedTopology, Topology};

/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(250);
/// Events merged into one new view when they arrive in a crowd.
const EVENTS_MERGED_MAX: usize = 256;

/// Publishes a new view after every change until all senders of `events` are gone.
pub(crate) async fn run(
    contacts: Vec<Contact>,
    mut events: mpsc::Receiver<Event>,
    publish: watch::Sender<SharedTopology>,
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
        let now = Instant::now();
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
        let view = state.view(now);
        let changed = **publish.borrow() != view;
        if changed {
            log_leader_changes(&publish.borrow(), &view);
            roles.show(&view);
            publish.send_replace(Arc::new(view));
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

/// Sets only the gauges whose role changed: a large cluster has tens of thousands.
#[derive(Default)]
struct RoleGauges {
    shown: BTreeMap<(PartitionId, NodeId), f64>,
    balanced: BTreeMap<PartitionId, bool>,
}

impl RoleGauges {
    fn show(&mut self, view: &Topology) {
        for partition in &view.partitions {
            let balanced = is_balanced(partition);
            if self.balanced.insert(partition.id, balanced) != Some(balanced) {
                metric_definitions::partition_balanced(partition.id).set(f64::from(u8::from(balanced)));
            }
        }
        for broker in &view.brokers {
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
