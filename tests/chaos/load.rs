//! Clients that never rest, and everything that they asked and were told.
//!
//! *Wanderers* read, write, write on condition and delete, on keys that several of them share. *Probes* write to one
//! partition each, one write after the other, so that somebody always waits for every partition: how long tells how long
//! a failover took. *Watchers* follow all changes. Values are unique. Keys are used for some operations and then left for
//! new ones: the fewer operations of a key have no answer, the easier its history is to judge.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use evenkeel_client::{Client, ClientError, Condition, WatchQuery};
use evenkeel_history::{self as history, Answer, Change, Delivery, History, OperationId, Request, WatchLog};
use evenkeel_protocol::partition_of;
use evenkeel_protocol::v1::Consistency;
use evenkeel_protocol::v1::watch_event::Kind;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, PARTITIONS};

/// One of so many values is large: brokers keep those in files of their own.
const LARGE_EVERY: u64 = 16;
const LARGE_BYTES: usize = 3_000;

const WANDERERS: u64 = 8;
const WATCHERS: u64 = 2;
const PAUSE: Duration = Duration::from_millis(4);
/// Keys in use at a time.
const KEYS: u64 = 16;
/// Operations of one key before another takes its place.
const OPERATIONS_PER_KEY: u64 = 120;
/// A failed watch is opened again after this.
const WATCH_AGAIN: Duration = Duration::from_millis(100);

/// What was recorded; times are nanoseconds since the beginning.
pub struct Recorded {
    pub history: History,
    pub watches: WatchLog,
    /// Calls that failed, by how.
    pub failures: BTreeMap<String, u64>,
    /// Of each probe: when a write was called and when it was acknowledged.
    pub probes: BTreeMap<u32, Vec<(Instant, Instant)>>,
}

struct Shared {
    began: Instant,
    recorded: Mutex<Recorded>,
    stop: AtomicBool,
    /// Numbers values and operations.
    next: AtomicU64,
    acknowledged: AtomicU64,
    /// Begins every key, so that each round's keys are new.
    prefix: String,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
    watchers: JoinSet<()>,
}

impl Load {
    pub fn start(cluster: &Cluster, prefix: String) -> Self {
        let recorded = Recorded {
            history: History::new(),
            watches: WatchLog::new(),
            failures: BTreeMap::new(),
            probes: BTreeMap::new(),
        };
        let shared = Arc::new(Shared {
            began: Instant::now(),
            recorded: Mutex::new(recorded),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            prefix,
        });
        let (mut clients, mut watchers) = (JoinSet::new(), JoinSet::new());
        for number in 0..WANDERERS {
            clients.spawn(wander(Asker { shared: shared.clone(), client: cluster.client(), number }));
        }
        for partition in 1..=PARTITIONS {
            let number = WANDERERS + u64::from(partition);
            clients
                .spawn(probe(Asker { shared: shared.clone(), client: cluster.client(), number }, partition));
        }
        for number in 0..WATCHERS {
            watchers.spawn(watch(shared.clone(), cluster.client(), number));
        }
        Self { shared, clients, watchers }
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Relaxed)
    }

    /// For each partition the longest time, between two moments, that a write to it waited.
    pub fn waits(&self, from: Instant, until: Instant) -> BTreeMap<u32, Duration> {
        let recorded = self.shared.recorded.lock();
        let longest = |writes: &Vec<(Instant, Instant)>| {
            let within = writes.iter().rev().take_while(|(_, acknowledged)| *acknowledged >= from);
            let waits = within.filter(|(called, _)| *called <= until);
            // What was under way waits from when something was done to the cluster.
            waits.map(|(called, acknowledged)| *acknowledged - from.max(*called)).max()
        };
        recorded
            .probes
            .iter()
            .filter_map(|(partition, writes)| Some((*partition, longest(writes)?)))
            .collect()
    }

    /// Whether every probe has had a write acknowledged that it sent after this moment.
    pub fn all_written_since(&self, moment: Instant) -> bool {
        let recorded = self.shared.recorded.lock();
        let fresh =
            |writes: &Vec<(Instant, Instant)>| writes.last().is_some_and(|(called, _)| *called > moment);
        recorded.probes.len() == PARTITIONS as usize && recorded.probes.values().all(fresh)
    }

    /// Lets every client finish what it does, reads every key once more, and waits until the watchers have seen all.
    pub async fn stop(mut self, cluster: &Cluster) -> Recorded {
        self.shared.stop.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let asker = Asker { shared: self.shared.clone(), client: cluster.client(), number: 0 };
        let keys: std::collections::BTreeSet<Vec<u8>> = {
            let recorded = self.shared.recorded.lock();
            recorded.history.operations().iter().map(|operation| operation.key.clone()).collect()
        };
        for key in keys {
            asker.get(String::from_utf8(key).unwrap()).await;
        }
        let last = cluster.topology().await.map(|topology| topology.partitions.len());
        assert_eq!(last, Ok(PARTITIONS as usize));
        // Every partition's last word: who has it has everything before it.
        let mut last_words = BTreeMap::new();
        for partition in 1..=PARTITIONS {
            let key = asker.key_of(partition, "last");
            let put = asker.client.put(key, "last", None).await.unwrap();
            last_words.insert(partition, put.position);
        }
        crate::harness::wait_until("the watchers to see the last changes", async || {
            let recorded = self.shared.recorded.lock();
            for watcher in 0..WATCHERS {
                for (partition, last) in &last_words {
                    let at = recorded.watches.position(watcher, *partition);
                    if at.is_none_or(|at| at < *last) {
                        return Err(format!(
                            "watcher {watcher} is at {at:?} of partition {partition}, not at {last}"
                        ));
                    }
                }
            }
            Ok(())
        })
        .await;
        self.watchers.shutdown().await;
        let empty = Recorded {
            history: History::new(),
            watches: WatchLog::new(),
            failures: BTreeMap::new(),
            probes: BTreeMap::new(),
        };
        std::mem::replace(&mut *self.shared.recorded.lock(), empty)
    }
}

