//! Gives the election schedule its clock, its events and its effects.
//!
//! One timer for all replicas of the broker. See [`crate::election`] for who stands when.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::PartitionId;
use openraft::errors::{InitializeError, RaftError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::election::{Action, Due, ElectionSchedule, ElectionTimes, Order};
use crate::metric_definitions::{election_began, heartbeat_missed};
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::stop::Stop;

/// The schedule looks again at least this often, so that a lost wake-up costs little.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Cheap handle.
#[derive(Clone)]
pub struct Elector(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    schedule: ElectionSchedule,
    /// When each partition's leader was last heard, for the heartbeat metric.
    heard: HashMap<PartitionId, Instant>,
    /// A stopping broker stands no more.
    retired: bool,
}

impl Elector {
    pub fn new(times: ElectionTimes, order: Order) -> Self {
        let schedule = ElectionSchedule::new(times, order);
        let state = State { schedule, heard: HashMap::new(), retired: false };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new() }))
    }

    pub fn add(&self, partition: PartitionId, rank: u32, initialized: bool) {
        self.0.state.lock().schedule.add(partition.0, rank, initialized, Instant::now());
        self.0.wake.notify_one();
    }

    /// A leader was heard, or a vote was granted. Returns the time since the last such event.
    pub fn heard(&self, partition: PartitionId) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.0.state.lock();
        state.schedule.heard(partition.0, now);
        state.heard.insert(partition, now).map(|before| now - before)
    }

    /// This broker's replica began or ceased to lead.
    pub fn leading(&self, partition: PartitionId, leads: bool) {
        self.0.state.lock().schedule.leading(partition.0, leads, Instant::now());
        self.0.wake.notify_one();
    }

    /// Stand for nothing any more.
    pub fn retire(&self) {
        self.0.state.lock().retired = true;
    }

    fn due(&self) -> (Vec<Due>, Instant) {
        let now = Instant::now();
        let latest = now + Duration::from_millis(LOOK_AGAIN_MS);
        let mut state = self.0.state.lock();
        if state.retired {
            return (Vec::new(), latest);
        }
        let due = state.schedule.due(now);
        let next = state.schedule.next_deadline().map_or(latest, |next| next.min(latest));
        (due, next)
    }

    /// Runs until `stop`.
    pub async fn run(self, replicas: Replicas, mut stop: Stop) {
        loop {
            let (due, next) = self.due();
            for Due { group, action } in due {
                if let Some(replica) = replicas.get(group) {
                    tokio::spawn(self.clone().act(replica.clone(), action));
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.0.wake.notified() => {}
                () = stop.requested() => return,
            }
        }
    }

    async fn act(self, replica: Arc<Replica>, action: Action) {
        let partition = replica.partition;
        match action {
            Action::Stand => {
                heartbeat_missed(partition.0);
                election_began(partition.0);
                tracing::info!(%partition, "no leader heard: standing for election");
                if let Err(fatal) = replica.raft.trigger().elect(true).await {
                    tracing::warn!(%partition, %fatal, "the replica cannot stand: it has stopped");
                }
            }
            Action::Initialize => {
                let members: BTreeSet<u64> = replica.members.iter().map(|m| m.node.0).collect();
                election_began(partition.0);
                match replica.raft.initialize(members).await {
                    Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                        self.0.state.lock().schedule.initialized(partition.0, Instant::now());
                        self.0.wake.notify_one();
                    }
                    Err(error) => tracing::warn!(%partition, %error, "cannot found the partition"),
                }
            }
        }
    }
}
