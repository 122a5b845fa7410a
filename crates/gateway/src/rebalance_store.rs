//! Runs in the system group: created whole, read back from any gateway, the oldest forgotten.
//!
//! ```text
//! rebalance/active               who carries which run out; exists while one is under way
//! rebalance/last-id              the last id given
//! rebalance/head/ID              a run as a whole
//! rebalance/plan/ID/CHUNK        its plan, never changed
//! rebalance/journal/ID/NUMBER    what happened to its partitions
//! rebalance/request/HASH         which run an Idempotency-Key gave
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::esc_slot::SLOT_KEY;
use crate::rebalance::PlannedPartition;
use crate::rebalance_record::{ActiveRun, Run, RunHead, Transition};
use crate::system_store::{Batch, Expect, SystemStore, SystemStoreError, Versioned};

pub(crate) const ACTIVE_RUN_KEY: &str = "rebalance/active";
const LAST_ID_KEY: &str = "rebalance/last-id";
const HEADS: &str = "rebalance/head/";
const REQUESTS: &str = "rebalance/request/";

/// Runs that can be looked up afterwards.
const RUNS_KEPT_MAX: u64 = 100;
/// Partitions in one record of a plan, and such records in one write: some hundred kilobytes.
const PLAN_CHUNK_PARTITIONS: usize = 200;
const PLAN_CHUNKS_PER_WRITE: usize = 5;
/// Records that one write forgets.
const DELETES_PER_WRITE: usize = 500;
/// Times that another gateway may be faster in taking an id.
const ID_ATTEMPTS_MAX: u32 = 10;
/// How long an Idempotency-Key gives the same run.
const IDEMPOTENCY: Duration = Duration::from_secs(24 * 3_600);

pub(crate) fn head_key(id: u64) -> String {
    format!("{HEADS}{id:020}")
}

fn plan_prefix(id: u64) -> String {
    format!("rebalance/plan/{id:020}/")
}

fn journal_prefix(id: u64) -> String {
    format!("rebalance/journal/{id:020}/")
}

pub(crate) fn journal_key(id: u64, number: u64) -> String {
    format!("{}{number:010}", journal_prefix(id))
}

/// Which run a key gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Requested {
    key: String,
    run: u64,
    /// Seconds since 1970.
    at_s: u64,
}

/// Entries of a run's journal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JournalPart {
    pub(crate) transitions: Vec<Transition>,
    /// Number of the first entry that is not among them.
    pub(crate) next: u64,
}

/// What became of an Idempotency-Key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyUse {
    /// This run.
    Gave(u64),
    /// None; as long as that is so, its record is as expected.
    Unused(Expect),
}

/// The way to the stored runs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RunStore {
    pub(crate) store: SystemStore,
}

impl RunStore {
    /// The run under way, when there is one.
    pub(crate) async fn active(&self) -> Result<Option<Versioned<ActiveRun>>, SystemStoreError> {
        self.store.get(ACTIVE_RUN_KEY).await
    }

    /// Whether this key gave a run within the last day.
    pub(crate) async fn key_use(&self, key: &str, now: SystemTime) -> Result<KeyUse, SystemStoreError> {
        let stored: Option<Versioned<Requested>> = self.store.get(&request_key(key)).await?;
        Ok(match stored {
            None => KeyUse::Unused(Expect::Absent),
            Some(Versioned { value, .. }) if value.key == key && !is_expired(&value, now) => {
                KeyUse::Gave(value.run)
            }
            Some(stale) => KeyUse::Unused(Expect::Version(stale.version)),
        })
    }

