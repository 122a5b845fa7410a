//! What this broker tells gateways about itself, and the watch that keeps it current.
//!
//! Gateways hold a stream open; every change of role, term or leader is pushed at once, lag at least every
//! second. So a gateway knows a new leader as soon as the leader does.
//!
//! Cost of a change: the replicas that changed are looked at, and only they are sent. All replicas are looked at once a
//! second, and what differs is sent.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::v1::{Health, Role};
use evenkeel_protocol::{NodeId, PartitionId};
use evenkeel_raft_storage::DiskSpace;
use evenkeel_security::Security;
use evenkeel_supervision::Progress;
use openraft::{Instant as _, ServerState};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::metric_definitions::{self as metric, ReplicaGauges};
use crate::options::Options;
use crate::peer::Peers;
use crate::replica::{RaftMetrics, Replica};
use crate::replicas::Replicas;
use crate::stop::Stop;

/// Lag changes with every write; it is pushed this often.
const LAG_INTERVAL_MS: u64 = 1_000;
/// Changes that come together are pushed together.
const SETTLE_MS: u64 = 1;

/// Others may lead after one lease; more of them tell a majority that is away from a machine that is busy.
const CUT_OFF_LEASES: u32 = 4;

/// How gateways and people know this broker.
pub struct Identity {
    pub host: String,
    pub port: u32,
    pub broker_uuid: String,
    pub security: Security,
}

/// A status as it was published once.
#[derive(Debug, Default)]
pub struct Published {
    /// All but the replicas.
    pub head: pb::BrokerStatus,
    /// By partition; those that are as in the status before are shared with it.
    pub replicas: Vec<Arc<pb::ReplicaStatus>>,
}

impl Published {
    /// All of it.
    pub fn whole(&self) -> pb::BrokerStatus {
        let replicas = self.replicas.iter().map(|replica| (**replica).clone()).collect();
        pb::BrokerStatus { replicas, ..self.head.clone() }
    }

    /// What is different from `before`.
    pub fn since(&self, before: &Self) -> pb::BrokerStatus {
        let known = |at: usize, now| before.replicas.get(at).is_some_and(|then| Arc::ptr_eq(then, now));
        let news = self.replicas.iter().enumerate().filter(|(at, now)| !known(*at, *now));
        let replicas = news.map(|(_, replica)| (**replica).clone()).collect();
        pb::BrokerStatus { replicas, partial: true, ..self.head.clone() }
    }
}

/// What has to be looked at again.
#[derive(Debug, Default)]
struct Stale {
    all: bool,
    partitions: BTreeSet<u32>,
}

/// Cheap handle.
#[derive(Clone)]
pub struct StatusHub(Arc<Inner>);

struct Inner {
    replicas: Replicas,
    peers: Peers,
    base: pb::BrokerStatus,
    changed: Notify,
    stale: Mutex<Stale>,
    /// A leader that no majority has answered for longer leads nobody any more.
    cut_off_after: Duration,
    draining: AtomicBool,
    drained: AtomicBool,
    disk: Mutex<Option<DiskSpace>>,
    security: Security,
    published: watch::Sender<Arc<Published>>,
}

impl StatusHub {
    pub fn new(
        options: &Options,
        identity: Identity,
        cluster_size: u32,
        replicas: Replicas,
        peers: Peers,
    ) -> Self {
        let Identity { host, port, broker_uuid, security } = identity;
        let base = pb::BrokerStatus {
            broker_uuid,
            node_id: options.cluster.node_id,
            cluster_id: options.cluster.id.clone(),
            host,
            port,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            partitions_count: options.cluster.partitions,
            replication_factor: options.cluster.replication_factor,
            cluster_size,
            priority_election: options.raft.priority_election,
            ..Default::default()
        };
        let (published, _) = watch::channel(Arc::new(Published { head: base.clone(), replicas: Vec::new() }));
        let changed = Notify::new();
        let cut_off_after = options.raft.lease * CUT_OFF_LEASES;
        let (draining, drained, disk, stale) = Default::default();
        Self(Arc::new(Inner {
            replicas,
            peers,
            base,
            changed,
            stale,
            cut_off_after,
            draining,
            drained,
            disk,
            security,
            published,
        }))
    }

