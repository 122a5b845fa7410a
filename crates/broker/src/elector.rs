//! Gives the election schedule its clock, its events and its effects.
//!
//! One timer for all replicas of the broker. See [`crate::election`] for who stands when.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::{NodeId, PartitionId};
use openraft::ServerState;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock;
use crate::election::{ElectionSchedule, ElectionTimes, GroupId, Order};
use crate::metric_definitions::{election_began, heartbeat_missed};
use crate::peer::Peers;
use crate::replica::Replica;
use crate::replicas::Replicas;
use crate::stop::Stop;

/// The schedule looks again at least this often, so that a lost wake-up costs little.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Why a broker leaves leadership to others wherever another can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Yields {
    Drained,
    DiskFull,
}

/// Cheap handle.
#[derive(Clone)]
pub struct Elector(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    wake: Notify,
    times: ElectionTimes,
}

struct State {
    schedule: ElectionSchedule,
    /// When each partition's leader was last heard, for the heartbeat metric.
    heard: HashMap<PartitionId, Instant>,
    /// When each replica last stood.
    stood: HashMap<PartitionId, Instant>,
    /// Why this broker stands only where nobody else does.
    yields: HashSet<Yields>,
    /// A stopping broker stands no more.
    retired: bool,
}

impl Elector {
    pub fn new(times: ElectionTimes, order: Order) -> Self {
        let schedule = ElectionSchedule::new(times, order);
        let state = State {
            schedule,
            heard: HashMap::new(),
            stood: HashMap::new(),
            yields: HashSet::new(),
            retired: false,
        };
        Self(Arc::new(Inner { state: Mutex::new(state), wake: Notify::new(), times }))
    }

    /// Watches a replica; `new` when its partition has had no leader yet, as far as this disk knows.
    pub fn add(&self, partition: PartitionId, rank: u32, new: bool) {
        self.0.state.lock().schedule.add(partition.0, rank, new, clock::now());
        self.0.wake.notify_one();
    }

    /// A leader was heard, or a vote was granted. Returns the time since the last such event.
    pub fn heard(&self, partition: PartitionId) -> Option<Duration> {
        let now = clock::now();
        let mut state = self.0.state.lock();
        if state.schedule.heard(partition.0, now) {
            self.0.wake.notify_one();
        }
        state.heard.insert(partition, now).map(|before| now - before)
    }

    /// `leader` falls silent about a partition: its broker's signs of life stand for its own.
    pub fn rest(&self, partition: PartitionId, leader: NodeId) {
        let mut state = self.0.state.lock();
        state.schedule.rest(partition.0, leader.0, clock::now());
        // The time until it is heard again says nothing about heartbeats.
        state.heard.remove(&partition);
    }

    /// Whether the leader of a partition is trusted because its broker is heard.
    pub fn rests(&self, partition: PartitionId) -> bool {
        self.0.state.lock().schedule.rests(partition.0)
    }

    pub fn broker_heard(&self, broker: NodeId) {
        self.0.state.lock().schedule.broker_heard(broker.0, clock::now());
    }

    /// The connection on which a broker was heard ended.
    pub fn broker_lost(&self, broker: NodeId) {
        if self.0.state.lock().schedule.broker_lost(broker.0) {
            self.0.wake.notify_one();
        }
    }

    /// A candidate got our promise of a vote: standing now would only split the votes. Under load the ranks'
    /// stagger alone does not keep candidates apart.
    pub fn promised(&self, partition: PartitionId) {
        let until = clock::now() + self.0.times.stagger;
        self.0.state.lock().schedule.quiet(partition.0, Some(until));
    }

    /// This broker's replica began or ceased to lead.
    pub fn leading(&self, partition: PartitionId, leads: bool) {
        self.0.state.lock().schedule.leading(partition.0, leads, clock::now());
        self.0.wake.notify_one();
    }

    /// Stand only where nobody else does, or as usual again.
    pub fn yields(&self, why: Yields, yields: bool) {
        {
            let mut state = self.0.state.lock();
            let changed = if yields { state.yields.insert(why) } else { state.yields.remove(&why) };
            if !changed {
                return;
            }
            let yields = !state.yields.is_empty();
            state.schedule.yields(yields);
        }
        self.0.wake.notify_one();
    }

    /// Stand for nothing any more.
    pub fn retire(&self) {
        self.0.state.lock().retired = true;
    }

    /// Who should stand now, each with how often it has done so in vain, and when to look again.
    fn due(&self) -> (Vec<(GroupId, u32)>, Instant) {
        let now = clock::now();
        let latest = now + Duration::from_millis(LOOK_AGAIN_MS);
        let mut state = self.0.state.lock();
        if state.retired {
            return (Vec::new(), latest);
        }
        let due = state.schedule.due(now);
        let due = due.into_iter().map(|group| (group, state.schedule.tries(group).saturating_sub(1)));
        let due = due.collect();
        let next = state.schedule.next_deadline().map_or(latest, |next| next.min(latest));
        (due, next)
    }

    /// Pre-votes are asked for again and again: the first ones may find a voter whose lease has a few milliseconds
    /// to go. But a vote that is under way must be let finish, however slow the disks.
    fn may_stand(&self, replica: &Replica) -> bool {
        let now = clock::now();
        let voting = replica.raft_metrics().state == ServerState::Candidate;
        let mut state = self.0.state.lock();
        let stood = state.stood.get(&replica.partition);
        if voting && stood.is_some_and(|at| now - *at < self.0.times.lease) {
            return false;
        }
        state.stood.insert(replica.partition, now);
        true
    }

    /// Runs until `stop`.
    pub async fn run(self, replicas: Replicas, peers: Peers, mut stop: Stop) {
        loop {
            let (due, next) = self.due();
            for (group, in_vain) in due {
                let Some(replica) = replicas.get(group) else { continue };
                // Without a majority within reach nobody can win; asking would only keep everyone busy.
                if !majority_within_reach(replica, &peers) {
                    self.0.state.lock().schedule.did_not_stand(group);
                    // Its place is free for the next one.
                    self.0.wake.notify_one();
                } else if self.may_stand(replica) {
                    tokio::spawn(stand(replica.clone(), in_vain));
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(next.into()) => {}
                () = self.0.wake.notified() => {}
                () = stop.requested() => return,
            }
        }
    }
}

fn majority_within_reach(replica: &Replica, peers: &Peers) -> bool {
    let others = replica.members.iter().filter_map(|m| peers.get(m.node));
    let reached = others.filter(|peer| *peer.connected().borrow()).count() + 1;
    reached > replica.members.len() / 2
}

async fn stand(replica: Arc<Replica>, in_vain: u32) {
    let partition = replica.partition;
    heartbeat_missed(partition.0);
    election_began(partition.0);
    match in_vain {
        0 => tracing::info!(%partition, "no leader heard: standing for election"),
        _ => tracing::debug!(%partition, in_vain, "standing for election again"),
    }
    // With pre-vote: a replica that cannot win, say because its log is behind, disturbs nobody.
    if let Err(fatal) = replica.raft.trigger().elect(true).await {
        tracing::warn!(%partition, %fatal, "the replica cannot stand: it has stopped");
    }
}
