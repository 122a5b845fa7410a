//! A run that stands still in its first transfer, so that a story can look at it, or hurt it, in the middle.

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::config::{PATIENT_LEASE, Spec};
use super::rebalance_api::partitions_where;
use super::waiting::wait_until;

/// The broker that everything is to be handed to: it is stopped, its connections stay open, and it answers no probe. So
/// its first transfer is tried again and again, for at least six seconds.
const TARGET: usize = 2;
/// Primary of these, in a cluster of [`HeldRun::spec`].
pub const HELD: [u32; 3] = [3, 6, 9];
/// The most that may be asked for.
const TRANSFER_ATTEMPTS: u32 = 10;

/// A run of the partitions [`HELD`], one of them under way.
#[derive(Clone, Debug)]
pub struct HeldRun {
    pub id: u64,
    /// Under way.
    pub first: u32,
    /// Not begun.
    pub others: Vec<u32>,
}

impl HeldRun {
    /// The cluster that it takes.
    pub fn spec(gateways: usize) -> Spec {
        Spec::new(3, 9).gateways(gateways).broker("raft.lease", PATIENT_LEASE)
    }

    /// What to ask for.
    pub fn request() -> Value {
        json!({"maxTransferAttempts": TRANSFER_ATTEMPTS})
    }

    /// Gives all that broker 2 should lead to others and stops it. The cluster is to be balanced. Whatever is asked for
    /// now with [`HeldRun::request`] is held.
    pub async fn prepare(cluster: &mut Cluster) {
        for (partition, to) in HELD.into_iter().zip([0, 1, 0]) {
            cluster.give(partition, to).await;
        }
        let api = cluster.rebalance_api(0);
        wait_until("broker 2 to be known as caught up", async || {
            let planned = api.dry_run(&json!({})).await;
            if pending(&planned) == HELD { Ok(()) } else { Err(planned.to_string()) }
        })
        .await;
        cluster.pause(TARGET);
    }

    /// Waits until the run is under way.
    pub async fn of(cluster: &Cluster, gateway: usize, id: u64) -> Self {
        let api = cluster.rebalance_api(gateway);
        let run = api.wait_for(id, "a transfer to be under way", |run| transferring(run).len() == 1).await;
        assert_eq!(pending(&run).len(), HELD.len() - 1, "one at a time in a small cluster: {run}");
        Self { id, first: transferring(&run)[0], others: pending(&run) }
    }

    /// Starts it.
    pub async fn start(cluster: &mut Cluster, gateway: usize) -> Self {
        Self::prepare(cluster).await;
        let id = cluster.rebalance_api(gateway).start(&Self::request()).await;
        Self::of(cluster, gateway, id).await
    }

    /// Lets the target answer again, so that the run goes on.
    pub fn let_go(cluster: &mut Cluster) {
        cluster.resume(TARGET);
    }
}

/// The partitions of a run that are not begun.
pub fn pending(run: &Value) -> Vec<u32> {
    partitions_where(run, |partition| partition["progress"] == "PENDING")
}

/// The partitions of a run that are under way.
pub fn transferring(run: &Value) -> Vec<u32> {
    partitions_where(run, |partition| partition["progress"] == "TRANSFERRING")
}
