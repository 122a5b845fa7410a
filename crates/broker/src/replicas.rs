//! The replicas that this broker hosts.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel_protocol::PartitionId;

use crate::elector::Elector;
use crate::replica::Replica;

/// Fixed once the broker has started.
#[derive(Clone)]
pub struct Replicas {
    by_partition: Arc<BTreeMap<PartitionId, Arc<Replica>>>,
    pub elector: Elector,
}

impl Replicas {
    pub fn new(replicas: impl IntoIterator<Item = Arc<Replica>>, elector: Elector) -> Self {
        let by_partition = replicas.into_iter().map(|r| (r.partition, r)).collect();
        Self { by_partition: Arc::new(by_partition), elector }
    }

    pub fn get(&self, partition: u32) -> Option<&Arc<Replica>> {
        self.by_partition.get(&PartitionId(partition))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.by_partition.values()
    }

    pub fn len(&self) -> usize {
        self.by_partition.len()
    }
}