    /// What is published now, and at once what is so now: who asks anew wants to know the lag.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.0.stale.lock().all = true;
        self.0.changed.notify_one();
        self.0.published.subscribe()
    }

    /// The replicas that it tells about.
    pub fn replicas(&self) -> &Replicas {
        &self.0.replicas
    }

    pub fn set_draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    pub fn set_drained(&self, drained: bool) {
        self.0.drained.store(drained, Ordering::Relaxed);
        self.0.changed.notify_one();
    }

    /// Told with the next status; news of a disk are never urgent.
    pub fn set_disk(&self, space: Option<DiskSpace>) {
        *self.0.disk.lock() = space;
    }

    /// Publishes until `stop`. Going round is the broker's progress: it looks at every replica, and waits for no disk and no
    /// other process.
    pub async fn run(self, progress: Progress, mut stop: Stop) {
        self.0.stale.lock().all = true;
        let mut all_again = tokio::time::Instant::now();
        loop {
            let stale = std::mem::take(&mut *self.0.stale.lock());
            if stale.all {
                all_again = tokio::time::Instant::now() + Duration::from_millis(LAG_INTERVAL_MS);
            }
            // Also when nothing changed: gateways take it for this broker's sign of life.
            let before = self.0.published.borrow().clone();
            self.0.published.send_replace(Arc::new(self.look_again(&before, &stale)));
            progress.beat();
            tokio::select! {
                () = self.0.changed.notified() => tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await,
                () = tokio::time::sleep_until(all_again) => self.0.stale.lock().all = true,
                () = stop.requested() => return,
            }
        }
    }

    /// What is so now, after every peer was asked whether it is there.
    pub async fn probed(&self, patience: Duration) -> pb::BrokerStatus {
        let asked =
            self.0.peers.iter().filter_map(|peer| Some((peer.clone(), self.shared_group(peer.node)?)));
        let answers = asked.map(|(peer, group)| async move {
            let mut client = peer.client();
            let answer = tokio::time::timeout(patience, client.probe(pb::ProbeRequest { group })).await;
            let ready = answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.into_inner().ready));
            (!ready).then_some(peer.node.0)
        });
        let silent: Vec<u64> = futures::future::join_all(answers).await.into_iter().flatten().collect();
        let mut status = self.build();
        for follower in status.replicas.iter_mut().flat_map(|replica| &mut replica.followers) {
            follower.silent = silent.contains(&follower.node_id);
        }
        status
    }

    /// What is so now, unpublished.
    pub fn now(&self) -> pb::BrokerStatus {
        self.build()
    }

    /// The other brokers.
    pub fn peers(&self) -> &Peers {
        &self.0.peers
    }

    /// A group that both this broker and another have a replica of; one that this broker leads, if any.
    fn shared_group(&self, node: NodeId) -> Option<u32> {
        let shared = self.0.replicas.iter().filter(|r| r.members.iter().any(|member| member.node == node));
        shared.max_by_key(|replica| replica.leads().is_some()).map(|replica| replica.partition.0)
    }

    fn build(&self) -> pb::BrokerStatus {
        let replicas = self.0.replicas.iter().map(|r| self.replica_status(r)).collect();
        pb::BrokerStatus { replicas, ..self.head() }
    }

    /// The status before, with what is stale in it looked at again.
    fn look_again(&self, before: &Published, stale: &Stale) -> Published {
        let all = stale.all || before.replicas.is_empty();
        let look = |(at, replica): (usize, &Arc<Replica>)| {
            let then = before.replicas.get(at);
            if let Some(then) = then
                && !all
                && !stale.partitions.contains(&replica.partition.0)
            {
                return then.clone();
            }
            let now = self.replica_status(replica);
            then.filter(|then| ***then == now).cloned().unwrap_or_else(|| Arc::new(now))
        };
        Published { head: self.head(), replicas: self.0.replicas.iter().enumerate().map(look).collect() }
    }

    fn head(&self) -> pb::BrokerStatus {
        let disk = *self.0.disk.lock();
        let expires = self.0.security.certificate_expires_at();
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs());
        pb::BrokerStatus {
            disk_free_bytes: disk.map(|space| space.free_bytes),
            disk_size_bytes: disk.map(|space| space.size_bytes),
            certificate_expires_at: expires.and_then(seconds),
            draining: self.0.draining.load(Ordering::Relaxed),
            drained: self.0.drained.load(Ordering::Relaxed),
            replicated_bytes_total: metric::replicated_bytes(),
            ..self.0.base.clone()
        }
    }

    /// Something about this partition's replica is different: publish it.
    pub fn changed(&self, partition: PartitionId) {
        self.0.stale.lock().partitions.insert(partition.0);
        self.0.changed.notify_one();
    }

    /// Brings the gauges up to date; called for each scrape.
    pub fn refresh_gauges(&self) {
        for replica in self.0.replicas.iter() {
            let metrics = replica.raft_metrics();
            let others = replica.members.iter().map(|m| m.node).filter(|n| *n != replica.me);
            let append_index = metrics.last_log_index.unwrap_or(0);
            // A follower that has not answered this leader yet lacks everything, as far as anyone can tell.
            let lag = |node: NodeId| {
                let (entries, bytes) = replica.lag_of(&metrics, node).unwrap_or((append_index, None));
                (node.0, entries, bytes.unwrap_or_else(|| replica.log.bytes_after(None)))
            };
            let leads = replica.leads().is_some();
            let own = replica.members.iter().find(|m| m.node == replica.me);
            let committed = metrics.local_committed.map_or(0, |id| id.index());
            replica.commits.count(replica.partition, committed);
            let gauges = ReplicaGauges {
                role: match self.shown(replica, &metrics).0 {
                    Role::Leader => 3.0,
                    Role::Candidate => 2.0,
                    Role::Follower => 1.0,
                    Role::Inactive | Role::Unspecified => 0.0,
                },
                health: match self.shown(replica, &metrics).1 {
                    Health::Healthy => 1.0,
                    Health::Dead => -1.0,
                    Health::Unhealthy | Health::Unspecified => 0.0,
                },
                commit_index: committed,
                resting: leads && replica.rest.is_resting(),
                append_index,
                records: replica.reader.records_count(),
                priority: own.map_or(0, |m| m.priority.0),
                followers: others.clone().filter(|_| leads).map(lag).collect(),
            };
            metric::set_replica_gauges(replica.partition.0, &gauges, others.map(|n| n.0));
        }
    }
}

