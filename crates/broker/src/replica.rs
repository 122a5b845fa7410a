//! One broker's copy of one partition: writes, reads, and the gate that a transfer closes.
//!
//! Every proposal and every lease read passes the *gate* and holds it open until it is answered. A transfer
//! closes it: nothing new is proposed, everything that was is answered, and only then is the target told to
//! stand. So a planned change of leader leaves no write of unknown outcome, and no lease read can overlap the
//! next leader's writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evenkeel_protocol::internal::v1::{NotLeader, Outcome, Refused, refused::Reason};
use evenkeel_protocol::{Epoch, NodeId, PartitionId};
use evenkeel_raft_storage::{Command, GroupLog, PartitionReader, PartitionStateMachine, TypeConfig};
use futures::StreamExt;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::{Instant as _, ReadPolicy, ServerState};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedRwLockWriteGuard, RwLock};

use crate::clock;
use crate::distribution::Replica as Member;
use crate::inflow::Inflow;
use crate::leadership::{Commits, Leadership, Tenure};
use crate::metric_definitions::ReplicaMetrics;
use crate::network::Awaited;
use crate::rebuilding::Rebuilding;
use crate::resting::Rest;

/// openraft, filled in.
pub type Raft = openraft::Raft<TypeConfig, PartitionStateMachine>;
pub type RaftServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;
pub type RaftMetrics = openraft::RaftMetrics<TypeConfig>;

/// A lease with less than one of so many parts to go is not relied on: the proposal has to arrive within it.
const LEASE_PARTS: u32 = 8;

/// What a broker answers to a write.
#[derive(Debug)]
pub enum Answer {
    Outcome(Outcome),
    NotLeader(NotLeader),
    Refused(Refused),
}

/// Why a read was not served here.
#[derive(Debug)]
pub enum ReadRefusal {
    NotLeader(NotLeader),
    Refused(Refused),
}

pub struct Replica {
    pub partition: PartitionId,
    pub me: NodeId,
    pub raft: Raft,
    pub log: GroupLog,
    pub reader: PartitionReader,
    /// The whole replica set, highest priority first.
    pub members: Vec<Member>,
    pub metrics: ReplicaMetrics,
    pub leadership: Leadership,
    /// Says whether the replica has forgotten its past and does not count yet.
    pub rebuilding: Rebuilding,
    lease: Duration,
    pub rest: Rest,
    awaited: Awaited,
    pub commits: Commits,
    gate: Arc<RwLock<()>>,
    pub inflow: Inflow,
    transfer: Arc<Mutex<()>>,
    /// Term in which a transfer was given up after its target had been told to stand: the target might still
    /// win, with the lease set aside, so this leadership answers reads only after asking a majority.
    lease_void_in_term: AtomicU64,
}

impl Replica {
    /// `awaited` is the one that the network of `raft` looks at.
    pub fn new(
        me: NodeId,
        raft: Raft,
        log: GroupLog,
        reader: PartitionReader,
        members: Vec<Member>,
        rebuilding: Rebuilding,
        lease: Duration,
        awaited: Awaited,
    ) -> Self {
        let partition = PartitionId(log.group_id());
        Self {
            partition,
            me,
            raft,
            log,
            reader,
            members,
            metrics: ReplicaMetrics::new(partition.0),
            leadership: Leadership::new(partition),
            rebuilding,
            lease,
            rest: Rest::new(clock::now()),
            awaited,
            commits: Commits::default(),
            gate: Arc::default(),
            inflow: Inflow::default(),
            transfer: Arc::default(),
            lease_void_in_term: AtomicU64::new(0),
        }
    }

    /// How many replicas have a higher priority.
    pub fn rank(&self) -> u32 {
        let rank = self.members.iter().position(|member| member.node == self.me).unwrap_or(0);
        u32::try_from(rank).unwrap_or(u32::MAX)
    }

    /// The brokers of the other replicas.
    pub fn others(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().map(|member| member.node).filter(|node| *node != self.me)
    }

    /// A copy of openraft's newest metrics.
    pub fn raft_metrics(&self) -> RaftMetrics {
        self.raft.metrics().borrow_watched().clone()
    }

