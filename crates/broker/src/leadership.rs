//! What a broker does only while it leads a partition, and the one place that begins and ends it.
//!
//! ```text
//!            leads in an epoch                  the target is about to stand
//! Unloaded ────────────────────► Loaded(epoch) ─────────────────────────────► HandingOver(epoch)
//!     ▲                            │       ▲                                    │          │
//!     └────────────────────────────┘       └────────────────────────────────────┘          │
//!     ▲   leads no longer                     the transfer was given up                    │
//!     └────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! A replica *loads* when it begins to lead, and *unloads* when it sees that it leads no longer; in a planned transfer
//! it unloads before the target is asked to stand, so the two owners' services never overlap. A leader-side service
//! holds a [`Tenure`] and ends with it, at once and whatever it waits for. Today these are the watches and the exporters. A leader has no
//! timers or caches of its own: lag is worked out when somebody asks, and what the lease allows is decided at the gate.
//!
//! Cost of unloading: one cancelled token, whatever the number of services; nothing is waited for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_protocol::v1::Role;
use evenkeel_protocol::{Epoch, PartitionId};
use evenkeel_raft_storage::TypeConfig;
use openraft::async_runtime::WatchReceiver;
use openraft::type_config::alias::WatchReceiverOf;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::clock;
use crate::elector::Elector;
use crate::metric_definitions as metric;
use crate::replica::{RaftServerMetrics, Replica};
use crate::status::{StatusHub, role_of};

/// A fresh leader that could not serve until then is timed no longer.
const TRANSITION_MS_MAX: u64 = 30_000;

/// One uninterrupted leadership with its services. Clones end together.
#[derive(Clone, Debug)]
pub struct Tenure {
    epoch: Epoch,
    ended: CancellationToken,
}

impl Tenure {
    /// Resolves when leader-side services must have ended.
    pub fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.ended.cancelled()
    }
}

#[derive(Debug)]
enum State {
    Unloaded,
    Loaded(Tenure),
    /// Unloaded ahead of the change; openraft may still say that this replica leads.
    HandingOver(Epoch),
}

/// One replica's leader-side services.
#[derive(Debug)]
pub struct Leadership {
    partition: PartitionId,
    state: Mutex<State>,
}

impl Leadership {
    pub fn new(partition: PartitionId) -> Self {
        Self { partition, state: Mutex::new(State::Unloaded) }
    }

    /// Brings the services in line with what `leads` says: the epoch in which this replica leads now, if it does.
    /// `leads` is read under the lock, so that of two callers the later one has the newer answer.
    pub fn observe(&self, leads: impl FnOnce() -> Option<Epoch>) -> Option<Tenure> {
        let mut state = self.state.lock();
        let now = leads();
        let before = match &*state {
            State::Unloaded => None,
            State::Loaded(tenure) => Some(tenure.epoch),
            State::HandingOver(epoch) => Some(*epoch),
        };
        if before != now {
            self.unload(&mut state, State::Unloaded);
            if let Some(epoch) = now {
                self.load(&mut state, epoch);
            }
        }
        match &*state {
            State::Loaded(tenure) => Some(tenure.clone()),
            State::Unloaded | State::HandingOver(_) => None,
        }
    }

    /// A transfer's target is about to stand: ends what this replica does as the leader in `epoch`.
    pub fn hand_over(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        if matches!(&*state, State::Loaded(tenure) if tenure.epoch == epoch) {
            self.unload(&mut state, State::HandingOver(epoch));
        }
    }

    /// The transfer was given up: begins it again, if this replica still leads in `epoch`.
    pub fn keep(&self, epoch: Epoch, leads: impl FnOnce() -> Option<Epoch>) {
        let mut state = self.state.lock();
        if matches!(*state, State::HandingOver(handed) if handed == epoch) {
            *state = State::Unloaded;
            if leads() == Some(epoch) {
                self.load(&mut state, epoch);
            }
        }
    }

    fn load(&self, state: &mut State, epoch: Epoch) {
        *state = State::Loaded(Tenure { epoch, ended: CancellationToken::new() });
        metric::leadership_loaded(self.partition.0);
        tracing::info!(partition = %self.partition, %epoch, "loaded");
    }

    fn unload(&self, state: &mut State, next: State) {
        if let State::Loaded(Tenure { epoch, ended }) = std::mem::replace(state, next) {
            ended.cancel();
            metric::leadership_unloaded(self.partition.0);
            tracing::info!(partition = %self.partition, %epoch, "unloaded");
        }
    }
}

/// Entries committed while this replica led: counted when somebody scrapes, so that counting takes no timer.
#[derive(Debug, Default)]
pub struct Commits {
    /// Up to which index they are counted; `None` while another replica leads.
    counted: Mutex<Option<u64>>,
}

impl Commits {
    fn begin(&self, committed: u64) {
        *self.counted.lock() = Some(committed);
    }

    fn end(&self) {
        *self.counted.lock() = None;
    }

    pub fn count(&self, partition: PartitionId, committed: u64) {
        if let Some(counted) = self.counted.lock().as_mut() {
            metric::committed(partition.0, committed.saturating_sub(*counted));
            *counted = committed.max(*counted);
        }
    }
}

