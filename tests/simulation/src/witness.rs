//! What everybody in a run reports to, and what is checked of it: all the time, and at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_broker::{Observed, Observer};
use evenkeel_history::{Answer, Change, Delivery, History, OperationId, Request, WatchLog};
use parking_lot::Mutex;

use crate::trace::Trace;

/// Shared by the tasks of all hosts and by the loop that drives them.
pub type Shared = Arc<Mutex<Witness>>;

/// A broker whose replica has stopped ends within this.
const ENDS_WITHIN: Duration = Duration::from_secs(8);

/// A leadership: partition, term, node.
type Epoch = (u32, u64, u64);

pub struct Witness {
    pub trace: Trace,
    /// Simulated time.
    pub now: Duration,
    /// The first thing that went wrong.
    pub failure: Option<String>,
    /// Clients, operators and watchers stop when they have finished what they do.
    pub quiet: bool,
    /// Keys that were read back at the end.
    pub read_back: usize,
    /// Whether clocks stay within what leases allow: only then linearizable reads are judged.
    pub judge_reads: bool,
    pub counts: BTreeMap<&'static str, u64>,
    history: History,
    watches: WatchLog,
    /// Of the history: each recorded event has a time of its own.
    sequence: u64,
    brokers: Vec<BrokerSeen>,
    /// In which life of its node each epoch was led.
    epochs: BTreeMap<Epoch, u64>,
    /// Who first applied each index of each partition, and under which leader it had been proposed.
    applied: BTreeMap<(u32, u64), (usize, evenkeel_protocol::Epoch)>,
    /// The last entry of each partition that each broker has made durable; kept while it is down. Ordered as Raft orders logs:
    /// whoever has a later one has all committed ones before it.
    flushed: BTreeMap<(u32, usize), Flushed>,
}

/// Under which leader an entry was proposed, and its index.
type Flushed = Option<(evenkeel_protocol::Epoch, u64)>;

/// What is known of a broker from outside.
#[derive(Default)]
struct BrokerSeen {
    observer: Option<Observer>,
    life: u64,
    /// Why it ended by itself.
    ended: Option<String>,
    /// When the first of its replicas stopped.
    stopped_at: Option<Duration>,
    /// Highest applied and committed index of each partition in this life, and the last appended.
    reached: BTreeMap<u32, (u64, u64, u64)>,
}

impl Witness {
    pub fn new(brokers: usize, judge_reads: bool, loud: bool) -> Self {
        Self {
            trace: Trace::new(loud),
            now: Duration::ZERO,
            failure: None,
            quiet: false,
            read_back: 0,
            judge_reads,
            counts: BTreeMap::new(),
            history: History::new(),
            watches: WatchLog::new(),
            sequence: 0,
            brokers: (0..brokers).map(|_| BrokerSeen::default()).collect(),
            epochs: BTreeMap::new(),
            applied: BTreeMap::new(),
            flushed: BTreeMap::new(),
        }
    }

