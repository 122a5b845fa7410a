//! What a watcher of the topology is told when one view follows another. Pure.

use evenkeel_protocol::v1::{self, topology_event::Event};

use crate::topology::{BrokerView, PartitionView, Topology};
use crate::topology_views::{epoch_to_v1, to_v1};

/// The whole view.
pub(crate) fn snapshot(topology: &Topology) -> v1::TopologyEvent {
    v1::TopologyEvent { event: Some(Event::Snapshot(to_v1(topology))) }
}

/// The events that make `before` into `after`, brokers first: a leader's broker is known before the leader. A change
/// that has no event of its own makes it one snapshot.
pub(crate) fn events(before: &Topology, after: &Topology) -> Vec<v1::TopologyEvent> {
    if !same_shape(before, after) {
        return vec![snapshot(after)];
    }
    let brokers = before.brokers.iter().zip(&after.brokers);
    let brokers = brokers.filter(|(before, after)| broker_changed(before) != broker_changed(after));
    let brokers = brokers.map(|(_, after)| Event::BrokerChanged(broker_changed(after)));
    let partitions = before.partitions.iter().zip(&after.partitions);
    let partitions = partitions.filter(|(before, after)| before.seen() != after.seen());
    let partitions = partitions.map(|(_, after)| Event::LeaderChanged(leader_changed(after)));
    brokers.chain(partitions).map(|event| v1::TopologyEvent { event: Some(event) }).collect()
}

/// Whether both have the same brokers, partitions and rules.
fn same_shape(before: &Topology, after: &Topology) -> bool {
    let rules = |view: &Topology| {
        (view.cluster_size, view.partitions_count, view.replication_factor, view.priority_election)
    };
    let brokers = |view: &Topology| view.brokers.iter().map(|broker| broker.node).collect::<Vec<_>>();
    let placed = |(before, after): (&PartitionView, &PartitionView)| {
        before.primary == after.primary && before.replicas == after.replicas
    };
    rules(before) == rules(after)
        && brokers(before) == brokers(after)
        && before.partitions.len() == after.partitions.len()
        && before.partitions.iter().zip(&after.partitions).all(placed)
}

fn broker_changed(broker: &BrokerView) -> v1::BrokerChanged {
    v1::BrokerChanged {
        node_id: broker.node.0,
        host: broker.host.clone(),
        port: broker.port,
        version: broker.version.clone(),
        reachable: broker.reachable,
        draining: broker.draining,
        drained: broker.drained,
    }
}