/// openraft publishes what its server does a moment before the whole of its metrics: who looks at these at once sees the
/// role as it was, and nothing wakes him again. `false` when the replica has stopped.
async fn all_metrics_tell(
    replica: &Replica,
    changes: &WatchReceiverOf<TypeConfig, RaftServerMetrics>,
) -> bool {
    let mut whole = replica.raft.metrics();
    loop {
        let agree = {
            let (whole, server) = (whole.borrow_watched(), changes.borrow_watched());
            whole.state == server.state
                && whole.current_leader == server.current_leader
                && whole.vote == server.vote
        };
        if agree {
            return true;
        }
        if whole.changed().await.is_err() {
            return false;
        }
    }
}

/// Follows one replica's roles until it stops: loads and unloads, tells the elector and the gateways, and counts.
pub async fn follow(replica: Arc<Replica>, elector: Elector, status: StatusHub) {
    let partition = replica.partition;
    let mut changes = replica.raft.server_metrics();
    let mut led = false;
    let mut role = Role::Unspecified;
    loop {
        replica.tenure();
        let metrics = replica.raft_metrics();
        let leads = replica.leads().is_some();
        let now_role = role_of(&metrics);
        if now_role != role {
            role = now_role;
            metric::role_changed(partition.0);
            tracing::info!(%partition, term = metrics.current_term, role = role.as_str_name(), "role");
        }
        if leads != led {
            elector.leading(partition, leads);
            let committed = metrics.local_committed.map_or(0, |id| id.index());
            if leads {
                metric::election_won(partition.0);
                replica.commits.begin(committed);
                tokio::spawn(measure_transition(replica.clone(), clock::now()));
            } else {
                replica.commits.count(partition, committed);
                replica.commits.end();
            }
            led = leads;
        }
        status.changed(partition);
        if changes.changed().await.is_err() || !all_metrics_tell(&replica, &changes).await {
            break;
        }
    }
    // The replica has stopped, and with it whatever it did as leader.
    replica.leadership.observe(|| None);
}

/// Records how long a fresh leader took until it had applied everything before its own first entry.
async fn measure_transition(replica: Arc<Replica>, won_at: Instant) {
    let Some(epoch) = replica.leads() else { return };
    let ready = replica.raft.wait(Some(Duration::from_millis(TRANSITION_MS_MAX)));
    let ready = ready.metrics(
        |m| {
            m.current_term != epoch.term
                || m.last_applied.is_some_and(|id| id.committed_leader_id().term == epoch.term)
        },
        "the leader's first entry is applied",
    );
    if let Ok(metrics) = ready.await
        && metrics.current_term == epoch.term
    {
        metric::leader_transition(replica.partition.0, won_at.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::NodeId;

    use super::*;

    const FIRST: Epoch = Epoch { term: 4, node: NodeId(1) };
    const LATER: Epoch = Epoch { term: 6, node: NodeId(1) };

    fn has_ended(tenure: &Tenure) -> bool {
        tenure.ended.is_cancelled()
    }

    #[test]
    fn services_live_as_long_as_the_epoch_in_which_they_began() {
        let leadership = Leadership::new(PartitionId(1));
        assert!(leadership.observe(|| None).is_none());
        let first = leadership.observe(|| Some(FIRST)).unwrap();
        assert_eq!(first.epoch, FIRST);
        leadership.observe(|| Some(FIRST)).unwrap();
        assert!(!has_ended(&first));
        // Lost and won again before anybody looked.
        let later = leadership.observe(|| Some(LATER)).unwrap();
        assert!(has_ended(&first) && !has_ended(&later));
        assert!(leadership.observe(|| None).is_none() && has_ended(&later));
    }

    #[test]
    fn who_hands_over_is_unloaded_although_it_still_leads_until_it_keeps_the_leadership() {
        let leadership = Leadership::new(PartitionId(1));
        let before = leadership.observe(|| Some(FIRST)).unwrap();
        leadership.hand_over(FIRST);
        assert!(has_ended(&before));
        assert!(leadership.observe(|| Some(FIRST)).is_none(), "nothing begins while the target stands");
        leadership.keep(FIRST, || Some(FIRST));
        assert!(!has_ended(&leadership.observe(|| Some(FIRST)).unwrap()));
    }

    #[test]
    fn a_transfer_that_succeeded_or_is_out_of_date_leaves_nothing_behind() {
        let leadership = Leadership::new(PartitionId(1));
        leadership.observe(|| Some(FIRST));
        leadership.hand_over(FIRST);
        leadership.keep(FIRST, || None);
        assert!(leadership.observe(|| None).is_none());
        // A transfer in an epoch that is over touches no later one.
        let later = leadership.observe(|| Some(LATER)).unwrap();
        leadership.hand_over(FIRST);
        leadership.keep(FIRST, || Some(LATER));
        assert!(!has_ended(&later));
        // A leadership that follows a hand-over at once is loaded.
        leadership.hand_over(LATER);
        let next = Epoch { term: 8, ..LATER };
        assert_eq!(leadership.observe(|| Some(next)).unwrap().epoch, next);
    }
}
