//! Drained brokers: what an operator wants, and what is to be done about it. Pure; `drain_keeper` does it.
//!
//! The wish is kept in the system group. Brokers remember what they were told, and tell it with their status; a broker
//! that says otherwise than wished has not heard yet. What a drained broker leads all the same, say because it was the
//! only one left for a while, is moved away when somebody else can take it.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

use crate::topology::Topology;

/// The brokers that are to lead nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct DrainedBrokers(pub(crate) BTreeMap<NodeId, DrainedSince>);

/// Since when a broker is drained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DrainedSince {
    /// RFC 3339.
    pub(crate) since: String,
}

impl DrainedBrokers {
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.0.contains_key(&node)
    }
}

/// Why a broker cannot be drained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Undrainable {
    #[error("broker {0} is not in cluster.brokers; GET /cluster/v2/brokers lists those that are")]
    Unknown(NodeId),
    #[error(
        "broker {0} is the last one that answers and is not drained: nobody would be left to lead; undrain another \
         one first"
    )]
    LastOne(NodeId),
}

/// Whether draining `node` leaves somebody to lead.
pub(crate) fn may_drain(
    topology: &Topology,
    drained: &DrainedBrokers,
    node: NodeId,
) -> Result<(), Undrainable> {
    if topology.broker(node).is_none() {
        return Err(Undrainable::Unknown(node));
    }
    let others = topology.brokers.iter().filter(|broker| broker.node != node);
    let willing =
        others.filter(|broker| broker.reachable && !broker.draining && !drained.contains(broker.node));
    if willing.count() == 0 { Err(Undrainable::LastOne(node)) } else { Ok(()) }
}

/// What is not yet as wished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Upkeep {
    /// Brokers to be told, and what.
    pub(crate) tell: Vec<(NodeId, bool)>,
    /// Partitions that drained brokers lead.
    pub(crate) led: BTreeSet<PartitionId>,
    /// The drained broker that leads the system group.
    pub(crate) leads_system: Option<NodeId>,
}

/// Compares what is wished with what brokers say.
pub(crate) fn upkeep(topology: &Topology, drained: &DrainedBrokers) -> Upkeep {
    let reachable = topology.brokers.iter().filter(|broker| broker.reachable);
    let unheard = reachable.filter(|broker| broker.drained != drained.contains(broker.node));
    let by_drained = |leader: Option<NodeId>| leader.filter(|node| drained.contains(*node));
    let led = topology.partitions.iter().filter(|partition| by_drained(partition.leader).is_some());
    Upkeep {
        tell: unheard.map(|broker| (broker.node, drained.contains(broker.node))).collect(),
        led: led.map(|partition| partition.id).collect(),
        leads_system: by_drained(topology.system.as_ref().and_then(|group| group.leader)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{BrokerView, PartitionView};

    /// Brokers by (reachable, says that it is drained), and who leads the partitions.
    fn topology(brokers: &[(bool, bool)], leaders: &[u64]) -> Topology {
        let broker = |(node, &(reachable, drained)): (u64, &(bool, bool))| BrokerView {
            node: NodeId(node),
            host: "b".into(),
            port: 1,
            version: String::new(),
            uuid: String::new(),
            reachable,
            draining: false,
            drained,
            replicated_bytes_total: 0,
            facts: crate::topology::HostFacts::default(),
            replicas: Vec::new(),
        };
        let partition = |(id, leader): (u32, &u64)| PartitionView {
            id: PartitionId(id),
            leader: Some(NodeId(*leader)),
            epoch: None,
            primary: None,
            replicas: Vec::new(),
            records: 0,
            counted: true,
        };
        Topology {
            brokers: (0..).zip(brokers).map(broker).collect(),
            partitions: (1..).zip(leaders).map(partition).collect(),
            ..Topology::default()
        }
    }

    fn drained(nodes: &[u64]) -> DrainedBrokers {
        DrainedBrokers(nodes.iter().map(|n| (NodeId(*n), DrainedSince { since: String::new() })).collect())
    }

    #[test]
    fn brokers_that_say_otherwise_than_wished_are_told_and_what_they_lead_is_named() {
        let table = [
            (vec![(true, false), (true, false)], vec![0, 1], vec![], Upkeep::default()),
            (
                vec![(true, false), (true, false)],
                vec![0, 1, 1],
                vec![1],
                Upkeep {
                    tell: vec![(NodeId(1), true)],
                    led: [PartitionId(2), PartitionId(3)].into(),
                    leads_system: None,
                },
            ),
            (vec![(true, false), (true, true)], vec![0], vec![1], Upkeep::default()),
            // It is told when it is back.
            (vec![(true, false), (false, false)], vec![0], vec![1], Upkeep::default()),
            (
                vec![(true, false), (true, true)],
                vec![0],
                vec![],
                Upkeep { tell: vec![(NodeId(1), false)], ..Upkeep::default() },
            ),
        ];
        for (brokers, leaders, wished, expected) in table {
            assert_eq!(
                upkeep(&topology(&brokers, &leaders), &drained(&wished)),
                expected,
                "{brokers:?} {wished:?}"
            );
        }
    }

    #[test]
    fn somebody_must_be_left_to_lead() {
        let three = [(true, false), (true, false), (false, false)];
        let view = topology(&three, &[]);
        assert_eq!(may_drain(&view, &drained(&[]), NodeId(1)), Ok(()));
        assert_eq!(may_drain(&view, &drained(&[1]), NodeId(1)), Ok(()), "asked for twice");
        assert_eq!(may_drain(&view, &drained(&[0]), NodeId(1)), Err(Undrainable::LastOne(NodeId(1))));
        assert_eq!(may_drain(&view, &drained(&[]), NodeId(7)), Err(Undrainable::Unknown(NodeId(7))));
    }
}