/// As gateways and metrics name it.
pub fn role_of(metrics: &RaftMetrics) -> Role {
    if metrics.running_state.is_err() {
        return Role::Inactive;
    }
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Candidate => Role::Candidate,
        ServerState::Follower | ServerState::Learner => Role::Follower,
        ServerState::Shutdown => Role::Inactive,
    }
}

fn health_of(metrics: &RaftMetrics) -> Health {
    match (&metrics.running_state, metrics.current_leader) {
        (Err(_), _) => Health::Dead,
        (Ok(()), Some(_)) => Health::Healthy,
        (Ok(()), None) => Health::Unhealthy,
    }
}

impl StatusHub {
    /// Role and health, as gateways and operators are told. A leader that cannot serve is none: one whose first entry is
    /// not committed yet, and one that a majority has not answered for long, which openraft lets lead on.
    fn shown(&self, replica: &Replica, metrics: &RaftMetrics) -> (Role, Health) {
        let health = health_of(metrics);
        match role_of(metrics) {
            // It takes part in nothing but replication.
            _ if replica.rebuilding.is_under_way() => (Role::Inactive, Health::Unhealthy),
            Role::Leader if metrics.current_leader != Some(replica.me.0) => (Role::Candidate, health),
            Role::Leader if self.is_cut_off(replica, metrics) => (Role::Candidate, Health::Unhealthy),
            role => (role, health),
        }
    }

    fn is_cut_off(&self, replica: &Replica, metrics: &RaftMetrics) -> bool {
        let alone = replica.members.len() == 1;
        // While it rests nobody is asked, and it ends its rest when a follower's broker does not answer.
        let asked_since = replica.rest.awake_since();
        !alone
            && asked_since.is_some_and(|since| clock::now() - since > self.0.cut_off_after)
            && metrics.last_quorum_acked.as_ref().is_some_and(|acked| acked.elapsed() > self.0.cut_off_after)
    }

    fn replica_status(&self, replica: &Replica) -> pb::ReplicaStatus {
        let metrics = replica.raft_metrics();
        let (role, health) = self.shown(replica, &metrics);
        let leads = role == Role::Leader;
        let others = replica.members.iter().filter(|m| m.node != replica.me && leads);
        let followers = others
            .map(|m| {
                let lag = replica.lag_of(&metrics, m.node);
                pb::FollowerLag {
                    node_id: m.node.0,
                    entries: lag.map(|l| l.0),
                    bytes: lag.and_then(|l| l.1),
                    unreachable: !self.0.peers.is_connected(m.node),
                    silent: false,
                }
            })
            .collect();
        let members = replica.members.iter();
        let own = replica.members.iter().find(|m| m.node == replica.me);
        pb::ReplicaStatus {
            partition_id: replica.partition.0,
            role: role as i32,
            health: health as i32,
            priority: own.map_or(0, |m| m.priority.0),
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            commit_index: metrics.local_committed.map_or(0, |id| id.index()),
            applied_index: metrics.last_applied.map_or(0, |id| id.index()),
            followers,
            records: replica.reader.records_count(),
            replicas: members
                .map(|m| pb::ReplicaPriority { node_id: m.node.0, priority: m.priority.0 })
                .collect(),
        }
    }
}
