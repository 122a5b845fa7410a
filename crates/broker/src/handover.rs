//! Carries out transfers: the I/O around [`crate::transfer`], and the choice of targets around it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::step_down_response::Result as Code;
use evenkeel_protocol::{Epoch, NodeId};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft::{ServerState, Vote};
use tokio::sync::OwnedRwLockWriteGuard;

use crate::clock;
use crate::metric_definitions::transfer_ended;
use crate::options::DURATION_MAX;
use crate::peer::{Peer, Peers};
use crate::replica::{RaftMetrics, Replica};
use crate::step_down::{self, Choice, Policy, Reason, ReplicaView};
use crate::transfer::{Attempts, Effect, Event, Limits, Outcome, Spent, Transfer, View};
use crate::wire;

/// Whom a hand-over looks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The best replica above the leader.
    Rebalance,
    /// The first of these that can: somebody else has made the plan.
    Plan(Vec<NodeId>),
    /// The best other replica: the leader is about to stop.
    Shutdown,
}

/// How long a transfer waits for the writes under way to become few. They go on meanwhile.
const FEW_WRITES_PATIENCE: Duration = Duration::from_millis(500);

/// Knows how to hand any of this broker's leaderships over.
#[derive(Clone)]
pub struct Handover {
    pub peers: Peers,
    pub limits: Limits,
    pub policy: Policy,
}

/// What became of one attempt, and what it cost.
struct Attempt {
    outcome: Outcome,
    spent: Spent,
}

/// Whether a replica can hand its partition over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It does not lead, or not in the term asked for; this broker does, if anybody.
    Elsewhere(Option<NodeId>),
    /// It has won, and has yet to commit an entry of its own term: until then it knows neither what is committed nor
    /// who replicates.
    Initializing(Epoch),
    Leads(Epoch),
}

impl Handover {
    /// With the limits that a request sets for itself.
    pub fn within(&self, request: &pb::StepDownRequest) -> Self {
        let mut own = self.clone();
        if let Some(bytes) = request.lag_bytes_max {
            own.limits.lag_bytes_max = bytes;
            own.policy.lag_bytes_max = bytes;
        }
        let bounded = |ms: u64| Duration::from_millis(ms).min(DURATION_MAX);
        own.limits.catch_up = request.catch_up_ms.map_or(own.limits.catch_up, bounded);
        own.limits.leader_wait = request.leader_wait_ms.map_or(own.limits.leader_wait, bounded);
        own
    }

    /// Hands the partition over if this replica leads it (in `term`, unless that is 0) and somebody better can.
    /// Dropped in the middle, it gives the transfer up.
    pub async fn step_down(&self, replica: &Replica, term: u64, purpose: Purpose) -> pb::StepDownResponse {
        let mut attempts = Attempts::new(self.limits);
        let mut response = self.try_step_down(replica, term, purpose, &mut attempts).await;
        let spent = attempts.spent();
        let attempted = spent != Spent::default();
        transfer_ended(response.result().as_str_name(), attempted.then_some(spent));
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        response.frozen_us = micros(spent.gate_closed);
        response.phases = attempted.then(|| pb::TransferPhases {
            probe_us: micros(spent.phases.probe),
            catch_up_us: micros(spent.phases.catch_up),
            freeze_us: micros(spent.phases.freeze),
            election_us: micros(spent.phases.election),
        });
        response
    }

