//! The one place that an ownership rebalance needs: at most one at a time runs in the cluster.
//!
//! The place is a record of the system group that must not exist to be taken, and neither must the record of an
//! active run. Its holder changes it every [`BEAT_INTERVAL`]; a record that does not change for [`SILENT_MAX`] belongs
//! to a gateway that died, and may be taken over. Silence is measured by who wants the place, so no two clocks are
//! compared. Should both live, nothing is moved twice: owners are asked to hand over in one term only.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::esc::{Leaderless, Refused};
use crate::rebalance_store::ACTIVE_RUN_KEY;
use crate::system_store::{Batch, Expect, SystemStore, SystemStoreError, Versioned};

/// Exists while ownership is being rebalanced.
pub(crate) const SLOT_KEY: &str = "esc-ownership-rebalance";
const BEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Several beats: the system group may be electing.
const SILENT_MAX: Duration = Duration::from_secs(8);

/// Who holds the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// Drawn for each rebalance.
    run: u64,
    beat: u64,
}

/// Another's last sign of life, and when it was first seen.
#[derive(Debug, Default)]
struct Watched(Option<(Holder, Instant)>);

impl Watched {
    /// Whether a holder that shows this has shown nothing else for too long.
    fn is_silent(&mut self, shown: Holder, now: Instant) -> bool {
        match self.0 {
            Some((known, since)) if known == shown => now.duration_since(since) >= SILENT_MAX,
            _ => {
                self.0 = Some((shown, now));
                false
            }
        }
    }
}

/// The way to the place. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Slot {
    store: SystemStore,
    here: Arc<Semaphore>,
    watched: Arc<Mutex<Watched>>,
}

/// The place, held. Give it back with [`Held::release`]; a gateway that dies leaves it for [`SILENT_MAX`].
pub(crate) struct Held {
    store: SystemStore,
    /// Ends with the version to expect, unless the place was lost.
    beating: JoinHandle<Option<u64>>,
    stop: CancellationToken,
    /// Cancelled when another has taken the place over, thinking us dead.
    pub(crate) lost: CancellationToken,
    _here: OwnedSemaphorePermit,
}

impl Slot {
    pub(crate) fn new(store: SystemStore) -> Self {
        Self { store, here: Arc::new(Semaphore::new(1)), watched: Arc::default() }
    }

    /// Takes the place.
    ///
    /// # Errors
    /// When another rebalance holds it, or the system group does not answer.
    pub(crate) async fn take(&self) -> Result<Held, Refused> {
        let Ok(here) = Arc::clone(&self.here).try_acquire_owned() else {
            return Err(Refused::RebalanceUnderWay("of ownership, through this gateway".into()));
        };
        let holder = Holder { run: rand::random(), beat: 0 };
        let mut taken = self.write(&holder, Expect::Absent).await;
        if let Err(SystemStoreError::Conflict { key, .. }) = &taken
            && key == SLOT_KEY
        {
            let expect = self.expect_of_silent().await?;
            taken = self.write(&holder, expect).await;
        }
        match taken {
            Ok(version) => Ok(self.hold(holder, version, here)),
            Err(SystemStoreError::Conflict { key, .. }) if key == ACTIVE_RUN_KEY => Err(run_active()),
            Err(SystemStoreError::Conflict { .. }) => Err(held_elsewhere()),
            Err(error) => Err(refused(&error)),
        }
    }

    /// The record's version.
    async fn write(&self, holder: &Holder, expect: Expect) -> Result<u64, SystemStoreError> {
        let mut batch = Batch::default();
        batch.put(SLOT_KEY, holder, expect)?;
        // Deletes nothing: it makes sure that there is no run.
        batch.delete(ACTIVE_RUN_KEY, Expect::Absent);
        Ok(self.store.commit(batch).await?.first().copied().unwrap_or_default())
    }

    /// What a holder that shows no life any more left behind.
    async fn expect_of_silent(&self) -> Result<Expect, Refused> {
        self.unheld().await.map_err(|error| refused(&error))?.ok_or_else(held_elsewhere)
    }

