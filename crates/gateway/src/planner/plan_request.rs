//! What a plan is asked for.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

/// Most bytes that a new leader may lack, unless the request says otherwise.
pub const REPLICATION_LAG_BYTES_MAX: u64 = 8 << 20;

/// Who should lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The highest-priority replica that is caught up.
    #[default]
    Primary,
    /// Leaders per broker differ by at most one, as far as the replicas allow, with the fewest moves.
    EvenCount,
    /// Records owned per broker as even as the partitions allow.
    Records,
}

/// A request for a plan. The default is a rebalance to the primaries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    /// Who should lead.
    pub policy: Policy,
    /// Most bytes that a new leader may lack.
    pub replication_lag_bytes_max: u64,
    /// Most leaderships that a broker may be given; `None` for no cap. Only a drain may exceed it.
    pub leaders_per_broker_max: Option<u32>,
    /// Only these may be moved; `None` for all. The others still count as load. Unknown ids do nothing.
    pub partitions: Option<BTreeSet<PartitionId>>,
    /// These partitions go to these brokers, whatever the policy wants. Unknown ids do nothing.
    pub targets: BTreeMap<PartitionId, NodeId>,
}

impl Default for PlanRequest {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            replication_lag_bytes_max: REPLICATION_LAG_BYTES_MAX,
            leaders_per_broker_max: None,
            partitions: None,
            targets: BTreeMap::new(),
        }
    }
}