    async fn try_step_down(
        &self,
        replica: &Replica,
        term: u64,
        purpose: Purpose,
        attempts: &mut Attempts,
    ) -> pb::StepDownResponse {
        let primary = step_down_primary(replica);
        let base = pb::StepDownResponse { primary: primary.map(|n| n.0), ..Default::default() };
        let answer = |result: Code, detail: String| pb::StepDownResponse {
            result: result as i32,
            detail,
            ..base.clone()
        };
        let (partition, me) = (replica.partition, replica.me);
        let epoch = match standing(&replica.raft_metrics(), me, term) {
            Standing::Elsewhere(None) => {
                return answer(Code::NotLeader, format!("broker {me} does not lead partition {partition}"));
            }
            Standing::Elsewhere(Some(leader)) if leader == me => {
                let detail = format!("broker {me} leads partition {partition}, but not in term {term}");
                return answer(Code::NotLeader, detail);
            }
            Standing::Elsewhere(Some(leader)) => {
                let detail = format!("broker {me} does not lead partition {partition}: broker {leader} does");
                return answer(Code::NotLeader, detail);
            }
            // Who stops has no time to wait for it; its successor gets that entry while it catches up.
            Standing::Initializing(epoch) if purpose == Purpose::Shutdown => epoch,
            Standing::Initializing(_) => {
                let detail = format!(
                    "broker {me} has just come to lead partition {partition} and has not committed an entry of \
                     its own yet; ask again"
                );
                return answer(Code::LeaderInitializing, detail);
            }
            Standing::Leads(epoch) => epoch,
        };
        let base = pb::StepDownResponse { from: Some(replica.me.0), term: epoch.term, ..base };
        let answer = |result: Code, detail: String| pb::StepDownResponse {
            result: result as i32,
            detail,
            ..base.clone()
        };
        replica.rest.disturb();
        let Some(_reserved) = replica.try_begin_transfer() else {
            return answer(
                Code::TransferInProgress,
                format!("partition {partition} is being transferred already; ask again"),
            );
        };
        let views = self.views(replica);
        let choice = match purpose {
            Purpose::Rebalance => step_down::choose(partition, me, &views, &self.policy),
            Purpose::Shutdown => step_down::successor(partition, me, &views, &self.policy),
            Purpose::Plan(candidates) => match planned(replica, candidates) {
                Ok(members) => step_down::among(partition, &members, &views, &self.policy),
                Err((result, detail)) => return answer(result, detail),
            },
        };
        let candidates = match choice {
            Choice::Stay => {
                return answer(Code::AlreadyLeader, "the leader has the highest priority".to_owned());
            }
            Choice::Refuse { reason, detail } => return answer(refusal(reason), detail),
            Choice::Candidates(candidates) => candidates,
        };
        let mut last = answer(Code::Unreachable, "no candidate".to_owned());
        for target in candidates {
            let Some(limits) = attempts.next_limits() else {
                let _ =
                    write!(last.detail, "; no other target was tried, since writes had waited long enough");
                break;
            };
            let attempt = self.attempt(replica, target, epoch, limits).await;
            attempts.add(attempt.spent);
            last = answer(code(&attempt.outcome), sentence(replica, target, &attempt.outcome));
            last.to = Some(target.0);
            let settled = matches!(attempt.outcome, Outcome::Transferred | Outcome::LeaderChanged(_));
            tracing::info!(%partition, from = %me, to = %target, outcome = ?attempt.outcome,
                frozen = ?attempt.spent.gate_closed, phases = ?attempt.spent.phases, "transfer ended");
            if settled {
                break;
            }
        }
        last
    }

    fn views(&self, replica: &Replica) -> Vec<ReplicaView> {
        let metrics = replica.raft_metrics();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let view = |member: &crate::distribution::Replica| {
            let lag = if member.node == replica.me {
                Some((0, Some(0)))
            } else {
                replica.lag_of(&metrics, member.node)
            };
            ReplicaView {
                node: member.node,
                priority: member.priority,
                voter: voters.contains(&member.node.0),
                reachable: member.node == replica.me || self.peers.is_connected(member.node),
                lag_entries: lag.map(|l| l.0),
                lag_bytes: lag.and_then(|l| l.1),
            }
        };
        replica.members.iter().map(view).collect()
    }

    /// One transfer to one target, from the probe to its end.
    async fn attempt(&self, replica: &Replica, target: NodeId, epoch: Epoch, limits: Limits) -> Attempt {
        let Some(peer) = self.peers.get(target) else {
            let reason = format!("broker {target} is not in [cluster] brokers");
            return Attempt { outcome: Outcome::Unreachable(reason), spent: Spent::default() };
        };
        let throttle = replica.inflow.throttle();
        throttle.few(FEW_WRITES_PATIENCE).await;
        let mut metrics = replica.raft.metrics();
        let (mut transfer, mut effects) = Transfer::new(replica.me, target, epoch.term, limits, clock::now());
        let mut running: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        let mut gate: Option<OwnedRwLockWriteGuard<()>> = None;
        // Dropped before the gate.
        let mut asked = AskedToStand { replica, epoch, open: false };
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Probe => running.push(Box::pin(probe(peer, replica, limits.probe))),
                    Effect::CloseGate => running.push(Box::pin(close_gate(replica, limits.freeze))),
                    Effect::Unload => replica.leadership.hand_over(epoch),
                    Effect::AskToStand => {
                        asked.open = true;
                        running.push(Box::pin(ask_to_stand(peer, replica, epoch.term, limits.freeze)))
                    }
                    Effect::OpenGate => gate = None,
                    Effect::VoidLease => replica.void_lease(epoch.term),
                    Effect::Load => replica.leadership.keep(epoch, || replica.leads()),
                }
            }
            if let Some(outcome) = transfer.outcome() {
                asked.open = false;
                drop(gate);
                return Attempt { outcome: outcome.clone(), spent: transfer.spent() };
            }
            let event = tokio::select! {
                Some(done) = running.next(), if !running.is_empty() => match done {
                    Done::Event(event) => Some(event),
                    Done::GateClosed(guard) => {
                        let closed = guard.is_some();
                        gate = guard;
                        closed.then_some(Event::Frozen)
                    }
                },
                changed = metrics.changed() => changed.is_err().then_some(Event::ReplicaStopped),
                () = tokio::time::sleep_until(transfer.deadline().into()) => None,
            };
            if let Some(event) = event {
                effects = transfer.on(event, clock::now());
            }
            let view = view(replica, &metrics.borrow_watched(), target);
            effects.extend(transfer.on(Event::Seen(view), clock::now()));
        }
    }
}

