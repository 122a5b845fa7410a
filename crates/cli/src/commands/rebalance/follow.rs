//! Follows a run to its end: by the gateway's events where it has them, else by asking again and again.
//!
//! Events come as they happen, but a connection may break, and the gateway with it, while the run is carried on by
//! another one. So events are a shortcut: whenever they end before the run does, asking takes over.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::StreamExt;
use http::StatusCode;
use serde_json::Value;

use crate::cluster::cluster_api::{ClusterApi, Run, RunPartition};
use crate::cluster::server_events::ServerEvents;
use crate::output::outcome::{EXIT_TIMED_OUT, EXIT_UNREACHABLE, Failure};

/// A run of very many partitions, each waiting for a replica to catch up, still ends before this.
const RUN_TIMEOUT: Duration = Duration::from_secs(900);
/// Asking begins with this pause, and makes it longer as the run goes on.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(500);
/// A gateway that is started again is back before this.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Events that do not come for so long may have been lost with their connection.
const EVENT_SILENCE_MAX: Duration = Duration::from_secs(30);

/// Who wants to know how far a run is.
pub trait Watcher {
    /// A partition is done with; `done` of `all` are.
    fn partition_done(&mut self, partition: &RunPartition, done: usize, all: usize);
}

/// Nobody wants to know.
impl Watcher for () {
    fn partition_done(&mut self, _: &RunPartition, _: usize, _: usize) {}
}

/// Which partitions are done with, so that each is told once.
struct Progress<'a, W> {
    all: usize,
    done: BTreeSet<u32>,
    watcher: &'a mut W,
}

impl<W: Watcher> Progress<'_, W> {
    fn take(&mut self, partition: &RunPartition) {
        if partition.result.is_some() && self.done.insert(partition.partition_id) {
            self.watcher.partition_done(partition, self.done.len(), self.all);
        }
    }

    fn take_run(&mut self, run: &Run) {
        self.all = run.partitions.len();
        run.partitions.iter().for_each(|partition| self.take(partition));
    }
}

/// Waits for the run's end. Answers the run, and its JSON as it came.
pub async fn follow(api: &ClusterApi, id: u64, watcher: &mut impl Watcher) -> Result<(Run, Value), Failure> {
    let mut progress = Progress { all: 0, done: BTreeSet::new(), watcher };
    let to_the_end = async {
        let (run, raw) = api.run(id).await?;
        progress.take_run(&run);
        if run.is_finished() {
            return Ok((run, raw));
        }
        match by_events(api, id, &mut progress).await {
            Some(finished) => Ok(finished),
            None => by_asking(api, id, &mut progress).await,
        }
    };
    tokio::time::timeout(RUN_TIMEOUT, to_the_end).await.unwrap_or_else(|_| {
        Err(Failure::timed_out(format!(
            "rebalance {id} did not end within {RUN_TIMEOUT:?}; see `evenkeel rebalance --show {id}`"
        )))
    })
}

/// `None` when there are no events, or they ended too early.
async fn by_events(
    api: &ClusterApi,
    id: u64,
    progress: &mut Progress<'_, impl Watcher>,
) -> Option<(Run, Value)> {
    let mut answer = api.events(id).await.ok().filter(|answer| answer.status == StatusCode::OK)?;
    let mut events = ServerEvents::default();
    loop {
        let piece = tokio::time::timeout(EVENT_SILENCE_MAX, answer.pieces.next()).await.ok()??.ok()?;
        for event in events.take(&piece).ok()? {
            match event.name.as_str() {
                // How it stands when the events begin.
                "rebalance" => progress.take_run(&serde_json::from_str(&event.data).ok()?),
                "partition" => progress.take(&serde_json::from_str(&event.data).ok()?),
                "finished" => {
                    let raw: Value = serde_json::from_str(&event.data).ok()?;
                    let run = serde_json::from_value(raw.clone()).ok().filter(Run::is_finished)?;
                    progress.take_run(&run);
                    return Some((run, raw));
                }
                _ => {}
            }
        }
    }
}

async fn by_asking(
    api: &ClusterApi,
    id: u64,
    progress: &mut Progress<'_, impl Watcher>,
) -> Result<(Run, Value), Failure> {
    let mut pause = POLL_INTERVAL;
    let mut answered = Instant::now();
    loop {
        match api.run(id).await {
            Ok((run, raw)) => {
                answered = Instant::now();
                progress.take_run(&run);
                if run.is_finished() {
                    return Ok((run, raw));
                }
            }
            // The gateway may be starting again, and the system group changing its leader.
            Err(failure)
                if matches!(failure.code, EXIT_UNREACHABLE | EXIT_TIMED_OUT)
                    && answered.elapsed() < SILENCE_MAX => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(POLL_INTERVAL_MAX);
    }
}