/// One client that has one operation under way.
struct Asker {
    shared: Arc<Shared>,
    client: Client,
    number: u64,
}

impl Asker {
    fn now(&self) -> u64 {
        u64::try_from(self.shared.began.elapsed().as_nanos()).unwrap()
    }

    fn call(&self, key: &str, request: Request) -> OperationId {
        let mut recorded = self.shared.recorded.lock();
        recorded.history.call(self.now(), self.number, key, request)
    }

    fn answered(&self, id: OperationId, answer: Result<Answer, ClientError>) -> Option<Answer> {
        let mut recorded = self.shared.recorded.lock();
        let answer = answer.unwrap_or_else(|error| {
            if let Some(refusal) = error.refusal().filter(|_| error.is_precondition_failed()) {
                let version =
                    refusal.metadata.get("current_version").and_then(|version| version.parse().ok());
                return Answer::ConditionFailed { current_version: version };
            }
            let kind = match &error {
                ClientError::Refused { refusal, .. } => format!("{:?} {}", refusal.code, refusal.reason),
                ClientError::DeadlineExceeded { call, .. } => format!("{call} not answered in time"),
                other => other.to_string(),
            };
            *recorded.failures.entry(kind).or_default() += 1;
            Answer::Unknown
        });
        recorded.history.answer(self.now(), id, answer.clone());
        if !matches!(answer, Answer::Unknown) {
            self.shared.acknowledged.fetch_add(1, Relaxed);
        }
        Some(answer)
    }

    async fn get(&self, key: String) -> Option<u64> {
        let id = self.call(&key, Request::Get);
        let answer = self.client.get(key, Consistency::Linearizable).await;
        let answer = answer.map(|record| {
            Answer::Read(record.map(|record| history::Stored {
                value: record.value.to_vec(),
                version: record.version,
                position: record.position,
            }))
        });
        match self.answered(id, answer) {
            Some(Answer::Read(Some(stored))) => Some(stored.version),
            _ => None,
        }
    }

    /// Whether it is known to have taken effect.
    async fn put(&self, key: String, condition: Option<Condition>) -> bool {
        let number = self.shared.next.fetch_add(1, Relaxed);
        let mut value = format!("{}-{number}", self.number);
        if number.is_multiple_of(LARGE_EVERY) {
            value.extend(std::iter::repeat_n('.', LARGE_BYTES));
        }
        let recorded = condition.map(|condition| match condition {
            Condition::MustNotExist => history::Condition::MustNotExist,
            Condition::VersionEquals(version) => history::Condition::VersionEquals(version),
        });
        let request = Request::Put { value: value.clone().into_bytes(), condition: recorded };
        let id = self.call(&key, request);
        let put = self.client.put(key.clone(), value.clone(), condition).await;
        if let Ok(put) = &put {
            let change = Change { position: put.position, key: key.into(), value: Some(value.into()) };
            self.shared.recorded.lock().watches.acknowledged(put.partition_id, change);
        }
        let put = put.map(|put| Answer::Put { version: put.version, position: put.position });
        matches!(self.answered(id, put), Some(Answer::Put { .. }))
    }

