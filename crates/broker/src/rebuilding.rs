//! A replica that has forgotten what it promised, on its way back: what it may do meanwhile, and when it counts again.
//!
//! It has forgotten whom it voted for and which entries it acknowledged. Until it knows both again, or more,
//!
//! 1. it **grants no vote and does not stand**;
//! 2. it **takes entries from no leader that it may once have voted against**: first it asks the other replicas for their
//!    votes. Once a majority of the whole replica set has answered, this replica and others that are rebuilt themselves not
//!    counted, the highest vote named is the *fence*. Leaders below it are turned away, and those that have not answered
//!    since the start: a leader that answers has been told to expect a log that has become shorter;
//! 3. it **counts again once it durably holds all that its leader held** at some moment after the fence. Then its state is one
//!    that a replica which never forgot could be in: what it promised is at most its vote now, and every entry that any
//!    leader of that vote or below may count it for is in its log.
//!
//! That it is being rebuilt is remembered in the data folder until then. See ARCHITECTURE.md for why this loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::{NodeId, PartitionId};
use evenkeel_raft_storage::DataDirectory;
use evenkeel_raft_storage::types::raft::{LogId, Vote};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;

use crate::elector::Elector;
use crate::metric_definitions as metric;
use crate::peer::{Peer, Peers};
use crate::replica::Replica;
use crate::status::StatusHub;
use crate::stop::Stop;
use crate::wire;

/// How often the other replicas are asked.
const ASK_INTERVAL_MS: u64 = 200;
/// How long each may take.
const ANSWER_MS_MAX: u64 = 1_000;

/// Replicas of a set of this size can be rebuilt: without the one that forgot there is still a majority.
pub const REPLICAS_MIN: usize = 3;

/// What the other replicas have answered so far. Pure.
#[derive(Debug)]
struct Fence {
    majority: usize,
    votes: BTreeMap<NodeId, (u64, u64)>,
}

impl Fence {
    fn new(replicas: usize) -> Self {
        Self { majority: replicas / 2 + 1, votes: BTreeMap::new() }
    }

    /// A replica that remembers everything has this vote now.
    fn heard(&mut self, node: NodeId, vote: Option<Vote>) {
        let vote = vote.map_or((0, 0), |vote| order(&vote));
        let known = self.votes.entry(node).or_default();
        *known = vote.max(*known);
    }

    /// Why nothing is taken from a leader with this vote; `None` when it may be.
    fn refusal(&self, leader: &Vote) -> Option<&'static str> {
        if self.votes.len() < self.majority {
            return Some("too few other replicas have told their votes yet");
        }
        if !self.votes.contains_key(&NodeId(leader.leader_id.node_id)) {
            return Some("this leader has not told its vote yet");
        }
        let fence = self.votes.values().max().copied().unwrap_or_default();
        (order(leader) < fence).then_some("a newer leader or candidate is known")
    }
}

/// Votes of the same leader are one, granted by a majority or not.
fn order(vote: &Vote) -> (u64, u64) {
    (vote.leader_id.term, vote.leader_id.node_id)
}

/// Whether and how far a replica is rebuilt. Cheap handle.
#[derive(Clone, Debug)]
pub struct Rebuilding(Arc<Mutex<Option<Fence>>>);

impl Rebuilding {
    /// Of a replica that remembers everything.
    pub fn done() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// Of a replica in a set of so many that has forgotten.
    pub fn begun(replicas: usize) -> Self {
        Self(Arc::new(Mutex::new(Some(Fence::new(replicas)))))
    }

    /// Whether the replica does not count yet.
    pub fn is_under_way(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Why the replica takes nothing from a leader with this vote, if it does not.
    pub fn refusal(&self, partition: PartitionId, leader: &Vote) -> Option<String> {
        let why = self.0.lock().as_ref()?.refusal(leader)?;
        Some(format!("partition {partition} is being rebuilt here: {why}"))
    }
}

/// What a broker's data folder says about its replicas, shared by those that are rebuilt.
pub struct Marks {
    data: Arc<DataDirectory>,
    groups: tokio::sync::Mutex<BTreeSet<u32>>,
}

impl Marks {
    /// As the folder says.
    pub fn read(data: Arc<DataDirectory>) -> io::Result<Self> {
        let groups = data.rebuilding()?;
        Ok(Self { data, groups: tokio::sync::Mutex::new(groups) })
    }

