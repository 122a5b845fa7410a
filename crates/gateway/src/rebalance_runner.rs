//! Runs rebalances: at most one at a time, its partitions with bounded concurrency, after the request has been
//! answered. Keeps the last runs in memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evenkeel_protocol::NodeId;
use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::step_down_response::Result as StepDown;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use crate::metric_definitions;
use crate::rebalance::{
    BalanceJson, Decision, Misplaced, Outcome, PartitionResult, Run, RunResult, balance, decide, result_of,
};
use crate::writes::Router;

/// Partitions handed over at once.
const CONCURRENT_MAX: usize = 4;
/// Runs that can be looked up afterwards.
const RUNS_KEPT_MAX: usize = 100;
/// A leader catches the target up, transfers, and may try the next replica: longer than all of that.
const STEP_DOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// Leaders asked for one partition, when leadership moves meanwhile.
const LEADERS_ASKED_MAX: u32 = 3;
/// How long the published topology may take to show a new leader.
const LEADER_SHOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    Started { id: u64 },
    Running { id: u64 },
    Noop,
    Refused,
}

#[derive(Default)]
struct Runs {
    last_id: u64,
    active: Option<Run>,
    finished: VecDeque<Run>,
}

/// Starts runs and remembers them. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Rebalancer {
    router: Arc<Router>,
    runs: Arc<Mutex<Runs>>,
    tasks: TaskTracker,
}

impl Rebalancer {
    /// Runs are spawned on `tasks`, so that a stopping gateway can wait for them.
    pub(crate) fn new(router: Arc<Router>, tasks: TaskTracker) -> Self {
        Self { router, runs: Arc::default(), tasks }
    }

    /// Starts a run unless there is nothing to do, nothing that can be done, or one under way.
    pub(crate) fn request(&self) -> Answered {
        let topology = self.router.topology.borrow().clone();
        let (id, misplaced) = {
            let mut runs = self.runs.lock();
            if let Some(active) = &runs.active {
                return Answered::Running { id: active.rebalance_id };
            }
            match decide(&topology) {
                Decision::Balanced => {
                    metric_definitions::rebalance_runs("noop").increment(1);
                    tracing::info!("rebalance: nothing to do, every partition is led by its primary");
                    return Answered::Noop;
                }
                Decision::Refused(because) => {
                    metric_definitions::rebalance_runs("refused").increment(1);
                    tracing::warn!("rebalance refused: {because}");
                    return Answered::Refused;
                }
                Decision::Run(misplaced) => {
                    runs.last_id += 1;
                    let id = runs.last_id;
                    runs.active = Some(Run::new(id, &misplaced, SystemTime::now()));
                    (id, misplaced)
                }
            }
        };
        tracing::info!(run = id, partitions = misplaced.len(), "rebalance started");
        self.tasks.spawn(self.clone().run(id, misplaced));
        Answered::Started { id }
    }

    /// The run under way.
    pub(crate) fn active_id(&self) -> Option<u64> {
        self.runs.lock().active.as_ref().map(|run| run.rebalance_id)
    }

    /// How balanced the cluster is, with the active and the last run.
    pub(crate) fn balance(&self) -> BalanceJson {
        let (running, last) = {
            let runs = self.runs.lock();
            (runs.active.clone(), runs.finished.back().cloned())
        };
        balance(&self.router.topology.borrow(), running, last)
    }

    /// A run by its id, while it is remembered.
    pub(crate) fn find(&self, id: u64) -> Option<Run> {
        let runs = self.runs.lock();
        runs.active.iter().chain(&runs.finished).find(|run| run.rebalance_id == id).cloned()
    }

    async fn run(self, id: u64, misplaced: Vec<Misplaced>) {
        let this = &self;
        futures::stream::iter(misplaced)
            .for_each_concurrent(CONCURRENT_MAX, |partition| async move {
                this.update(|run| run.begin(partition.partition));
                let outcome = this.hand_over(partition).await;
                metric_definitions::rebalance_partition_results(outcome.result.name()).increment(1);
                tracing::info!(
                    run = id,
                    partition = %partition.partition,
                    result = outcome.result.name(),
                    from = ?outcome.from.map(|node| node.0),
                    to = ?outcome.to.map(|node| node.0),
                    "{}", outcome.detail
                );
                this.update(|run| run.end(partition.partition, outcome));
            })
            .await;
        let mut runs = self.runs.lock();
        if let Some(mut run) = runs.active.take() {
            let result = match run.finish(SystemTime::now()) {
                RunResult::Completed => "completed",
                RunResult::Failed => "failed",
            };
            metric_definitions::rebalance_runs(result).increment(1);
            tracing::info!(run = id, result, "rebalance finished");
            if runs.finished.len() == RUNS_KEPT_MAX {
                runs.finished.pop_front();
            }
            runs.finished.push_back(run);
        }
    }