    /// How the place's record looks as long as nobody holds it; `None` when somebody does.
    pub(crate) async fn unheld(&self) -> Result<Option<Expect>, SystemStoreError> {
        let stored: Option<Versioned<Holder>> = self.store.get(SLOT_KEY).await?;
        let Some(Versioned { value, version }) = stored else { return Ok(Some(Expect::Absent)) };
        if !self.watched.lock().is_silent(value, Instant::now()) {
            return Ok(None);
        }
        tracing::warn!("the gateway that was rebalancing ownership is gone: going on without it");
        Ok(Some(Expect::Version(version)))
    }

    fn hold(&self, holder: Holder, version: u64, here: OwnedSemaphorePermit) -> Held {
        let (store, stop, lost) = (self.store.clone(), CancellationToken::new(), CancellationToken::new());
        let beating = tokio::spawn(beat(store.clone(), holder, version, stop.clone(), lost.clone()));
        Held { store, beating, stop, lost, _here: here }
    }
}

impl Held {
    /// Gives the place back; an access to the system group is waited for, which is bounded.
    pub(crate) async fn release(self) {
        self.stop.cancel();
        let Ok(Some(version)) = self.beating.await else { return };
        let mut batch = Batch::default();
        batch.delete(SLOT_KEY, Expect::Version(version));
        if let Err(error) = self.store.commit(batch).await {
            tracing::warn!("the place of an ownership rebalance stays taken for a moment: {error}");
        }
    }
}

/// Shows life until `stop`.
async fn beat(
    store: SystemStore,
    mut holder: Holder,
    mut version: u64,
    stop: CancellationToken,
    lost: CancellationToken,
) -> Option<u64> {
    while tokio::time::timeout(BEAT_INTERVAL, stop.cancelled()).await.is_err() {
        holder.beat += 1;
        match store.put(SLOT_KEY, &holder, Expect::Version(version)).await {
            Ok(now) => version = now,
            Err(error) if !error.is_conflict() => tracing::warn!("ownership rebalance: {error}"),
            // An earlier beat whose outcome stayed unknown may have taken effect.
            Err(_) => match store.get::<Holder>(SLOT_KEY).await {
                Ok(Some(stored)) if stored.value.run == holder.run => version = stored.version,
                Ok(_) => {
                    tracing::error!("another gateway has taken this ownership rebalance over: it stops");
                    lost.cancel();
                    return None;
                }
                Err(error) => tracing::warn!("ownership rebalance: {error}"),
            },
        }
    }
    Some(version)
}

fn run_active() -> Refused {
    Refused::RebalanceUnderWay("a run; see /cluster/v2/rebalance".into())
}

fn held_elsewhere() -> Refused {
    Refused::RebalanceUnderWay("of ownership, through another gateway".into())
}

pub(crate) fn refused(error: &SystemStoreError) -> Refused {
    match error {
        SystemStoreError::Unavailable(_) => Refused::FailoverUnderWay { leaderless: Leaderless::SystemGroup },
        SystemStoreError::Conflict { .. } | SystemStoreError::Unreadable { .. } => {
            Refused::Internal(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_silent_when_it_shows_the_same_for_too_long() {
        let start = Instant::now();
        let shown = |run, beat| Holder { run, beat };
        let at = |s: u64| start + Duration::from_secs(s);
        let mut watched = Watched::default();
        let table = [
            (shown(1, 0), 0, false, "first seen"),
            (shown(1, 0), 7, false, "not for long"),
            (shown(1, 1), 8, false, "it lives"),
            (shown(1, 1), 15, false, "counted from its last sign of life"),
            (shown(1, 1), 16, true, "gone"),
            (shown(2, 1), 17, false, "another one"),
            (shown(2, 1), 25, true, "gone, too"),
        ];
        for (holder, s, silent, name) in table {
            assert_eq!(watched.is_silent(holder, at(s)), silent, "{name}");
        }
    }
}
