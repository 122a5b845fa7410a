//! Names a plan by what it depends on and what it decides, so that a run can be refused when the cluster is no
//! longer the one that the dry run showed.
//!
//! In: the request; pause; brokers with health and drain; partitions with leader, term and replicas; of each
//! replica its priority and whether and why it cannot take over; every decision with its reason. Out: lag below or
//! above the threshold, record counts, loads, alternatives and sentences: they change with every write.

use xxhash_rust::xxh3::Xxh3;

use super::cluster_view::ClusterView;
use super::decisions::{Decision, PartitionDecision};
use super::plan_request::{PlanRequest, Policy};
use super::standing::{Brokers, Obstacle, Standing, obstacle};

/// 16 hexadecimal digits.
pub(super) fn fingerprint(
    cluster: &ClusterView,
    request: &PlanRequest,
    brokers: &Brokers,
    standings: &[Standing<'_>],
    decisions: &[PartitionDecision],
) -> String {
    let mut hash = Fields(Xxh3::new());
    hash.request(request);
    hash.number(u64::from(cluster.paused));
    hash.count(brokers.len());
    for broker in brokers.iter() {
        hash.number(broker.node.0);
        hash.number(u64::from(broker.healthy) << 1 | u64::from(broker.drained));
    }
    hash.count(standings.len());
    for (standing, decision) in standings.iter().zip(decisions) {
        hash.standing(standing, brokers, request);
        hash.decision(decision);
    }
    format!("{:016x}", hash.0.digest())
}

/// Every field at fixed width and every list after its length, so that no two plans run into the same bytes.
struct Fields(Xxh3);

impl Fields {
    fn number(&mut self, number: u64) {
        self.0.update(&number.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn optional(&mut self, number: Option<u64>) {
        self.number(u64::from(number.is_some()));
        self.number(number.unwrap_or(0));
    }

    fn request(&mut self, request: &PlanRequest) {
        self.number(match request.policy {
            Policy::Primary => 0,
            Policy::EvenCount => 1,
            Policy::Records => 2,
        });
        self.number(request.replication_lag_bytes_max);
        self.optional(request.leaders_per_broker_max.map(u64::from));
        self.optional(request.partitions.as_ref().map(|wanted| wanted.len() as u64));
        for partition in request.partitions.iter().flatten() {
            self.number(u64::from(partition.0));
        }
        self.count(request.targets.len());
        for (partition, target) in &request.targets {
            self.number(u64::from(partition.0));
            self.number(target.0);
        }
    }

    fn standing(&mut self, standing: &Standing<'_>, brokers: &Brokers, request: &PlanRequest) {
        let partition = standing.partition;
        self.number(u64::from(partition.id.0));
        self.optional(partition.leader.map(|node| node.0));
        self.number(partition.term);
        self.number(u64::from(partition.priority_election));
        let mut replicas: Vec<_> = partition.replicas.iter().collect();
        replicas.sort_by_key(|replica| replica.node);
        self.count(replicas.len());
        for replica in replicas {
            self.number(replica.node.0);
            self.number(u64::from(replica.priority.0));
            self.number(u64::from(replica.voter));
            let leads = partition.leader == Some(replica.node);
            let obstacle = obstacle(replica, brokers, request.replication_lag_bytes_max);
            self.number(match obstacle.filter(|_| !leads) {
                None => 0,
                Some(Obstacle::Unreachable) => 1,
                Some(Obstacle::Drained) => 2,
                Some(Obstacle::Learner) => 3,
                Some(Obstacle::NotReplicating) => 4,
                Some(Obstacle::Lag) => 5,
            });
        }
    }

    fn decision(&mut self, decision: &PartitionDecision) {
        self.optional(decision.desired.map(|node| node.0));
        self.number(match decision.decision {
            Decision::Stay => 0,
            Decision::Skip => 1,
            Decision::Move { .. } => 2,
        });
        self.0.update(decision.reason.name().as_bytes());
    }
}