fn leader_changed(partition: &PartitionView) -> v1::LeaderChanged {
    v1::LeaderChanged {
        partition_id: partition.id.0,
        leader: partition.leader.map(|node| node.0),
        epoch: partition.epoch.map(epoch_to_v1),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::{Epoch, NodeId, PartitionId};
    use proptest::prelude::*;

    use super::*;

    fn broker(node: u64) -> BrokerView {
        BrokerView {
            node: NodeId(node),
            host: "b".into(),
            port: 1,
            version: "1".into(),
            uuid: String::new(),
            reachable: true,
            draining: false,
            drained: false,
            replicated_bytes_total: 0,
            facts: crate::topology::HostFacts::default(),
            replicas: Vec::new(),
        }
    }

    fn partition(id: u32, leader: Option<u64>, term: u64, node: u64) -> PartitionView {
        PartitionView {
            id: PartitionId(id),
            leader: leader.map(NodeId),
            epoch: (term > 0).then_some(Epoch { term, node: NodeId(node) }),
            primary: Some(NodeId(0)),
            replicas: vec![NodeId(0), NodeId(1)],
            records: 0,
            counted: true,
        }
    }

    fn view(partitions: Vec<PartitionView>) -> Topology {
        Topology {
            cluster_size: 2,
            partitions_count: partitions.len() as u32,
            replication_factor: 2,
            priority_election: true,
            brokers: vec![broker(0), broker(1)],
            partitions,
            system: None,
        }
    }

    fn told(before: &Topology, after: &Topology) -> Vec<Event> {
        events(before, after).into_iter().map(|event| event.event.unwrap()).collect()
    }

    fn leader_event(partition_id: u32, leader: Option<u64>, term: u64, node_id: u64) -> Event {
        let epoch = Some(v1::Epoch { term, node_id });
        Event::LeaderChanged(v1::LeaderChanged { partition_id, leader, epoch })
    }

    #[test]
    fn a_new_leader_a_new_epoch_and_a_lost_leader_are_told_with_the_fencing_token() {
        let before = view(vec![partition(1, Some(0), 3, 0), partition(2, Some(1), 3, 1)]);
        let moved = view(vec![partition(1, Some(1), 4, 1), partition(2, Some(1), 3, 1)]);
        assert_eq!(told(&before, &moved), [leader_event(1, Some(1), 4, 1)]);
        // The same broker once more: whoever fences by epoch must know.
        let again = view(vec![partition(1, Some(0), 5, 0), partition(2, Some(1), 3, 1)]);
        assert_eq!(told(&before, &again), [leader_event(1, Some(0), 5, 0)]);
        let lost = view(vec![partition(1, None, 3, 0), partition(2, None, 3, 1)]);
        let expected = [leader_event(1, None, 3, 0), leader_event(2, None, 3, 1)];
        assert_eq!(told(&before, &lost), expected);
    }

    #[test]
    fn a_broker_that_comes_goes_or_drains_is_told_before_the_leaders() {
        let before = view(vec![partition(1, Some(0), 3, 0)]);
        let mut after = view(vec![partition(1, Some(1), 4, 1)]);
        after.brokers[0].reachable = false;
        after.brokers[1].draining = true;
        let changed = [broker_changed(&after.brokers[0]), broker_changed(&after.brokers[1])];
        assert!(!changed[0].reachable && changed[1].draining);
        let [gone, draining] = changed.map(Event::BrokerChanged);
        assert_eq!(told(&before, &after), [gone, draining, leader_event(1, Some(1), 4, 1)]);
    }

    #[test]
    fn records_and_lag_are_no_news_and_another_shape_is_a_snapshot() {
        let before = view(vec![partition(1, Some(0), 3, 0)]);
        let mut busy = before.clone();
        busy.partitions[0].records = 9;
        assert_eq!(told(&before, &busy), []);
        let mut grown = before.clone();
        grown.brokers.push(broker(2));
        let mut switched = before.clone();
        switched.priority_election = false;
        let mut placed = before.clone();
        placed.partitions[0].primary = Some(NodeId(1));
        for after in [grown, switched, placed] {
            assert_eq!(told(&before, &after), [Event::Snapshot(to_v1(&after))]);
        }
    }

    fn views() -> impl Strategy<Value = Topology> {
        let one = (proptest::option::of(0..2u64), 1..4u64, 0..2u64, any::<bool>());
        (proptest::collection::vec(one, 1..4), any::<bool>(), any::<bool>()).prop_map(
            |(partitions, up, rule)| {
                let partitions = partitions.into_iter().zip(1..);
                let partitions =
                    partitions.map(|((leader, term, node, _), id)| partition(id, leader, term, node));
                let mut view = view(partitions.collect());
                view.brokers[1].reachable = up;
                view.priority_election = rule;
                view
            },
        )
    }

    proptest! {
        #[test]
        fn events_applied_in_order_give_the_last_view(views in proptest::collection::vec(views(), 1..8)) {
            let mut copy = to_v1(&views[0]);
            for pair in views.windows(2) {
                for event in told(&pair[0], &pair[1]) {
                    match event {
                        Event::Snapshot(snapshot) => copy = snapshot,
                        Event::LeaderChanged(changed) => {
                            let partition = &mut copy.partitions[changed.partition_id as usize - 1];
                            partition.leader = changed.leader;
                            partition.epoch = changed.epoch;
                            partition.term = changed.epoch.map_or(0, |epoch| epoch.term);
                        }
                        Event::BrokerChanged(changed) => {
                            let broker = copy.brokers.iter_mut().find(|b| b.node_id == changed.node_id);
                            broker.unwrap().reachable = changed.reachable;
                        }
                    }
                }
            }
            prop_assert_eq!(copy, to_v1(views.last().unwrap()));
        }
    }
}