/// An attempt is dropped in the middle when whoever asked for it is gone. The target may still win then.
struct AskedToStand<'a> {
    replica: &'a Replica,
    epoch: Epoch,
    open: bool,
}

impl Drop for AskedToStand<'_> {
    fn drop(&mut self) {
        if self.open {
            self.replica.void_lease(self.epoch.term);
            self.replica.leadership.keep(self.epoch, || self.replica.leads());
        }
    }
}

enum Done {
    Event(Event),
    /// `None` when writes did not drain in time.
    GateClosed(Option<OwnedRwLockWriteGuard<()>>),
}

/// What the replica of broker `me` can do about its leadership in `term`; 0 for any.
fn standing(metrics: &RaftMetrics, me: NodeId, term: u64) -> Standing {
    let epoch = Epoch { term: metrics.current_term, node: me };
    let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(me.0);
    if !leads || (term != 0 && term != epoch.term) {
        return Standing::Elsewhere(metrics.current_leader.map(NodeId));
    }
    let own_entry = metrics.local_committed.map(|id| *id.committed_leader_id());
    match own_entry.is_some_and(|leader| leader.term == epoch.term && leader.node_id == me.0) {
        true => Standing::Leads(epoch),
        false => Standing::Initializing(epoch),
    }
}

fn view(replica: &Replica, metrics: &RaftMetrics, target: NodeId) -> View {
    let lag = replica.lag_of(metrics, target);
    let last_index = metrics.last_log_index.unwrap_or(0);
    View {
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        last_index,
        target_matched: lag.map(|(entries, _)| last_index - entries),
        lag_bytes: lag.and_then(|l| l.1),
    }
}

async fn probe(peer: &Arc<Peer>, replica: &Replica, patience: Duration) -> Done {
    let mut client = peer.client();
    let call = client.probe(pb::ProbeRequest { group: replica.partition.0 });
    Done::Event(match tokio::time::timeout(patience, call).await {
        Ok(Ok(answer)) => match answer.into_inner() {
            answer if answer.ready => Event::ProbeReady,
            answer => Event::ProbeFailed(answer.reason),
        },
        Ok(Err(status)) => Event::ProbeFailed(status.message().to_owned()),
        Err(_) => Event::ProbeFailed(format!("no answer to the probe within {} ms", patience.as_millis())),
    })
}

async fn close_gate(replica: &Replica, patience: Duration) -> Done {
    Done::GateClosed(replica.freeze(patience).await)
}

async fn ask_to_stand(peer: &Arc<Peer>, replica: &Replica, term: u64, patience: Duration) -> Done {
    let metrics = replica.raft_metrics();
    let last_log_id = metrics.last_applied;
    let request =
        TransferLeaderRequest::new(Vote::new_committed(term, replica.me.0), peer.node.0, last_log_id);
    let mut client = peer.client();
    let call = client.transfer_leader(wire::transfer_to_wire(replica.partition.0, &request));
    Done::Event(match tokio::time::timeout(patience, call).await {
        Ok(Ok(answer)) => match answer.into_inner().rejection {
            None => Event::StandAccepted,
            Some(rejection) => {
                Event::StandRejected(format!("broker {} would not stand: {rejection:?}", peer.node))
            }
        },
        // It may have arrived all the same: only the term tells.
        Ok(Err(_)) | Err(_) => Event::StandAccepted,
    })
}

/// The plan's candidates that this partition has.
fn planned(replica: &Replica, candidates: Vec<NodeId>) -> Result<Vec<NodeId>, (Code, String)> {
    let (partition, me) = (replica.partition, replica.me);
    if candidates.first() == Some(&me) {
        return Err((Code::AlreadyLeader, format!("broker {me} leads partition {partition}, as planned")));
    }
    let held = |node: &NodeId| *node != me && replica.members.iter().any(|m| m.node == *node);
    let members: Vec<NodeId> = candidates.iter().copied().filter(held).collect();
    if members.is_empty() {
        let asked: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        let detail = format!("partition {partition} has no replica on broker {}", asked.join(" or "));
        return Err((Code::NotMember, detail));
    }
    Ok(members)
}