    /// Takes an id that no run has had.
    async fn new_id(&self) -> Result<u64, SystemStoreError> {
        let mut attempt = 1;
        loop {
            let last: Option<Versioned<u64>> = self.store.get(LAST_ID_KEY).await?;
            let (id, expect) =
                last.map_or((1, Expect::Absent), |last| (last.value + 1, Expect::Version(last.version)));
            match self.store.put(LAST_ID_KEY, &id, expect).await {
                Ok(_) => return Ok(id),
                Err(error) if error.is_conflict() && attempt < ID_ATTEMPTS_MAX => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Creates a run, owned by this gateway, unless there is one under way or ownership is being rebalanced, its place
    /// not being as `unheld` says, or the key has been used since: then [`SystemStoreError::Conflict`]. `head.id` is given here. Answers the id and the
    /// version of the active run's record.
    pub(crate) async fn create(
        &self,
        mut head: RunHead,
        plan: &[PlannedPartition],
        owner: &str,
        unheld: Expect,
        idempotency_key: Option<(&str, Expect)>,
        now: SystemTime,
    ) -> Result<(RunHead, u64), SystemStoreError> {
        let id = self.new_id().await?;
        head.id = id;
        let chunks: Vec<&[PlannedPartition]> = plan.chunks(PLAN_CHUNK_PARTITIONS).collect();
        let writes = chunks.len().saturating_sub(PLAN_CHUNKS_PER_WRITE);
        let prefix = plan_prefix(id);
        let mut batch = Batch::default();
        for (number, chunk) in chunks.iter().enumerate() {
            batch.put(&format!("{prefix}{number:06}"), chunk, Expect::Anything)?;
            if number < writes && (number + 1) % PLAN_CHUNKS_PER_WRITE == 0 {
                self.store.commit(std::mem::take(&mut batch)).await?;
            }
        }
        let mut last = Batch::default();
        let active = ActiveRun { id, owner: owner.to_owned(), beat: 0, cancel_requested: false };
        last.put(ACTIVE_RUN_KEY, &active, Expect::Absent)?;
        last.put(&head_key(id), &head, Expect::Absent)?;
        last.delete(SLOT_KEY, unheld);
        if let Some((key, unused)) = idempotency_key {
            let at_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            last.put(&request_key(key), &Requested { key: key.to_owned(), run: id, at_s }, unused)?;
        }
        last.append(batch);
        match self.store.commit(last).await {
            Ok(versions) => Ok((head, versions.first().copied().unwrap_or_default())),
            Err(error) => {
                if writes > 0 {
                    self.forget(&prefix).await?;
                }
                Err(error)
            }
        }
    }

    /// A run with all that happened to it.
    pub(crate) async fn load(&self, id: u64) -> Result<Option<Run>, SystemStoreError> {
        Ok(self.load_with_journal(id).await?.map(|(run, _)| run))
    }

    /// Also the number of the next entry of its journal.
    pub(crate) async fn load_with_journal(&self, id: u64) -> Result<Option<(Run, u64)>, SystemStoreError> {
        let Some(head) = self.head(id).await? else { return Ok(None) };
        let plan = self.plan(id).await?;
        let journal = self.journal(id, 0).await?;
        Ok(Some((Run::assemble(head, plan, journal.transitions), journal.next)))
    }

    /// A run as a whole.
    pub(crate) async fn head(&self, id: u64) -> Result<Option<RunHead>, SystemStoreError> {
        Ok(self.store.get(&head_key(id)).await?.map(|head| head.value))
    }

    async fn plan(&self, id: u64) -> Result<Vec<PlannedPartition>, SystemStoreError> {
        let chunks: Vec<(String, Versioned<Vec<PlannedPartition>>)> =
            self.store.list(&plan_prefix(id)).await?;
        Ok(chunks.into_iter().flat_map(|(_, chunk)| chunk.value).collect())
    }

    /// What happened to a run's partitions from the `from`th entry on.
    pub(crate) async fn journal(&self, id: u64, from: u64) -> Result<JournalPart, SystemStoreError> {
        let prefix = journal_prefix(id);
        let after = from.checked_sub(1).map_or_else(String::new, |last| journal_key(id, last));
        let entries: Vec<(String, Versioned<Vec<Transition>>)> =
            self.store.list_after(&prefix, &after).await?;
        let last = entries.last().and_then(|(key, _)| key[prefix.len()..].parse::<u64>().ok());
        let transitions = entries.into_iter().flat_map(|(_, entry)| entry.value).collect();
        Ok(JournalPart { transitions, next: last.map_or(from, |last| last + 1) })
    }

    /// The heads of all runs that are remembered, the newest first.
    pub(crate) async fn heads(&self) -> Result<Vec<RunHead>, SystemStoreError> {
        let mut heads: Vec<(String, Versioned<RunHead>)> = self.store.list(HEADS).await?;
        heads.reverse();
        Ok(heads.into_iter().map(|(_, head)| head.value).collect())
    }

    /// Forgets runs beyond the last hundred and requests older than a day.
    pub(crate) async fn forget_old(&self, now: SystemTime) -> Result<(), SystemStoreError> {
        let heads = self.heads().await?;
        for head in heads.iter().skip(RUNS_KEPT_MAX as usize) {
            self.forget(&plan_prefix(head.id)).await?;
            self.forget(&journal_prefix(head.id)).await?;
            // Last, so that a run that is half forgotten is found again.
            self.forget(&head_key(head.id)).await?;
        }
        let requests: Vec<(String, Versioned<Requested>)> = self.store.list(REQUESTS).await?;
        for (key, request) in requests.iter().filter(|(_, request)| is_expired(&request.value, now)) {
            let mut batch = Batch::default();
            batch.delete(key, Expect::Version(request.version));
            match self.store.commit(batch).await {
                Err(error) if !error.is_conflict() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn forget(&self, prefix: &str) -> Result<(), SystemStoreError> {
        let records: Vec<(String, Versioned<serde::de::IgnoredAny>)> = self.store.list(prefix).await?;
        for some in records.chunks(DELETES_PER_WRITE) {
            let mut batch = Batch::default();
            for (key, _) in some {
                batch.delete(key, Expect::Anything);
            }
            self.store.commit(batch).await?;
        }
        Ok(())
    }
}

fn request_key(key: &str) -> String {
    format!("{REQUESTS}{:032x}", xxh3_128(key.as_bytes()))
}

fn is_expired(request: &Requested, now: SystemTime) -> bool {
    let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    now_s.saturating_sub(request.at_s) >= IDEMPOTENCY.as_secs()
}
