//! One tick for all replicas of the broker: heartbeats of those that lead, rest for those that have nothing to say, and
//! the broker's own sign of life, on which the resting ones depend.
//!
//! openraft's tick of each replica is off. In a heartbeat interval every partition is looked at once, in
//! [`SLOTS`] portions: a thousand partitions that beat at one instant would hold everybody's writes up.
//!
//! Cost for each interval: one pulse to each peer; for each awake partition that is led here, a heartbeat of openraft; for
//! each other one, a look at what openraft last told of itself.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::NodeId;
use evenkeel_protocol::internal::v1 as pb;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use crate::clock;
use crate::peer::{Peer, Peers};
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::resting::{Facts, Next};
use crate::stop::Stop;

/// Portions of a heartbeat interval.
pub const SLOTS: u32 = 8;

/// The intervals that the pulse works with.
#[derive(Clone, Copy, Debug)]
pub struct PulseTimes {
    pub heartbeat_interval: Duration,
    /// A peer that answered nothing for so long may be dead.
    pub lease: Duration,
    /// A partition rests when nothing happened for so long; zero: never.
    pub rest_after: Duration,
}

/// Keeps the partitions led here alive until `stop`.
pub async fn run(replicas: Replicas, peers: Peers, me: NodeId, times: PulseTimes, mut stop: Stop) {
    let mut ticks = tokio::time::interval(times.heartbeat_interval / SLOTS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for slot in (0..SLOTS).cycle() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.requested() => return,
        }
        let mut asks = Vec::new();
        for replica in replicas.iter().filter(|replica| replica.partition.0 % SLOTS == slot) {
            match look(replica, &peers, times) {
                Next::Beat => beat(replica).await,
                Next::Ask => asks.push(replica),
                Next::Nothing => {}
            }
        }
        for peer in peers.iter() {
            let shared = asks.iter().filter(|replica| replica.members.iter().any(|m| m.node == peer.node));
            let rests: Vec<_> = shared.filter_map(|replica| rest_request(replica)).collect();
            if slot == 0 || !rests.is_empty() {
                peer.pulse(pb::Pulse { node_id: me.0, rests });
            }
        }
    }
}

fn look(replica: &Replica, peers: &Peers, times: PulseTimes) -> Next {
    let now = clock::now();
    let facts = replica.leads().map(|epoch| {
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        let others = || replica.others().map(|node| peers.get(node));
        let answers = |peer: Option<&Arc<Peer>>| peer.is_some_and(|peer| peer.answered(now, times.lease));
        let last = metrics.last_log_index.unwrap_or(0);
        let replicated = |node: NodeId| {
            let matched = metrics.replication.as_ref().and_then(|all| all.get(&node.0));
            matched.is_some_and(|matched| matched.as_ref().map(|id| id.index()) == Some(last))
        };
        let settled = metrics.local_committed.as_ref().map(|id| id.index()) == Some(last)
            && !replica.rebuilding.is_under_way()
            && replica.others().all(replicated)
            && others().all(answers);
        let connections = others().flatten().map(|peer| peer.connections()).sum();
        Facts { epoch, last_log_index: last, connections, settled }
    });
    let followers: Vec<NodeId> = replica.others().collect();
    replica.rest.look(facts, &followers, times.rest_after, now)
}

async fn beat(replica: &Replica) {
    // A replica that has stopped ends the broker elsewhere.
    if let Err(fatal) = replica.raft.trigger().heartbeat().await {
        tracing::debug!(partition = %replica.partition, %fatal, "cannot send heartbeats");
    }
}

fn rest_request(replica: &Replica) -> Option<pb::RestRequest> {
    let epoch = replica.leads()?;
    let vote = pb::RaftVote { term: epoch.term, node_id: epoch.node.0, committed: true };
    let last_log_index = replica.raft_metrics().last_log_index.unwrap_or(0);
    Some(pb::RestRequest { group: replica.partition.0, vote: Some(vote), last_log_index })
}

/// A follower's answer to a pulse: which of the partitions that want to rest may.
pub fn answer(replicas: &Replicas, pulse: pb::Pulse) -> pb::PulseAnswer {
    replicas.elector.broker_heard(NodeId(pulse.node_id));
    let may_rest = |request: &pb::RestRequest| {
        let replica = replicas.get(request.group)?;
        let vote = request.vote.as_ref()?;
        let metrics = replica.raft.metrics();
        let metrics = metrics.borrow_watched();
        // It follows this leader, has all that the leader has, and knows it committed.
        let agrees = metrics.state == ServerState::Follower
            && metrics.current_term == vote.term
            && metrics.current_leader == Some(vote.node_id)
            && metrics.last_log_index == Some(request.last_log_index)
            && metrics.local_committed.as_ref().map(|id| id.index()) == Some(request.last_log_index)
            && !replica.rebuilding.is_under_way();
        drop(metrics);
        agrees.then(|| replicas.elector.rest(replica.partition, NodeId(vote.node_id)))
    };
    let resting = pulse.rests.into_iter().filter(|request| may_rest(request).is_some()).collect();
    pb::PulseAnswer { resting }
}

/// What a peer answered to this broker's pulse.
pub fn answered(replicas: &Replicas, peer: NodeId, answer: &pb::PulseAnswer) {
    for agreed in &answer.resting {
        if let Some(replica) = replicas.get(agreed.group) {
            replica.rest.agreed(peer, agreed.last_log_index);
        }
    }
}