    pub fn note(&mut self, what: &str) {
        self.trace.note(self.now, what);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn fail(&mut self, what: String) {
        self.note(&format!("FAILED: {what}"));
        self.failure.get_or_insert(what);
    }

    // Operations of clients.

    pub fn call(&mut self, client: u64, key: &str, request: Request) -> OperationId {
        self.sequence += 1;
        self.history.call(self.sequence, client, key, request)
    }

    pub fn answer(&mut self, id: OperationId, partition: u32, answer: Answer) {
        self.sequence += 1;
        let operation = &self.history.operations()[id.index()];
        let key = operation.key.clone();
        let changed = match (&operation.request, &answer) {
            (Request::Put { value, .. }, Answer::Put { position, .. }) => {
                Some((*position, Some(value.clone())))
            }
            (Request::Delete { .. }, Answer::Deleted { existed: true, position }) => Some((*position, None)),
            _ => None,
        };
        let answer = match (&operation.request, answer) {
            (Request::Get, Answer::Read(_)) if !self.judge_reads => Answer::NotDone,
            (_, answer) => answer,
        };
        let line = format!("client {} {}: {answer:?}", operation.client, String::from_utf8_lossy(&key));
        self.note(&line);
        if let Some((position, value)) = changed {
            self.watches.acknowledged(partition, Change { position, key, value });
        }
        self.history.answer(self.sequence, id, answer);
        self.count("operations");
    }

    // Watches.

    pub fn watch_begun(&mut self, watcher: u64, partition: u32, after: u64) {
        self.watches.begun(watcher, partition, after);
    }

    pub fn watch_position(&self, watcher: u64, partition: u32) -> Option<u64> {
        self.watches.position(watcher, partition)
    }

    pub fn delivered(&mut self, watcher: u64, partition: u32, delivery: Delivery) {
        self.count("deliveries");
        self.watches.delivered(watcher, partition, delivery);
    }

    // Brokers.

    pub fn broker_started(&mut self, node: usize, observer: Observer) {
        self.note(&format!("broker {node} runs"));
        self.brokers[node].observer = Some(observer);
    }

    pub fn broker_ended(&mut self, node: usize, why: String) {
        self.note(&format!("broker {node} ended: {why}"));
        let broker = &mut self.brokers[node];
        // It may have made something durable, and told a leader, since it was looked at last.
        let last_look: Vec<Observed> = broker.observer.take().iter().flat_map(Observer::replicas).collect();
        broker.ended = Some(why);
        self.flushed.extend(last_look.into_iter().map(|seen| ((seen.partition.0, node), seen.flushed)));
    }

    /// It begins a new life, or is dead for now.
    pub fn broker_reset(&mut self, node: usize) {
        let broker = &mut self.brokers[node];
        *broker = BrokerSeen { life: broker.life + 1, ..BrokerSeen::default() };
    }

    /// Why it ended by itself; told once.
    pub fn take_ended(&mut self, node: usize) -> Option<String> {
        self.brokers[node].ended.take()
    }

    pub fn runs(&self, node: usize) -> bool {
        self.brokers[node].observer.is_some()
    }

    /// Replicas of the brokers that run.
    pub fn replicas(&self) -> Vec<(usize, Observed)> {
        let observers =
            self.brokers.iter().enumerate().filter_map(|(node, b)| Some((node, b.observer.as_ref()?)));
        observers.flat_map(|(node, observer)| observer.replicas().map(move |seen| (node, seen))).collect()
    }

    /// A transfer was answered as done.
    pub fn claimed(&mut self, partition: u32, term: u64, to: u64) {
        self.count("transfers");
        let seen = self.epochs.keys().any(|&(p, t, node)| p == partition && t > term && node == to);
        // One that stops within the moment in which it won leaves its first entry behind.
        let proposed = |replica: &Observed| {
            let own = replica.flushed.is_some_and(|(epoch, _)| epoch.term > term && epoch.node.0 == to);
            replica.partition.0 == partition && own
        };
        if !seen && !self.replicas().iter().any(|(_, replica)| proposed(replica)) {
            self.fail(format!(
                "partition {partition}: transferred from term {term} to broker {to}, it was said, but that never led since"
            ));
        }
    }

    /// What must hold at every moment.
    pub fn check_now(&mut self) {
        let replicas = self.replicas();
        self.check_flushed(&replicas);
        for (node, seen) in replicas {
            let partition = seen.partition.0;
            let Observed { purged, snapshot, applied, committed, appended, .. } = seen;
            let positions = [purged, snapshot, applied, committed, appended];
            if !positions.is_sorted() {
                self.fail(format!(
                    "broker {node}, partition {partition}: purged {purged} ≤ snapshot {snapshot} ≤ applied {applied} \
                     ≤ committed {committed} ≤ appended {appended} does not hold"
                ));
            }
            let broker = &mut self.brokers[node];
            let before = broker.reached.insert(partition, (applied, committed, appended));
            let life = broker.life;
            let (applied_before, committed_before, appended_before) = before.unwrap_or_default();
            if applied_before > applied || committed_before > committed {
                self.fail(format!(
                    "broker {node}, partition {partition}: applied and committed went back from \
                     {applied_before} and {committed_before} to {applied} and {committed}"
                ));
            }
            if before.is_some() && purged > appended_before {
                self.count("snapshots received");
            }
            if let Some(epoch) = seen.applied_of.filter(|_| applied > applied_before) {
                self.applies(partition, applied, epoch, node);
            }
            if let Some(reason) = seen.stopped {
                // A broker whose disk failed, or that was asked to stop, ends; but it must.
                let since = *self.brokers[node].stopped_at.get_or_insert(self.now);
                if self.now > since + ENDS_WITHIN {
                    self.fail(format!(
                        "broker {node}, partition {partition}: its replica stopped, but the broker runs on: {reason}"
                    ));
                }
            }
            if let Some(epoch) = seen.leads {
                self.leads(partition, epoch.term, node as u64, life);
            }
        }
    }

    /// Whatever a replica takes for committed is durable at a majority.
    fn check_flushed(&mut self, replicas: &[(usize, Observed)]) {
        for (node, seen) in replicas {
            self.flushed.insert((seen.partition.0, *node), seen.flushed);
        }
        let brokers = self.brokers.len();
        for (node, seen) in replicas {
            let partition = seen.partition.0;
            let Some(epoch) = seen.committed_of else { continue };
            let committed = Some((epoch, seen.committed));
            let have = |broker: &usize| {
                self.flushed.get(&(partition, *broker)).is_some_and(|flushed| *flushed >= committed)
            };
            if (0..brokers).filter(have).count() <= brokers / 2 {
                let known: Vec<_> = (0..brokers).map(|b| self.flushed.get(&(partition, b))).collect();
                self.fail(format!(
                    "broker {node}, partition {partition}: committed {committed:?} ≤ flushed by a majority does not hold: {known:?}"
                ));
            }
        }
    }

    /// Whatever two replicas apply at one index is one entry.
    fn applies(&mut self, partition: u32, index: u64, epoch: evenkeel_protocol::Epoch, node: usize) {
        let (first, known) = *self.applied.entry((partition, index)).or_insert((node, epoch));
        if known != epoch {
            self.fail(format!(
                "partition {partition}: at {index} broker {first} applied what was proposed in {known:?}, \
                 broker {node} what was proposed in {epoch:?}"
            ));
        }
    }

    fn leads(&mut self, partition: u32, term: u64, node: u64, life: u64) {
        let Some(known) = self.epochs.insert((partition, term, node), life) else {
            self.note(&format!("partition {partition}: broker {node} leads in term {term}"));
            self.count("leaderships");
            return;
        };
        if known != life {
            self.fail(format!(
                "partition {partition}: broker {node} leads in term {term} after a restart; it led in it before, and \
                 should have remembered"
            ));
        }
    }

    /// What must hold of everything recorded.
    pub fn check_records(&mut self) {
        if let Err(violation) = self.history.check() {
            self.fail(violation.to_string());
        }
        if let Err(violation) = self.watches.check() {
            self.fail(violation.to_string());
        }
    }

    /// Whether all replicas have applied the same, and to everyone's knowledge everything.
    pub fn is_settled(&self, partitions: u32) -> bool {
        let replicas = self.replicas();
        (0..=partitions).all(|partition| {
            let of = || replicas.iter().filter(|(_, seen)| seen.partition.0 == partition);
            let applied: Vec<u64> = of().map(|(_, seen)| seen.applied).collect();
            let appended: Vec<u64> = of().map(|(_, seen)| seen.appended).collect();
            let same = |of: &[u64]| of.windows(2).all(|pair| pair[0] == pair[1]);
            is_led(&replicas, partition) && same(&applied) && same(&appended) && applied == appended
        })
    }

    /// Whether each partition has a leader.
    pub fn is_led(&self, partitions: u32) -> bool {
        let replicas = self.replicas();
        (0..=partitions).all(|partition| is_led(&replicas, partition))
    }

    /// Compares the records of all replicas.
    pub fn check_replicas_are_equal(&mut self) {
        let mut first: BTreeMap<u32, (usize, Vec<String>)> = BTreeMap::new();
        for (node, seen) in self.replicas() {
            let records = match seen.reader.list(b"", b"", usize::MAX, usize::MAX) {
                Ok((records, _)) => records.iter().map(|record| format!("{record:?}")).collect::<Vec<_>>(),
                Err(error) => return self.fail(format!("broker {node}: reading its records: {error}")),
            };
            let (other, known) = first.entry(seen.partition.0).or_insert_with(|| (node, records.clone()));
            if *known != records {
                let differs = known.iter().zip(&records).find(|(a, b)| a != b);
                let what = format!(
                    "partition {}: brokers {other} and {node} hold different records ({} and {}): {differs:?}",
                    seen.partition,
                    known.len(),
                    records.len()
                );
                return self.fail(what);
            }
        }
    }
}

fn is_led(replicas: &[(usize, Observed)], partition: u32) -> bool {
    replicas.iter().any(|(_, seen)| seen.partition.0 == partition && seen.leads.is_some())
}