    /// The groups that are being rebuilt.
    pub async fn groups(&self) -> BTreeSet<u32> {
        self.groups.lock().await.clone()
    }

    async fn remove(&self, group: u32) -> io::Result<()> {
        let mut groups = self.groups.lock().await;
        let mut rest = groups.clone();
        rest.remove(&group);
        let (data, written) = (self.data.clone(), rest.clone());
        tokio::task::spawn_blocking(move || data.set_rebuilding(&written))
            .await
            .map_err(io::Error::other)??;
        *groups = rest;
        Ok(())
    }
}

/// What one of the other replicas answered.
struct Standing {
    vote: Option<Vote>,
    /// The last entry of a leader's log.
    leads_up_to: Option<LogId>,
}

/// Brings one replica back, until it counts again or `stop`.
pub async fn bring_back(
    replica: Arc<Replica>,
    peers: Peers,
    marks: Arc<Marks>,
    elector: Elector,
    status: StatusHub,
    mut stop: Stop,
) {
    let partition = replica.partition;
    metric::rebuilding(partition.0, true);
    tracing::warn!(
        %partition,
        "this replica is being rebuilt from its peers: it has no vote until it holds everything again"
    );
    // What the leader with this vote held at some moment after it answered.
    let mut goal: Option<(Vote, LogId)> = None;
    loop {
        for (node, standing) in ask_all(&replica, &peers).await {
            if let Some(fence) = replica.rebuilding.0.lock().as_mut() {
                fence.heard(node, standing.vote);
            }
            if let (Some(vote), Some(last)) = (standing.vote, standing.leads_up_to)
                && goal.is_none_or(|(known, _)| order(&known) < order(&vote))
            {
                goal = Some((vote, last));
            }
        }
        if let Some((vote, last)) = goal
            && replica.rebuilding.refusal(partition, &vote).is_none()
            && holds(&replica, &vote, &last).await
        {
            match marks.remove(partition.0).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%partition, %error, "cannot remember that the replica is whole")
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(ASK_INTERVAL_MS)) => {}
            () = stop.requested() => return,
        }
    }
    *replica.rebuilding.0.lock() = None;
    elector.add(partition, replica.rank(), false);
    status.changed(replica.partition);
    metric::rebuilding(partition.0, false);
    tracing::info!(%partition, "the replica is rebuilt: it votes and counts again");
}

/// Whether this replica follows the leader with this vote and durably has its log up to `last`.
async fn holds(replica: &Replica, vote: &Vote, last: &LogId) -> bool {
    let log = &replica.log;
    let follows = log.vote().is_some_and(|own| order(&own) == order(vote) && own.committed);
    let purged = log.state().last_purged_log_id;
    let has =
        purged.is_some_and(|purged| purged.index >= last.index) || log.log_id(last.index) == Some(*last);
    // The log was looked at before: what it says then is durable once everything queued is.
    follows && has && log.flush().await.is_ok()
}

async fn ask_all(replica: &Replica, peers: &Peers) -> Vec<(NodeId, Standing)> {
    let others = replica.members.iter().filter_map(|member| peers.get(member.node));
    let asked: FuturesUnordered<_> = others.map(|peer| ask(replica, peer)).collect();
    asked.filter_map(|answer| async { answer }).collect().await
}

async fn ask(replica: &Replica, peer: &Peer) -> Option<(NodeId, Standing)> {
    let request = pb::StandingRequest { group: replica.partition.0, node_id: replica.me.0 };
    let mut client = peer.client();
    let answer = tokio::time::timeout(Duration::from_millis(ANSWER_MS_MAX), client.standing(request));
    let answer = answer.await.ok()?.ok()?.into_inner();
    if answer.rebuilding {
        return None;
    }
    let leads_up_to = answer.leads_up_to.as_ref().map(wire::log_id_from_wire);
    Some((peer.node, Standing { vote: answer.vote.as_ref().map(wire::vote_from_wire), leads_up_to }))
}

