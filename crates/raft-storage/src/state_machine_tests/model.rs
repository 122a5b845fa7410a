//! Random commands, batch sizes, reopens and snapshot installs against a plain map.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};

use evenkeel_protocol::Position;
use proptest::prelude::*;

use super::*;
use crate::SimulatedState;

/// What the state machine should do, as simply as possible.
#[derive(Default)]
struct Model {
    records: BTreeMap<String, (u64, u64, String)>,
    clients: HashMap<u64, (u64, String)>,
    told: Vec<(u64, String, u64)>,
}

#[derive(Clone, Debug)]
struct Op {
    key: char,
    put: bool,
    condition: Option<u64>,
}

/// (client id, sequence).
type Id = Option<(u64, u64)>;

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(Id, Vec<Op>)>),
    Reopen,
    /// The partition's state moves to the other store by a snapshot, over what it was there.
    Install,
}

impl Model {
    fn apply(&mut self, position: u64, id: Id, ops: &[Op]) -> String {
        if let Some((client, sequence)) = id
            && let Some((last, answer)) = self.clients.get(&client)
        {
            if sequence == *last {
                return answer.clone();
            }
            if sequence < *last {
                return format!("superseded by {last}");
            }
        }
        let answer = self.write(position, ops);
        if let Some((client, sequence)) = id {
            self.clients.insert(client, (sequence, answer.clone()));
        }
        answer
    }

    fn write(&mut self, position: u64, ops: &[Op]) -> String {
        let (mut records, mut told) = (self.records.clone(), Vec::new());
        let mut answer = format!("@{position}");
        for (n, op) in ops.iter().enumerate() {
            let key = op.key.to_string();
            let version = records.get(&key).map_or(0, |record| record.0);
            if op.condition.is_some_and(|wanted| wanted != version) {
                return format!("failed {n} at v{version}");
            }
            let existed = if version > 0 { "+" } else { "" };
            if op.put {
                records.insert(key.clone(), (version + 1, position, n.to_string()));
                answer += &format!(" v{}{existed}", version + 1);
                told.push((position, format!("+{key}{n}"), version + 1));
            } else {
                answer += &format!(" v0{existed}");
                if records.remove(&key).is_some() {
                    told.push((position, format!("-{key}"), version));
                }
            }
        }
        self.records = records;
        self.told.extend(told);
        answer
    }

    fn keys(&self) -> String {
        let records = self.records.iter();
        records.map(|(k, (v, p, value))| format!("{k}={value}@{p}v{v}")).collect::<Vec<_>>().join(" ")
    }
}

fn command_text(id: Id, ops: &[Op]) -> String {
    let id = id.map_or(String::new(), |(client, sequence)| format!("#{client}.{sequence} "));
    let ops = ops.iter().enumerate().map(|(n, op)| {
        let condition = match op.condition {
            None => String::new(),
            Some(0) => " absent".into(),
            Some(version) => format!(" v{version}"),
        };
        if op.put { format!("put {} {n}{condition}", op.key) } else { format!("del {}{condition}", op.key) }
    });
    id + &ops.collect::<Vec<_>>().join(" ; ")
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let op = (prop::char::range('a', 'e'), prop::bool::weighted(0.7), prop::option::weighted(0.3, 0u64..4))
        .prop_map(|(key, put, condition)| Op { key, put, condition });
    let id = prop::option::weighted(0.6, (1u64..4, 1u64..12));
    let command = (id, prop::collection::vec(op, 1..5));
    let step = prop_oneof![
        8 => prop::collection::vec(command, 1..12).prop_map(Step::Apply),
        1 => Just(Step::Reopen),
        1 => Just(Step::Install),
    ];
    prop::collection::vec(step, 1..16)
}

async fn run(stores: [&StateStore; 2], id: GroupId, steps: Vec<Step>) {
    let [mut here, mut there] = stores;
    let mut partition = Partition::open(here, id);
    let mut model = Model::default();
    for step in steps {
        match step {
            Step::Apply(commands) => {
                let texts = commands.iter().map(|(id, ops)| command_text(*id, ops)).collect::<Vec<_>>();
                let expected = commands
                    .iter()
                    .zip(partition.next..)
                    .map(|((id, ops), position)| model.apply(position, *id, ops))
                    .collect::<Vec<_>>();
                let texts = texts.iter().map(String::as_str).collect::<Vec<_>>();
                assert_eq!(partition.apply(&texts).await, expected, "{texts:?}");
            }
            Step::Reopen => {
                drop(partition);
                partition = Partition::open(here, id);
            }
            Step::Install => {
                partition = super::snapshots::moved(&mut partition, there, id).await;
                std::mem::swap(&mut here, &mut there);
                model.told.clear();
            }
        }
        assert_eq!(partition.keys(), model.keys());
        let first = partition.reader.first_available_position();
        let changes = partition.reader.changes(Position(first.0 - 1), b"", 99_999, usize::MAX).unwrap();
        let told = changes.events.iter().map(|event| {
            let record = event.record.as_ref().unwrap();
            let sign = if event.kind() == evenkeel_protocol::v1::watch_event::Kind::Put { '+' } else { '-' };
            (record.position, format!("{sign}{}{}", text(&record.key), text(&record.value)), record.version)
        });
        assert_eq!(told.collect::<Vec<_>>(), model.told);
        assert_eq!(changes.up_to.0, partition.next - 1);
    }
}

/// Whether on fjall or simulated; snapshots go from the one to the other and back.
fn does_what_a_plain_map_does(runtime: &tokio::runtime::Runtime, [here, there]: [&StateStore; 2]) {
    let partitions = AtomicU32::new(1);
    let config = ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in steps())| {
        let id = partitions.fetch_add(1, Ordering::Relaxed);
        runtime.block_on(run([here, there], id, steps));
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn the_state_machine_does_what_a_plain_map_does() {
    let ((_a, here), (_b, there)) = (open_store(small()), open_store(small()));
    does_what_a_plain_map_does(&runtime(), [&here, &there]);
}

#[test]
fn simulated_it_does_the_same_and_exchanges_snapshots_with_the_real_one() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let simulated = || StateStore::open_simulated(&SimulatedState::new(), small()).unwrap();
    does_what_a_plain_map_does(&runtime, [&simulated(), &simulated()]);
    let (_folder, real) = open_store(small());
    does_what_a_plain_map_does(&runtime, [&simulated(), &real]);
}