    /// The epoch of this replica's own leadership, if it leads now.
    pub fn leads(&self) -> Option<Epoch> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.current_leader == Some(self.me.0);
        leads.then_some(Epoch { term: metrics.current_term, node: self.me })
    }

    /// What leader-side services of this replica hold; `None` while it does not lead or is about to hand over.
    pub fn tenure(&self) -> Option<Tenure> {
        self.leadership.observe(|| self.leads())
    }

    fn not_leader(&self, forward: &ForwardToLeader<TypeConfig>) -> NotLeader {
        NotLeader { leader: forward.leader_id, term: self.raft.metrics().borrow_watched().current_term }
    }

    /// Proposes commands, in order, and answers each once it is applied. Waits for its turn before a transfer, and at the
    /// gate during one.
    pub async fn write(&self, commands: Vec<Command>, mut answer: impl FnMut(usize, Answer)) {
        let total = commands.len();
        let _under_way = self.inflow.enter(total).await;
        self.renew_lapsed_lease().await;
        let _open = self.gate.read().await;
        let mut results = match self.raft.client_write_many(commands).await {
            // A replica that stops ends them early, and openraft's stream must not be asked again after its end.
            Ok(results) => results.fuse(),
            Err(fatal) => {
                // Nothing was handed over, so nothing can have been written.
                (0..total).for_each(|i| answer(i, Answer::Refused(stopped(&fatal))));
                return;
            }
        };
        for i in 0..total {
            answer(
                i,
                match results.next().await {
                    Some(Ok(Ok(response))) => Answer::Outcome(response.response),
                    Some(Ok(Err(ClientWriteError::ForwardToLeader(f)))) => {
                        Answer::NotLeader(self.not_leader(&f))
                    }
                    Some(Ok(Err(error))) => Answer::Refused(unknown(error.to_string())),
                    Some(Err(fatal)) => Answer::Refused(unknown(fatal.to_string())),
                    None => Answer::Refused(unknown("the replica stopped before it answered".to_owned())),
                },
            );
        }
    }

    /// openraft takes no proposal from a leader that no majority answered within the lease: when the partition rested, or has
    /// just been won. Such answers are asked for first, which costs a round trip then and nothing otherwise. Whether this
    /// replica leads openraft knows best, its metrics follow: who does not lead is told at once. That it failed the proposal
    /// will tell.
    async fn renew_lapsed_lease(&self) {
        let fresh = |acked: Duration| acked < self.lease - self.lease / LEASE_PARTS;
        let acked = self.raft.metrics().borrow_watched().last_quorum_acked.map(|acked| acked.elapsed());
        if self.members.len() > 1 && !acked.is_some_and(fresh) {
            self.rest.disturb();
            let _awaited = self.awaited.one();
            let asked = self.raft.ensure_linearizable(ReadPolicy::ReadIndex);
            let _ = tokio::time::timeout(self.lease, asked).await;
        }
    }

    /// Returns once this replica may answer a linearizable read from what it has applied.
    pub async fn confirm_leadership(&self) -> Result<(), ReadRefusal> {
        let open = self.gate.try_read();
        let term = self.raft.metrics().borrow_watched().current_term;
        let lease = open.is_ok() && self.lease_void_in_term.load(Ordering::Acquire) != term;
        #[cfg(feature = "known-bugs")]
        if self.leads().is_some() && evenkeel_raft_storage::known_bugs::KnownBug::ServeExpiredLease.is_awake()
        {
            return Ok(());
        }
        if lease {
            self.rest.disturb();
            match self.raft.ensure_linearizable(ReadPolicy::LeaseRead).await {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {}
                Err(error) => return Err(self.read_refusal(error)),
            }
        }
        drop(open);
        self.rest.disturb();
        let _awaited = self.awaited.one();
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.read_refusal(error)),
        }
    }

    fn read_refusal(&self, error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadRefusal {
        match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(f)) => {
                ReadRefusal::NotLeader(self.not_leader(&f))
            }
            RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) => {
                ReadRefusal::NotLeader(NotLeader {
                    leader: None,
                    term: self.raft.metrics().borrow_watched().current_term,
                })
            }
            RaftError::Fatal(fatal) => ReadRefusal::Refused(stopped(&fatal)),
        }
    }

    /// Reserves this replica for one transfer; `None` while another is under way.
    pub fn try_begin_transfer(&self) -> Option<OwnedMutexGuard<()>> {
        self.transfer.clone().try_lock_owned().ok()
    }

    /// Closes the gate: returns once everything proposed before is answered. `None` when that takes longer than
    /// `patience`; then the gate is open again.
    pub async fn freeze(&self, patience: Duration) -> Option<OwnedRwLockWriteGuard<()>> {
        tokio::time::timeout(patience, self.gate.clone().write_owned()).await.ok()
    }

    /// From now on this leadership answers linearizable reads only after asking a majority.
    pub fn void_lease(&self, term: u64) {
        self.lease_void_in_term.store(term, Ordering::Release);
    }

    /// What `node` lacks, (entries, bytes), if this replica leads and the node answered since. Bytes are `None` when the
    /// log does not hold all of these entries any more: then a snapshot has to be sent, whatever its size.
    pub fn lag_of(&self, metrics: &RaftMetrics, node: NodeId) -> Option<(u64, Option<u64>)> {
        let matched = metrics.replication.as_ref()?.get(&node.0)?.as_ref()?.index();
        let last = metrics.last_log_index.unwrap_or(0);
        let held = metrics.purged.is_none_or(|purged| purged.index() <= matched);
        Some((last.saturating_sub(matched), held.then(|| self.log.bytes_after(Some(matched)))))
    }
}

fn stopped(fatal: &Fatal<TypeConfig>) -> Refused {
    Refused { reason: Reason::Stopped as i32, detail: fatal.to_string() }
}

fn unknown(detail: String) -> Refused {
    Refused { reason: Reason::UnknownOutcome as i32, detail }
}
