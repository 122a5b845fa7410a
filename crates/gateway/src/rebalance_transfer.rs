//! One partition of a run: asks its leader to hand over, again where that may help, and looks at the topology before
//! it believes anything. What a gateway that died had asked for is found that way, and not asked for twice.

use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use evenkeel_protocol::{Epoch, NodeId};
use tokio::time::{Instant, timeout, timeout_at};

use crate::rebalance::{Outcome, PartitionResult, Phases, PlannedPartition, result_of};
use crate::rebalance_request::RunSettings;
use crate::writes::Router;

/// Beyond what the request allows for catching up and for the new leader: probes, freezes, several candidates.
const STEP_DOWN_MARGIN: Duration = Duration::from_secs(10);
/// How long the published topology may take to show a new leader.
const LEADER_SHOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// Before the second attempt; doubled before each later one, and then somewhere between half and all of it.
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Hands partitions over.
#[derive(Clone)]
pub(crate) struct Transfers {
    pub(crate) router: Arc<Router>,
    pub(crate) settings: RunSettings,
}

/// What a partition's attempts have cost so far; nothing until a leader has told.
#[derive(Clone, Copy, Default)]
struct Cost {
    frozen_us: Option<u64>,
    phases: Option<Phases>,
}

impl Cost {
    fn add(&mut self, outcome: &Outcome) {
        if let Some(us) = outcome.frozen_us {
            self.frozen_us = Some(self.frozen_us.unwrap_or(0).saturating_add(us));
        }
        if let Some(phases) = outcome.phases {
            self.phases = Some(self.phases.unwrap_or_default() + phases);
        }
    }
}

/// Who leads now.
enum Leading {
    /// Somebody else than wanted, in this epoch.
    Other(NodeId, Epoch),
    /// One that was wanted.
    Wanted(NodeId),
    Nobody,
}

impl Transfers {
    /// To the end, whatever it is. `asked`: its leader may have been asked before, by a gateway that died.
    pub(crate) async fn hand_over(&self, planned: &PlannedPartition, asked: bool) -> Outcome {
        let outcome = self.attempts(planned, asked).await;
        let topology = self.router.topology.borrow();
        Outcome { leader: topology.partition(planned.partition).and_then(|p| p.leader), ..outcome }
    }

    async fn attempts(&self, planned: &PlannedPartition, mut asked: bool) -> Outcome {
        let mut cost = Cost::default();
        let mut attempt = 1;
        loop {
            let (leader, epoch) = match self.leading(planned, asked).await {
                Leading::Wanted(node) => return arrived(planned, node, asked, cost),
                Leading::Nobody => {
                    let detail = "the partition has no leader; wait for its election".to_owned();
                    return ended(PartitionResult::NoLeader, planned, detail, cost);
                }
                Leading::Other(node, epoch) => (node, epoch),
            };
            let mut outcome = self.ask(planned, leader, epoch).await;
            asked = true;
            cost.add(&outcome);
            (outcome.frozen_us, outcome.phases) = (cost.frozen_us, cost.phases);
            if let (PartitionResult::Transferred, Some(to)) = (outcome.result, outcome.to) {
                self.until_shown(planned, epoch, to).await;
                return outcome;
            }
            if !outcome.result.is_worth_a_retry() || attempt == self.settings.transfer_attempts_max {
                if outcome.result == PartitionResult::LeaderChanged {
                    self.until_shown(planned, epoch, leader).await;
                }
                return self.last_look(planned, outcome);
            }
            tracing::debug!(partition = %planned.partition, attempt, "{}", outcome.detail);
            self.pause_before(planned, epoch, attempt).await;
            attempt += 1;
        }
    }

    /// Whether leadership came to a wanted broker after all.
    fn last_look(&self, planned: &PlannedPartition, outcome: Outcome) -> Outcome {
        let topology = self.router.topology.borrow();
        let leader = topology.partition(planned.partition).and_then(|partition| partition.leader);
        match leader.filter(|leader| is_arrival(planned, *leader, true)) {
            Some(leader) => {
                let cost = Cost { frozen_us: outcome.frozen_us, phases: outcome.phases };
                arrived(planned, leader, true, cost)
            }
            None => outcome,
        }
    }

    async fn leading(&self, planned: &PlannedPartition, asked: bool) -> Leading {
        let mut topology = self.router.topology.clone();
        let led =
            topology.wait_for(|view| view.partition(planned.partition).is_some_and(|p| p.leader.is_some()));
        let Ok(Ok(view)) = timeout(LEADER_SHOWN_TIMEOUT, led).await else { return Leading::Nobody };
        let seen = view.partition(planned.partition).and_then(|p| p.leader.zip(p.epoch));
        match seen {
            None => Leading::Nobody,
            Some((leader, _)) if is_arrival(planned, leader, asked) => Leading::Wanted(leader),
            Some((leader, epoch)) => Leading::Other(leader, epoch),
        }
    }

