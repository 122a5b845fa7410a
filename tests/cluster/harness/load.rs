//! Clients that write all the while a story goes on, and the ledger of what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use evenkeel_client::Client;
use evenkeel_protocol::v1::records_client::RecordsClient;
use evenkeel_protocol::v1::{Consistency, PutRequest};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::waiting::wait_until;

/// Keys that each writer goes round.
const KEYS_PER_WRITER: u64 = 24;
/// Between two writes of one writer: light load.
const PAUSE: Duration = Duration::from_millis(4);

/// How writes are sent.
#[derive(Clone)]
enum Way {
    /// With the client's retries.
    Client(Client),
    /// Once each: whatever the gateway answers counts.
    Once(RecordsClient<Channel>),
}

/// Writers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Ledger>,
}

/// What was acknowledged and what was not.
#[derive(Debug, Default)]
pub struct Ledger {
    pub keys: BTreeMap<String, KeyLedger>,
    pub failures: Vec<String>,
    pub acknowledged: u64,
    /// By partition, between two acknowledgements.
    pub longest_gap: BTreeMap<u32, Duration>,
    last_acknowledged: BTreeMap<u32, Instant>,
}

/// One key's writes; each writes a larger number than the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyLedger {
    acknowledged_last: u64,
    acknowledged_count: u64,
    sent_last: u64,
    sent_count: u64,
}

impl Load {
    /// Writers whose client retries.
    pub fn with_retries(client: &Client, writers: u64) -> Self {
        Self::start(Way::Client(client.clone()), writers)
    }

    /// Writers that send every write once, so that nothing hides a failed request.
    pub fn without_retries(client: RecordsClient<Channel>, writers: u64) -> Self {
        Self::start(Way::Once(client), writers)
    }

    fn start(way: Way, count: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..count {
            writers.spawn(write(way.clone(), writer, stop.clone(), acknowledged.clone()));
        }
        Self { stop, acknowledged, writers }
    }

    /// Waits until this many more writes were acknowledged than now.
    pub async fn progress(&self, writes: u64) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + writes;
        wait_until("writes to be acknowledged", async || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            if now >= goal { Ok(()) } else { Err(format!("{now} of {goal}")) }
        })
        .await;
    }

    pub async fn stop(mut self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Ledger::default();
        while let Some(ledger) = self.writers.join_next().await {
            let ledger = ledger.unwrap();
            all.keys.extend(ledger.keys);
            all.failures.extend(ledger.failures);
            all.acknowledged += ledger.acknowledged;
            for (partition, gap) in ledger.longest_gap {
                let longest = all.longest_gap.entry(partition).or_default();
                *longest = gap.max(*longest);
            }
        }
        all
    }
}

async fn write(way: Way, writer: u64, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Ledger {
    let mut ledger = Ledger::default();
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("load-{writer}-{}", number % KEYS_PER_WRITER);
        let entry = ledger.keys.entry(key.clone()).or_default();
        entry.sent_last = number;
        entry.sent_count += 1;
        let result = match &way {
            Way::Client(client) => {
                client.put(key.clone(), number.to_string(), None).await.map_err(|error| error.to_string())
            }
            Way::Once(client) => {
                let request = PutRequest {
                    key: key.clone().into(),
                    value: number.to_string().into(),
                    ..Default::default()
                };
                client.clone().put(request).await.map(|r| r.into_inner()).map_err(|status| status.to_string())
            }
        };
        match result {
            Ok(put) => {
                let entry = ledger.keys.entry(key).or_default();
                entry.acknowledged_last = number;
                entry.acknowledged_count += 1;
                ledger.acknowledged += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
                let now = Instant::now();
                if let Some(before) = ledger.last_acknowledged.insert(put.partition_id, now) {
                    let longest = ledger.longest_gap.entry(put.partition_id).or_default();
                    *longest = (now - before).max(*longest);
                }
            }
            Err(error) => ledger.failures.push(format!("{key}: {error}")),
        }
        tokio::time::sleep(PAUSE).await;
    }
    ledger
}

impl Ledger {
    /// Reads every key. Its value is the one acknowledged last, or a later one whose answer was lost; its version
    /// says that every acknowledged write was applied, and none twice.
    pub async fn check(&self, client: &Client) {
        for (key, entry) in &self.keys {
            let record =
                client.get(key.clone(), Consistency::Linearizable).await.unwrap().unwrap_or_default();
            let value = String::from_utf8_lossy(&record.value).parse().unwrap_or(0);
            let values = entry.acknowledged_last..=entry.sent_last;
            assert!(values.contains(&value), "{key} is {value}, not one of {values:?}");
            let versions = entry.acknowledged_count..=entry.sent_count;
            let version = record.version;
            assert!(versions.contains(&version), "{key} has version {version}, not one of {versions:?}");
        }
    }

    pub fn assert_no_failures(&self) {
        let (failed, acknowledged) = (self.failures.len(), self.acknowledged);
        let first = self.failures.first().cloned().unwrap_or_default();
        assert_eq!(failed, 0, "beside {acknowledged} acknowledged writes; the first: {first}");
    }
}
