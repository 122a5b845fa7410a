//! Random work, a disk that dies at a random step, a crash that drops or tears what was not synced: what is
//! recovered must be exactly what the group had been told at some point not before its last acknowledgement.

use proptest::prelude::*;

use super::*;
use crate::faulty_disk::Crash;

/// Few, so that segments become free and are deleted often.
const GROUPS: u32 = 2;

#[derive(Debug, Clone)]
enum Step {
    Append {
        group: u32,
        count: u64,
        value_bytes: usize,
    },
    Vote {
        group: u32,
    },
    Committed {
        group: u32,
    },
    Truncate {
        group: u32,
        back: u64,
    },
    Purge {
        group: u32,
        part: u64,
    },
    /// Lets the committer run.
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..GROUPS;
    prop_oneof![
        8 => (group.clone(), 1..6_u64, 0..150_usize)
            .prop_map(|(group, count, value_bytes)| Step::Append { group, count, value_bytes }),
        1 => group.clone().prop_map(|group| Step::Vote { group }),
        3 => group.clone().prop_map(|group| Step::Committed { group }),
        1 => (group.clone(), 0..5_u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        3 => (group, 1..4_u64).prop_map(|(group, part)| Step::Purge { group, part }),
        4 => Just(Step::Settle),
    ]
}

#[derive(Debug, Clone)]
struct Life {
    steps: Vec<Step>,
    /// The disk dies after this many operations; `None`: the crash comes at the end.
    dies_after: Option<u64>,
    crash: Crash,
}

fn life() -> impl Strategy<Value = Life> {
    let crash = prop_oneof![
        1 => Just(Crash::ProcessOnly),
        2 => Just(Crash::LosesUnsynced),
        4 => any::<u64>().prop_map(|seed| Crash::Tears { seed }),
    ];
    (proptest::collection::vec(step(), 1..100), proptest::option::weighted(0.8, 0..200_u64), crash)
        .prop_map(|(steps, dies_after, crash)| Life { steps, dies_after, crash })
}

/// What a group was told: every state it went through, and the last one that was acknowledged.
#[derive(Debug, Clone)]
struct Model {
    states: Vec<State>,
    acknowledged: usize,
    /// Appends under way: the state they lead to, and who reports them.
    pending: Vec<(usize, std::sync::Arc<parking_lot::Mutex<Flushed>>)>,
    committed: Vec<Option<LogId>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Model {
    fn of(view: &View) -> Self {
        let View { vote, purged, entries, .. } = view.clone();
        let states = vec![State { vote, purged, entries }];
        Self { states, acknowledged: 0, pending: Vec::new(), committed: vec![view.committed] }
    }

    fn now(&self) -> State {
        self.states.last().unwrap().clone()
    }

    fn next(&mut self, change: impl FnOnce(&mut State)) -> usize {
        let mut state = self.now();
        change(&mut state);
        self.states.push(state);
        self.states.len() - 1
    }

    fn last(&self) -> Option<LogId> {
        let state = self.states.last().unwrap();
        state.entries.last().map(|entry| entry.log_id).or(state.purged)
    }

    fn collect_acknowledgements(&mut self) {
        for (state, flushed) in &self.pending {
            if let Ok(Ok(())) = flushed.lock().try_recv() {
                self.acknowledged = self.acknowledged.max(*state);
            }
        }
    }
}

const TERM: u64 = 3;

/// Takes one step; false when the log has failed.
async fn take_step(log: &SharedLog, models: &mut [Model], step: &Step, number: u64) -> bool {
    match step {
        Step::Append { group, count, value_bytes } => {
            let model = &mut models[*group as usize];
            let first = model.last().map_or(0, |log_id| log_id.index + 1);
            let value = vec![number as u8; *value_bytes];
            let appended: Vec<Entry> =
                (first..first + count).map(|index| entry(TERM, index, value.clone())).collect();
            let mut reached = 0;
            for entry in &appended {
                reached = model.next(|state| state.entries.push(entry.clone()));
            }
            let (sender, flushed) = TypeConfig::oneshot();
            let queued = log.group(*group).append(appended, IOFlushed::signal(sender)).await;
            model.pending.push((reached, std::sync::Arc::new(parking_lot::Mutex::new(flushed))));
            queued.is_ok()
        }
        Step::Vote { group } => {
            let model = &mut models[*group as usize];
            let reached = model.next(|state| state.vote = Some(vote(number)));
            let saved = log.group(*group).save_vote(&vote(number)).await.is_ok();
            if saved {
                model.acknowledged = reached;
            }
            saved
        }
        Step::Committed { group } => {
            let model = &mut models[*group as usize];
            let last = model.last();
            model.committed.push(last);
            log.group(*group).save_committed(last).await.is_ok()
        }
        Step::Truncate { group, back } => {
            let model = &mut models[*group as usize];
            // Raft never truncates what is committed.
            let committed = model.committed.last().copied().flatten().map_or(0, |log_id| log_id.index + 1);
            let Some(last) = model.last() else { return true };
            let keep = last.index.saturating_sub(*back);
            if keep < committed || model.now().entries.first().is_none_or(|entry| entry.log_id.index > keep) {
                return true;
            }
            let reached = model.next(|state| state.entries.retain(|entry| entry.log_id.index <= keep));
            let truncated = log.group(*group).truncate_after(Some(log_id(TERM, 1, keep))).await.is_ok();
            if truncated {
                model.acknowledged = reached;
            }
            truncated
        }
        Step::Purge { group, part } => {
            let model = &mut models[*group as usize];
            let Some(committed) = model.committed.last().copied().flatten() else { return true };
            let Some(first) = model.now().entries.first().map(|entry| entry.log_id.index) else {
                return true;
            };
            let upto = first + (committed.index + 1).saturating_sub(first) / part;
            if upto > committed.index {
                return true;
            }
            let upto = log_id(TERM, 1, upto);
            model.next(|state| {
                state.entries.retain(|entry| entry.log_id.index > upto.index);
                state.purged = Some(upto);
            });
            log.group(*group).purge(upto).await.is_ok()
        }
        Step::Settle => {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            true
        }
    }
}

fn crash_options() -> LogOptions {
    LogOptions {
        driver: CommitterDriver::Task,
        cache_bytes_max: 4 << 10,
        room_bytes: 700,
        ..small_segments(1500)
    }
}

/// One life of a process: recover, check, work until the disk dies. Returns what the groups were told.
async fn live(
    disk: &FaultyDisk,
    life: &Life,
    before: Option<Vec<Model>>,
) -> Result<Vec<Model>, TestCaseError> {
    let log = SharedLog::open(Arc::new(disk.clone()), crash_options());
    let log = log.map_err(|error| TestCaseError::fail(error.to_string()))?;
    let mut models = Vec::new();
    for group in 0..GROUPS {
        let view = view(&log, group).await;
        if let Some(before) = &before {
            check_recovered(&view, &before[group as usize])?;
        }
        models.push(Model::of(&view));
    }
    if let Some(operations) = life.dies_after {
        disk.die_after(operations);
    }
    for (number, step) in (1..).zip(&life.steps) {
        if !take_step(&log, &mut models, step, number).await {
            break;
        }
    }
    for model in &mut models {
        model.collect_acknowledgements();
    }
    Ok(models)
}

fn check_recovered(view: &View, before: &Model) -> Result<(), TestCaseError> {
    let found = State { vote: view.vote, purged: view.purged, entries: view.entries.clone() };
    let position = before.states[before.acknowledged..].contains(&found);
    prop_assert!(position, "recovered {found:?}\nacknowledged {}: {:#?}", before.acknowledged, before.states);
    prop_assert!(before.committed.contains(&view.committed));
    // purged ≤ committed ≤ appended
    prop_assert!(view.purged <= view.committed, "{view:?}");
    prop_assert!(view.committed <= view.last, "{view:?}");
    let bytes: usize = (view.entries.iter())
        .map(|entry| if let Payload::Normal(Command(bytes)) = &entry.payload { bytes.len() } else { 0 })
        .sum();
    prop_assert_eq!(view.bytes, bytes as u64);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_loses_nothing_acknowledged_and_shows_nothing_half_written(lives in proptest::collection::vec(life(), 1..5)) {
        let disk = FaultyDisk::new();
        let mut models = None;
        for life in lives.iter().chain([&Life { steps: Vec::new(), dies_after: None, crash: Crash::ProcessOnly }]) {
            // Each life has its own runtime: dropping it kills the committer where it stands.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            models = Some(runtime.block_on(live(&disk, life, models))?);
            drop(runtime);
            disk.crash(life.crash);
        }
    }
}