    async fn ask(&self, planned: &PlannedPartition, leader: NodeId, epoch: Epoch) -> Outcome {
        let Some(link) = self.router.links.get(leader) else {
            let detail = format!("its leader, broker {leader}, is not in cluster.brokers; add it there");
            return ended(PartitionResult::Unreachable, planned, detail, Cost::default());
        };
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let settings = &self.settings;
        // Whoever leads now is better than those after it.
        let better = planned.candidates.iter().take_while(|node| **node != leader);
        let request = StepDownRequest {
            partition_id: planned.partition.0,
            term: epoch.term,
            candidates: better.map(|node| node.0).collect(),
            lag_bytes_max: Some(settings.replication_lag_bytes_max),
            catch_up_ms: Some(millis(settings.replication_timeout)),
            leader_wait_ms: Some(millis(settings.leader_wait_timeout)),
        };
        let each = settings.replication_timeout + settings.leader_wait_timeout;
        let patience = each * u32::try_from(planned.candidates.len()).unwrap_or(1) + STEP_DOWN_MARGIN;
        match timeout(patience, link.client().step_down(request)).await {
            Err(_) => {
                let detail =
                    format!("its leader, broker {leader}, did not answer within {} s", patience.as_secs());
                ended(PartitionResult::NoResponse, planned, detail, Cost::default())
            }
            Ok(Err(status)) => {
                let (result, what) = match could_not_connect(&status) {
                    true => (PartitionResult::Unreachable, "could not be connected to"),
                    false => (PartitionResult::NoResponse, "was asked and did not answer"),
                };
                let detail = format!("its leader, broker {leader}, {what} ({})", status.message());
                ended(result, planned, detail, Cost::default())
            }
            Ok(Ok(response)) => {
                let answer = response.into_inner();
                let (result, reason) = result_of(answer.result());
                let transferred = answer.result() == StepDown::Transferred;
                Outcome {
                    result,
                    reason: reason.or(Some(planned.reason)),
                    frozen_us: Some(answer.frozen_us).filter(|us| transferred || *us > 0),
                    phases: answer.phases.map(Phases::from),
                    from: answer.from.map(NodeId).or(Some(leader)),
                    to: answer.to.map(NodeId),
                    leader: None,
                    detail: if answer.detail.is_empty() { planned.detail.clone() } else { answer.detail },
                }
            }
        }
    }

    /// Waits until the topology shows what the leader reported, so that a run's result never contradicts it.
    async fn until_shown(&self, planned: &PlannedPartition, before: Epoch, told: NodeId) {
        let mut topology = self.router.topology.clone();
        let shown = topology.wait_for(|view| {
            view.partition(planned.partition)
                .is_some_and(|p| p.leader.is_some() && p.epoch.is_some_and(|epoch| epoch > before))
        });
        if timeout(LEADER_SHOWN_TIMEOUT, shown).await.is_err() {
            tracing::warn!(partition = %planned.partition, %told, "the new leader has not shown itself yet");
        }
    }

    /// A change of leadership ends the pause.
    async fn pause_before(&self, planned: &PlannedPartition, before: Epoch, attempt: u32) {
        let pause = BACKOFF.saturating_mul(1 << (attempt - 1).min(5)).min(BACKOFF_MAX);
        let until = Instant::now() + pause.mul_f64(0.5 + rand::random::<f64>() / 2.0);
        let mut topology = self.router.topology.clone();
        let changed = topology.wait_for(|view| {
            view.partition(planned.partition).is_some_and(|p| p.leader.is_some() && p.epoch > Some(before))
        });
        // Nothing to be done about a topology that has ended: the gateway stops.
        let _ = timeout_at(until, changed).await;
    }
}

/// Whether a call failed before anything was sent. From a connection that broke later it cannot be told whether the other
/// side got the request.
fn could_not_connect(status: &tonic::Status) -> bool {
    let first: &(dyn std::error::Error + 'static) = status;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<tonic::ConnectError>())
}

/// Whether the partition is where it should be: with the best candidate, or with any of them once asked.
fn is_arrival(planned: &PlannedPartition, leader: NodeId, asked: bool) -> bool {
    let wanted = if asked { planned.candidates.len() } else { 1 };
    planned.candidates.iter().take(wanted).any(|node| *node == leader)
}

fn arrived(planned: &PlannedPartition, node: NodeId, asked: bool, cost: Cost) -> Outcome {
    let partition = planned.partition;
    let (result, detail) = if asked && planned.leader != Some(node) {
        let from = planned.leader.map_or_else(|| "nobody".to_owned(), |leader| format!("broker {leader}"));
        (PartitionResult::Transferred, format!("partition {partition} moved from {from} to broker {node}"))
    } else {
        let detail = format!("broker {node} has come to lead partition {partition} without being asked");
        (PartitionResult::AlreadyLeader, detail)
    };
    Outcome { to: Some(node), ..ended(result, planned, detail, cost) }
}

fn ended(result: PartitionResult, planned: &PlannedPartition, detail: String, cost: Cost) -> Outcome {
    let Cost { frozen_us, phases } = cost;
    let (reason, from) = (Some(planned.reason), planned.leader);
    Outcome { result, reason, detail, from, to: None, leader: None, frozen_us, phases }
}
