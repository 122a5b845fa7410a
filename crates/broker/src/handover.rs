//! Carries out transfers: the I/O around [`crate::transfer`], and the choice of targets around it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::NodeId;
use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::step_down_response::Result as Code;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::Vote;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::OwnedRwLockWriteGuard;

use crate::options::DURATION_MAX;
use crate::peer::{Peer, Peers};
use crate::replica::{RaftMetrics, Replica};
use crate::step_down::{self, Choice, Policy, Reason, ReplicaView};
use crate::transfer::{Effect, Event, Limits, Outcome, Transfer, View};
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

/// Knows how to hand any of this broker's leaderships over.
#[derive(Clone)]
pub struct Handover {
    pub peers: Peers,
    pub limits: Limits,
    pub policy: Policy,
}

/// What became of one attempt, and how long writes waited.
struct Attempt {
    outcome: Outcome,
    frozen: Duration,
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
    pub async fn step_down(&self, replica: &Replica, term: u64, purpose: Purpose) -> pb::StepDownResponse {
        let primary = step_down_primary(replica);
        let base = pb::StepDownResponse { primary: primary.map(|n| n.0), ..Default::default() };
        let answer = |result: Code, detail: String| pb::StepDownResponse {
            result: result as i32,
            detail,
            ..base.clone()
        };
        let Some(epoch) = replica.leads().filter(|epoch| term == 0 || epoch.term == term) else {
            let leader = replica.raft_metrics().current_leader;
            let detail = match leader {
                Some(leader) => format!(
                    "broker {} does not lead partition {}: broker {leader} does",
                    replica.me, replica.partition
                ),
                None => format!("broker {} does not lead partition {}", replica.me, replica.partition),
            };
            return answer(Code::NotLeader, detail);
        };
        let base = pb::StepDownResponse { from: Some(replica.me.0), term: epoch.term, ..base };
        let answer = |result: Code, detail: String| pb::StepDownResponse {
            result: result as i32,
            detail,
            ..base.clone()
        };
        let Some(_reserved) = replica.try_begin_transfer() else {
            return answer(
                Code::TransferInProgress,
                format!("partition {} is being transferred already", replica.partition),
            );
        };
        let views = self.views(replica);
        let choice = match purpose {
            Purpose::Rebalance => step_down::choose(replica.partition, replica.me, &views, &self.policy),
            Purpose::Shutdown => step_down::successor(replica.partition, replica.me, &views, &self.policy),
            Purpose::Plan(candidates) => match planned(replica, candidates) {
                Ok(members) => step_down::among(replica.partition, &members, &views, &self.policy),
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
        let mut frozen = Duration::ZERO;
        for target in candidates {
            let attempt = self.attempt(replica, target, epoch.term).await;
            frozen += attempt.frozen;
            last = answer(code(&attempt.outcome), sentence(replica, target, &attempt.outcome));
            last.to = Some(target.0);
            last.frozen_us = u64::try_from(frozen.as_micros()).unwrap_or(u64::MAX);
            let settled = matches!(attempt.outcome, Outcome::Transferred | Outcome::LeaderChanged(_));
            tracing::info!(partition = %replica.partition, from = %replica.me, to = %target, outcome = ?attempt.outcome,
                frozen_us = last.frozen_us, "transfer ended");
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
            let lag =
                if member.node == replica.me { Some((0, 0)) } else { replica.lag_of(&metrics, member.node) };
            let connected = self.peers.get(member.node).is_some_and(|p| *p.connected().borrow());
            ReplicaView {
                node: member.node,
                priority: member.priority,
                voter: voters.contains(&member.node.0),
                reachable: member.node == replica.me || connected,
                lag_entries: lag.map(|l| l.0),
                lag_bytes: lag.map(|l| l.1),
            }
        };
        replica.members.iter().map(view).collect()
    }

    /// One transfer to one target, from the probe to its end.
    async fn attempt(&self, replica: &Replica, target: NodeId, term: u64) -> Attempt {
        let Some(peer) = self.peers.get(target) else {
            let reason = format!("broker {target} is not in [cluster] brokers");
            return Attempt { outcome: Outcome::Unreachable(reason), frozen: Duration::ZERO };
        };
        let mut metrics = replica.raft.metrics();
        let (mut transfer, mut effects) =
            Transfer::new(replica.me, target, term, self.limits, Instant::now());
        let mut running: FuturesUnordered<BoxFuture<'_, Done>> = FuturesUnordered::new();
        let mut gate: Option<OwnedRwLockWriteGuard<()>> = None;
        // Dropped before the gate.
        let mut asked = AskedToStand { replica, term, open: false };
        let mut closing_since: Option<Instant> = None;
        let mut frozen = Duration::ZERO;
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Probe => running.push(Box::pin(probe(peer, replica, self.limits.probe))),
                    Effect::CloseGate => {
                        closing_since = Some(Instant::now());
                        running.push(Box::pin(close_gate(replica, self.limits.freeze)));
                    }
                    Effect::AskToStand => {
                        asked.open = true;
                        running.push(Box::pin(ask_to_stand(peer, replica, term, self.limits.freeze)))
                    }
                    Effect::OpenGate => {
                        gate = None;
                        frozen += closing_since.take().map_or(Duration::ZERO, |since| since.elapsed());
                    }
                    Effect::VoidLease => replica.void_lease(term),
                }
            }
            if let Some(outcome) = transfer.outcome() {
                asked.open = false;
                drop(gate);
                return Attempt { outcome: outcome.clone(), frozen };
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
                changed = metrics.changed() => {
                    if changed.is_err() {
                        return Attempt { outcome: Outcome::LeaderChanged(None), frozen };
                    }
                    None
                }
                () = tokio::time::sleep_until(transfer.deadline().into()) => None,
            };
            if let Some(event) = event {
                effects = transfer.on(event, Instant::now());
            }
            let view = view(replica, &metrics.borrow_watched(), target);
            effects.extend(transfer.on(Event::Seen(view), Instant::now()));
        }
    }
}

/// An attempt is dropped in the middle when whoever asked for it is gone. The target may still win then.
struct AskedToStand<'a> {
    replica: &'a Replica,
    term: u64,
    open: bool,
}

impl Drop for AskedToStand<'_> {
    fn drop(&mut self) {
        if self.open {
            self.replica.void_lease(self.term);
        }
    }
}

enum Done {
    Event(Event),
    /// `None` when writes did not drain in time.
    GateClosed(Option<OwnedRwLockWriteGuard<()>>),
}

fn view(replica: &Replica, metrics: &RaftMetrics, target: NodeId) -> View {
    let lag = replica.lag_of(metrics, target);
    let last_index = metrics.last_log_index.unwrap_or(0);
    View {
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        last_index,
        target_matched: lag.map(|(entries, _)| last_index - entries),
        lag_bytes: lag.map_or(0, |l| l.1),
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
        Reason::Unreachable => Code::Unreachable,
        Reason::NoPrimary => Code::NoPrimary,
        Reason::PriorityElectionDisabled => Code::PriorityElectionDisabled,
    }
}

fn code(outcome: &Outcome) -> Code {
    match outcome {
        Outcome::Transferred => Code::Transferred,
        Outcome::LagTooHigh { .. } => Code::LagTooHigh,
        Outcome::Unreachable(_) => Code::Unreachable,
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
            "partition {partition} stays on broker {me}: broker {target} lacks {entries} entries ({bytes} bytes); \
             rebalance again when its non-replicated records are near 0"
        ),
        Outcome::Unreachable(reason) => {
            format!("partition {partition} stays on broker {me}: broker {target} is not reachable ({reason})")
        }
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