    fn update(&self, change: impl FnOnce(&mut Run)) {
        if let Some(run) = &mut self.runs.lock().active {
            change(run);
        }
    }

    /// Asks the partition's leader to hand over; asks the next one when leadership has moved.
    async fn hand_over(&self, mut partition: Misplaced) -> Outcome {
        let mut outcome = ended(PartitionResult::NoLeader, partition, "the partition has no leader");
        for _ in 0..LEADERS_ASKED_MAX {
            let Some((leader, _)) = partition.leader else { break };
            outcome = self.ask(partition, leader).await;
            if outcome.result != PartitionResult::LeaderChanged {
                break;
            }
            match self.after_leader_change(partition).await {
                Moved::ToPrimary => {
                    return ended(
                        PartitionResult::AlreadyLeader,
                        partition,
                        "its primary has come to lead it",
                    );
                }
                Moved::To(now) => partition = now,
                Moved::Unknown => break,
            }
        }
        if let (PartitionResult::Transferred, Some(to)) = (outcome.result, outcome.to) {
            self.until_shown(partition, to).await;
        }
        outcome
    }

    async fn ask(&self, partition: Misplaced, leader: NodeId) -> Outcome {
        let Some(link) = self.router.links.get(leader) else {
            return ended(PartitionResult::Unreachable, partition, "its leader is not in cluster.brokers");
        };
        let term = partition.leader.map_or(0, |(_, epoch)| epoch.term);
        let request = StepDownRequest { partition_id: partition.partition.0, term, ..Default::default() };
        match timeout(STEP_DOWN_TIMEOUT, link.client().step_down(request)).await {
            Err(_) => ended(PartitionResult::NoResponse, partition, "its leader did not answer in time"),
            Ok(Err(status)) => {
                // Whether the leader got the request cannot be told from a broken connection.
                let result = if status.code() == tonic::Code::Unavailable {
                    PartitionResult::Unreachable
                } else {
                    PartitionResult::NoResponse
                };
                ended(result, partition, &format!("broker {leader}: {}", status.message()))
            }
            Ok(Ok(response)) => {
                let answer = response.into_inner();
                let (result, reason) = result_of(answer.result());
                let transferred = answer.result() == StepDown::Transferred;
                Outcome {
                    result,
                    reason,
                    frozen_us: transferred.then_some(answer.frozen_us),
                    from: answer.from.map(NodeId).or(Some(leader)),
                    to: answer.to.map(NodeId),
                    detail: answer.detail,
                }
            }
        }
    }

    /// Waits until the topology shows another leadership than `before`'s.
    async fn after_leader_change(&self, before: Misplaced) -> Moved {
        let mut topology = self.router.topology.clone();
        let changed = topology.wait_for(|view| {
            view.partition(before.partition)
                .is_some_and(|p| p.leader.is_some() && p.leader.zip(p.epoch) != before.leader)
        });
        let Ok(Ok(view)) = timeout(LEADER_SHOWN_TIMEOUT, changed).await else { return Moved::Unknown };
        match view.partition(before.partition).map(crate::rebalance::misplaced) {
            Some(Some(now)) => Moved::To(now),
            Some(None) => Moved::ToPrimary,
            None => Moved::Unknown,
        }
    }

    /// Waits until the topology shows what the leader reported, so that a run's result never contradicts it.
    async fn until_shown(&self, partition: Misplaced, to: NodeId) {
        let mut topology = self.router.topology.clone();
        let old = partition.leader.map(|(node, _)| node);
        let deadline = Instant::now() + LEADER_SHOWN_TIMEOUT;
        let shown = topology.wait_for(|view| {
            view.partition(partition.partition)
                .is_some_and(|p| p.leader == Some(to) || (p.leader.is_some() && p.leader != old))
        });
        if timeout_at(deadline, shown).await.is_err() {
            tracing::warn!(partition = %partition.partition, to = %to, "the new leader has not shown itself yet");
        }
    }
}

enum Moved {
    ToPrimary,
    To(Misplaced),
    Unknown,
}

fn ended(result: PartitionResult, partition: Misplaced, detail: &str) -> Outcome {
    Outcome {
        result,
        reason: None,
        detail: detail.to_owned(),
        from: partition.leader.map(|(node, _)| node),
        to: None,
        frozen_us: None,
    }
}