/// Answers a replica that asks: what this one has promised, and up to where its log goes if it leads.
pub async fn tell(replica: &Replica, asks: NodeId) -> pb::StandingResponse {
    if replica.rebuilding.is_under_way() {
        return pb::StandingResponse { rebuilding: true, ..Default::default() };
    }
    let before = replica.log.vote();
    let leads =
        replica.leads().filter(|epoch| before.is_some_and(|vote| order(&vote) == (epoch.term, epoch.node.0)));
    let mut leads_up_to = None;
    if leads.is_some() && replica.members.iter().any(|member| member.node == asks) {
        // The leader still counts what the other acknowledged before it forgot.
        match replica.raft.trigger().allow_next_revert(&asks.0, true).await {
            Ok(Ok(())) => leads_up_to = replica.log.state().last_log_id,
            Ok(Err(error)) => tracing::debug!(partition = %replica.partition, %error, "leads no longer"),
            Err(error) => tracing::warn!(partition = %replica.partition, %error, "the replica has stopped"),
        }
    }
    let after = replica.log.vote();
    if before.map(|vote| order(&vote)) != after.map(|vote| order(&vote)) {
        leads_up_to = None;
    }
    pb::StandingResponse {
        vote: after.as_ref().map(wire::vote_to_wire),
        leads_up_to: leads_up_to.as_ref().map(wire::log_id_to_wire),
        rebuilding: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(term: u64, node: u64) -> Vote {
        Vote::new_committed(term, node)
    }

    #[test]
    fn nothing_is_taken_before_a_majority_that_remembers_has_told_its_votes() {
        let mut fence = Fence::new(3);
        assert!(fence.refusal(&vote(9, 1)).is_some());
        fence.heard(NodeId(1), Some(vote(4, 1)));
        assert!(fence.refusal(&vote(9, 1)).is_some(), "broker 2 may be the one that it voted for");
        fence.heard(NodeId(1), Some(vote(4, 1)));
        assert!(fence.refusal(&vote(9, 1)).is_some(), "one replica that answers twice is one");
        fence.heard(NodeId(2), None);
        assert_eq!(fence.refusal(&vote(4, 1)), None);
    }

    #[test]
    fn a_leader_below_the_highest_vote_told_is_turned_away() {
        let mut fence = Fence::new(3);
        fence.heard(NodeId(1), Some(vote(4, 1)));
        // It voted for broker 2 in term 5 before it forgot; broker 1 has not heard of that.
        fence.heard(NodeId(2), Some(Vote::new(5, 2)));
        assert!(fence.refusal(&vote(4, 1)).is_some());
        assert_eq!(fence.refusal(&vote(5, 2)), None);
        assert_eq!(fence.refusal(&vote(6, 1)), None);
        // Two may lead in one term.
        assert!(fence.refusal(&vote(5, 1)).is_some());
    }

    #[test]
    fn an_older_answer_does_not_lower_the_fence() {
        let mut fence = Fence::new(3);
        fence.heard(NodeId(1), Some(vote(7, 1)));
        fence.heard(NodeId(2), Some(vote(3, 2)));
        fence.heard(NodeId(1), Some(vote(3, 2)));
        assert!(fence.refusal(&vote(3, 2)).is_some());
    }

    #[test]
    fn a_leader_that_has_not_answered_since_the_start_is_turned_away() {
        let mut fence = Fence::new(5);
        for node in 1..=3 {
            fence.heard(NodeId(node), Some(vote(4, 4)));
        }
        assert!(fence.refusal(&vote(4, 4)).is_some());
        fence.heard(NodeId(4), Some(vote(4, 4)));
        assert_eq!(fence.refusal(&vote(4, 4)), None);
    }
}