    async fn delete(&self, key: String) {
        let id = self.call(&key, Request::Delete { condition: None });
        let deleted = self.client.delete(key, None).await;
        let deleted =
            deleted.map(|deleted| Answer::Deleted { existed: deleted.existed, position: deleted.position });
        self.answered(id, deleted);
    }

    /// A key of this partition.
    fn key_of(&self, partition: u32, name: &str) -> String {
        let mut keys = (0..).map(|n: u64| format!("{}-{name}-{n}", self.shared.prefix));
        keys.find(|key| partition_of(key.as_bytes(), PARTITIONS).0 == partition).unwrap()
    }
}

async fn wander(asker: Asker) {
    let mut known_versions: BTreeMap<String, u64> = BTreeMap::new();
    while !asker.shared.stop.load(Relaxed) {
        let operation = asker.shared.next.fetch_add(1, Relaxed);
        let generation = operation / (KEYS * OPERATIONS_PER_KEY);
        let key = format!("{}-{generation}-{}", asker.shared.prefix, rand::random_range(0..KEYS));
        match rand::random_range(0..10) {
            0..4 => {
                if let Some(version) = asker.get(key.clone()).await {
                    known_versions.insert(key, version);
                }
            }
            4..7 => drop(asker.put(key, None).await),
            7..9 => {
                let condition = match known_versions.get(&key) {
                    Some(version) => Condition::VersionEquals(*version),
                    None => Condition::MustNotExist,
                };
                asker.put(key, Some(condition)).await;
            }
            _ => asker.delete(key).await,
        }
        if known_versions.len() > 2 * KEYS as usize {
            known_versions.clear();
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn probe(asker: Asker, partition: u32) {
    let mut key = asker.key_of(partition, &format!("probe-{partition}-0"));
    for number in 1u64.. {
        if asker.shared.stop.load(Relaxed) {
            return;
        }
        if number % OPERATIONS_PER_KEY == 0 {
            key = asker.key_of(partition, &format!("probe-{partition}-{number}"));
        }
        let called = Instant::now();
        // One that was not answered in time goes on as the next: the wait is one.
        loop {
            if asker.put(key.clone(), None).await || asker.shared.stop.load(Relaxed) {
                break;
            }
        }
        let acknowledged = Instant::now();
        asker.shared.recorded.lock().probes.entry(partition).or_default().push((called, acknowledged));
        tokio::time::sleep(PAUSE).await;
    }
}

async fn watch(shared: Arc<Shared>, client: Client, watcher: u64) {
    loop {
        let after = {
            let mut recorded = shared.recorded.lock();
            let position = |partition| recorded.watches.position(watcher, partition).unwrap_or(0);
            let after: BTreeMap<u32, u64> = (1..=PARTITIONS).map(|p| (p, position(p))).collect();
            for (partition, position) in &after {
                recorded.watches.begun(watcher, *partition, *position);
            }
            after
        };
        let query = WatchQuery { prefix: shared.prefix.clone().into(), after, ..Default::default() };
        let failure = match client.watch(query).await {
            Ok(mut watch) => loop {
                match watch.next().await {
                    Ok(changes) => {
                        let delivery = Delivery {
                            position: changes.position,
                            changes: changes
                                .events
                                .into_iter()
                                .map(|event| {
                                    let kind = event.kind();
                                    let record = event.record.unwrap_or_default();
                                    let value = (kind == Kind::Put).then(|| record.value.to_vec());
                                    Change { position: record.position, key: record.key.to_vec(), value }
                                })
                                .collect(),
                        };
                        shared.recorded.lock().watches.delivered(watcher, changes.partition_id, delivery);
                    }
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        *shared.recorded.lock().failures.entry(format!("watch: {failure}")).or_default() += 1;
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}