fn step_down_primary(replica: &Replica) -> Option<NodeId> {
    let best = replica.members.first()?;
    let unique = replica.members.get(1).is_none_or(|second| second.priority < best.priority);
    unique.then_some(best.node)
}

fn refusal(reason: Reason) -> Code {
    match reason {
        Reason::LagTooHigh => Code::LagTooHigh,
        Reason::NotReplicating => Code::NotReplicating,
        Reason::Unreachable => Code::Unreachable,
        Reason::NoPrimary => Code::NoPrimary,
        Reason::PriorityElectionDisabled => Code::PriorityElectionDisabled,
    }
}

fn code(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Transferred => Code::Transferred,
        Outcome::LagTooHigh { .. } => Code::LagTooHigh,
        Outcome::NotReplicating => Code::NotReplicating,
        Outcome::Unreachable(_) => Code::Unreachable,
        Outcome::PauseFailed => Code::PauseFailed,
        Outcome::ReplicationTimedOut => Code::ReplicationTimedOut,
        Outcome::TimeoutNowExhausted(_) => Code::TimeoutNowExhausted,
        Outcome::LeaderChanged(_) => Code::LeaderChanged,
    }
}

fn sentence(replica: &Replica, target: NodeId, outcome: &Outcome) -> String {
    let (partition, me) = (replica.partition, replica.me);
    match outcome {
        Outcome::Transferred => format!("partition {partition} moved from broker {me} to broker {target}"),
        Outcome::LagTooHigh { entries, bytes } => format!(
            "partition {partition} stays on broker {me}: broker {target} lacks {entries} entries ({} bytes); \
             rebalance again when its non-replicated records are near 0",
            bytes.map_or_else(|| "unknown".to_owned(), |bytes| bytes.to_string())
        ),
        Outcome::Unreachable(reason) => {
            format!("partition {partition} stays on broker {me}: broker {target} is not reachable ({reason})")
        }
        Outcome::NotReplicating => format!(
            "partition {partition} stays on broker {me}: broker {target} has not answered this leader yet; rebalance \
             again when it takes entries"
        ),
        Outcome::PauseFailed => format!(
            "partition {partition} stays on broker {me}: writes under way were not answered in time to hold back new \
             ones; rebalance again under less load, or when more replicas answer"
        ),
        Outcome::ReplicationTimedOut => format!(
            "partition {partition} stays on broker {me}: broker {target} did not catch up in time; rebalance again \
             under less load"
        ),
        Outcome::TimeoutNowExhausted(reason) => {
            format!(
                "partition {partition} stays on broker {me}: broker {target} was asked to lead, but {reason}"
            )
        }
        Outcome::LeaderChanged(Some(leader)) => {
            format!("partition {partition} was taken over by broker {leader} meanwhile")
        }
        Outcome::LeaderChanged(None) => format!("partition {partition} lost its leader meanwhile"),
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_raft_storage::types::raft::{CommittedLeaderId, LogId};

    use super::*;

    /// Broker 1's replica, the last entry that it knows as committed being of `committed` (term, node).
    fn metrics(state: ServerState, leader: Option<u64>, committed: (u64, u64)) -> RaftMetrics {
        let mut metrics = RaftMetrics::new_initial(1);
        metrics.current_term = 7;
        metrics.state = state;
        metrics.current_leader = leader;
        let (term, node_id) = committed;
        metrics.local_committed = Some(LogId::new(CommittedLeaderId { term, node_id }, 40));
        metrics
    }

    #[test]
    fn a_leader_hands_over_only_once_it_has_committed_an_entry_of_its_own() {
        let me = NodeId(1);
        let epoch = Epoch { term: 7, node: me };
        let fresh = metrics(ServerState::Leader, Some(1), (6, 0));
        assert_eq!(standing(&fresh, me, 0), Standing::Initializing(epoch));
        // Another led in this term before: two may, and its entry is not ours.
        let second = metrics(ServerState::Leader, Some(1), (7, 0));
        assert_eq!(standing(&second, me, 7), Standing::Initializing(epoch));
        let settled = metrics(ServerState::Leader, Some(1), (7, 1));
        assert_eq!(standing(&settled, me, 7), Standing::Leads(epoch));
        assert_eq!(standing(&settled, me, 6), Standing::Elsewhere(Some(me)), "asked for an older leadership");
    }

    #[test]
    fn who_does_not_lead_says_who_does() {
        let me = NodeId(1);
        let follower = metrics(ServerState::Follower, Some(2), (7, 2));
        assert_eq!(standing(&follower, me, 0), Standing::Elsewhere(Some(NodeId(2))));
        let candidate = metrics(ServerState::Candidate, None, (6, 2));
        assert_eq!(standing(&candidate, me, 0), Standing::Elsewhere(None));
    }
}
