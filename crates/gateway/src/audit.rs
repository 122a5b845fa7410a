//! What operators did: who, what, when, from where, and what came of it. The last thousand, in the system group.
//!
//! ```text
//! audit/last          number of the newest entry
//! audit/entry/SLOT    an entry; SLOT is its number modulo the most that are kept
//! ```
//!
//! Both are written together, so numbers have no gaps whichever gateways write. A request is answered once its entry is
//! stored, or after [`STORED_WAIT`]: then it is stored as soon as the system group can, and the log has it at once.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::metric_definitions;
use crate::system_store::{Batch, Expect, SystemStore, SystemStoreError, Versioned};

const LAST_KEY: &str = "audit/last";
const ENTRIES: &str = "audit/entry/";
/// Entries that can be looked up.
pub(crate) const ENTRIES_KEPT_MAX: u64 = 1_000;
/// Entries that wait for the system group; operators do not act faster for long.
const QUEUE_ENTRIES_MAX: usize = 256;
/// How long a request waits for its entry.
const STORED_WAIT: Duration = Duration::from_secs(1);
/// An entry that could not be stored for so long is given up; the log has it.
const STORE_TIME_MAX: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Longest text of an entry.
const TEXT_CHARS_MAX: usize = 300;

/// One thing that was done, or refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Entry {
    /// Given when it is stored; grows by one.
    pub(crate) number: u64,
    /// RFC 3339.
    pub(crate) at: String,
    /// Name of the token or certificate, `anonymous` without authentication, or what acted by itself.
    pub(crate) who: String,
    /// Address of the caller.
    pub(crate) source: Option<String>,
    pub(crate) action: String,
    /// On what, if not on the whole cluster.
    pub(crate) target: Option<String>,
    pub(crate) outcome: String,
    /// The rebalance that it started or was about.
    pub(crate) rebalance_id: Option<u64>,
    /// Why it was refused.
    pub(crate) detail: Option<String>,
}

impl Entry {
    /// Something that this cluster did by itself.
    pub(crate) fn automatic(who: &str, action: &str, rebalance_id: u64) -> Self {
        Self {
            who: who.to_owned(),
            action: action.to_owned(),
            outcome: "started".to_owned(),
            rebalance_id: Some(rebalance_id),
            ..Self::default()
        }
    }

    /// With the time, and no text longer than what is kept.
    fn stamped(mut self, now: SystemTime) -> Self {
        self.at = humantime::format_rfc3339_millis(now).to_string();
        for text in [&mut self.who, &mut self.action, &mut self.outcome] {
            shorten(text);
        }
        for text in [&mut self.source, &mut self.target, &mut self.detail].into_iter().flatten() {
            shorten(text);
        }
        self
    }
}

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(TEXT_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

fn slot_key(number: u64) -> String {
    format!("{ENTRIES}{:04}", number % ENTRIES_KEPT_MAX)
}

type Queued = (Entry, oneshot::Sender<()>);

/// Where entries go. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Audit {
    queue: mpsc::Sender<Queued>,
    store: SystemStore,
}

/// Stores entries one after the other.
pub(crate) struct AuditWriter {
    queue: mpsc::Receiver<Queued>,
    store: SystemStore,
}

impl Audit {
    pub(crate) fn new(store: SystemStore) -> (Self, AuditWriter) {
        let (queue, queued) = mpsc::channel(QUEUE_ENTRIES_MAX);
        (Self { queue, store: store.clone() }, AuditWriter { queue: queued, store })
    }

    /// Records an entry, and waits a moment until it is stored.
    pub(crate) async fn record(&self, entry: Entry) {
        let entry = entry.stamped(SystemTime::now());
        let Entry { who, source, action, target, outcome, rebalance_id, detail, .. } = &entry;
        tracing::info!(
            target: "evenkeel::audit",
            who, source = source.as_deref(), action, on = target.as_deref(), outcome, rebalance_id,
            detail = detail.as_deref(), "operator action"
        );
        let (stored, wait) = oneshot::channel();
        match self.queue.try_send((entry, stored)) {
            // Stored later, or given up and told by the writer.
            Ok(()) => drop(timeout(STORED_WAIT, wait).await),
            Err(_) => lost("too many wait for the system group"),
        }
    }

    /// The newest entries, the newest first.
    pub(crate) async fn newest(&self, limit: usize) -> Result<Vec<Entry>, SystemStoreError> {
        let stored: Vec<(String, Versioned<Entry>)> = self.store.list(ENTRIES).await?;
        let mut entries: Vec<Entry> = stored.into_iter().map(|(_, entry)| entry.value).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.number));
        entries.truncate(limit);
        Ok(entries)
    }
}

fn lost(why: &str) {
    tracing::error!("an audit entry is in the log only: {why}");
    metric_definitions::audit_entries("lost").increment(1);
}

impl AuditWriter {
    /// Until nobody records any more.
    pub(crate) async fn run(mut self) {
        while let Some((entry, stored)) = self.queue.recv().await {
            match self.keep_trying(entry).await {
                Ok(()) => metric_definitions::audit_entries("stored").increment(1),
                Err(error) => lost(&error.to_string()),
            }
            // Who recorded it may have stopped waiting.
            let _ = stored.send(());
        }
    }

    async fn keep_trying(&self, mut entry: Entry) -> Result<(), SystemStoreError> {
        let deadline = Instant::now() + STORE_TIME_MAX;
        loop {
            match self.store_next(&mut entry).await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(error) if error.is_conflict() => {}
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
    }

    async fn store_next(&self, entry: &mut Entry) -> Result<(), SystemStoreError> {
        let last: Option<Versioned<u64>> = self.store.get(LAST_KEY).await?;
        let (last, expect) =
            last.map_or((0, Expect::Absent), |last| (last.value, Expect::Version(last.version)));
        entry.number = last + 1;
        let mut batch = Batch::default();
        batch.put(LAST_KEY, &entry.number, expect)?;
        batch.put(&slot_key(entry.number), entry, Expect::Anything)?;
        self.store.commit(batch).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_bounded_and_the_oldest_gives_its_place_to_the_newest() {
        let long = "é".repeat(TEXT_CHARS_MAX + 1);
        let entry = Entry { who: long.clone(), detail: Some(long), ..Entry::default() };
        let entry = entry.stamped(SystemTime::UNIX_EPOCH);
        assert_eq!(entry.at, "1970-01-01T00:00:00.000Z");
        for text in [entry.who, entry.detail.unwrap()] {
            assert!(text.chars().count() == TEXT_CHARS_MAX + 1 && text.ends_with('…'));
        }
        assert_eq!(slot_key(1), slot_key(1 + ENTRIES_KEPT_MAX));
        assert_ne!(slot_key(1), slot_key(ENTRIES_KEPT_MAX));
    }

    #[test]
    fn an_entry_of_another_version_is_still_read() {
        let entry: Entry = serde_json::from_str(r#"{"number":3,"who":"ops","more":true}"#).unwrap();
        assert_eq!((entry.number, entry.who.as_str(), entry.outcome.as_str()), (3, "ops", ""));
    }
}
