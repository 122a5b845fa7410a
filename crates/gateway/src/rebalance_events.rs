//! A run as it goes on, as server-sent events.
//!
//! ```text
//! event: rebalance    the whole run as it is when the stream begins
//! event: partition    one element of its `partitions`, each time something happens to it
//! event: finished     the whole run at its end; the last event
//! ```
//!
//! Any gateway shows any run: it follows the run's journal in the system group.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::rebalance_record::{Run, RunJson, partition_of_run};
use crate::rebalance_store::RunStore;
use crate::system_store::SystemStoreError;

/// Streams open at once: each reads the system group.
pub(crate) const STREAMS_MAX: usize = 64;
/// How often a stream looks for news.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// A stream that cannot read the run for so long ends; its client asks again.
const GIVE_UP_AFTER: Duration = Duration::from_secs(30);
/// So that proxies do not take a run that waits for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Knows the way to runs, and how many streams there are. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RunEvents {
    runs: RunStore,
    streams: Arc<Semaphore>,
    stopping: CancellationToken,
}

/// Why there is no stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoEvents {
    #[error("run {0} is not known; see /cluster/v2/rebalance/history for those that are")]
    Unknown(u64),
    #[error("{STREAMS_MAX} streams of events are open already; poll the run, or ask again later")]
    TooMany,
    #[error(transparent)]
    Store(#[from] SystemStoreError),
}

impl RunEvents {
    pub(crate) fn new(runs: RunStore, stopping: CancellationToken) -> Self {
        Self { runs, streams: Arc::new(Semaphore::new(STREAMS_MAX)), stopping }
    }

    /// Follows a run to its end.
    pub(crate) async fn follow(&self, id: u64) -> Result<Response, NoEvents> {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else { return Err(NoEvents::TooMany) };
        let (run, next) = self.runs.load_with_journal(id).await?.ok_or(NoEvents::Unknown(id))?;
        let mut follower = Follower {
            runs: self.runs.clone(),
            run,
            next,
            waiting: VecDeque::new(),
            finished: false,
            stopping: self.stopping.clone(),
            _permit: permit,
        };
        follower.tell("rebalance", &RunJson::of(&follower.run));
        follower.finished = follower.tell_finished();
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Ok(Sse::new(follower.events()).keep_alive(keep_alive).into_response())
    }
}

struct Follower {
    runs: RunStore,
    run: Run,
    /// Number of the journal's first entry that is not in `run`.
    next: u64,
    waiting: VecDeque<Event>,
    finished: bool,
    stopping: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures::stream::unfold(self, |mut this| async move {
            let event = this.next_event().await?;
            Some((Ok(event), this))
        })
    }

    async fn next_event(&mut self) -> Option<Event> {
        let mut read_at = Instant::now();
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Some(event);
            }
            if self.finished {
                return None;
            }
            tokio::select! {
                () = self.stopping.cancelled() => return None,
                () = sleep(LOOK_INTERVAL) => {}
            }
            match self.look().await {
                Ok(()) => read_at = Instant::now(),
                Err(error) if read_at.elapsed() >= GIVE_UP_AFTER => {
                    tracing::warn!(run = self.run.head.id, "events of a rebalance end early: {error}");
                    return None;
                }
                Err(_) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), SystemStoreError> {
        let id = self.run.head.id;
        // First the head: what a finished run's journal says by then is all that it ever will.
        let head = self.runs.head(id).await?;
        let part = self.runs.journal(id, self.next).await?;
        self.next = part.next;
        for transition in part.transitions {
            let partition = self.run.take(transition);
            if let Some(shown) = partition_of_run(&self.run, partition) {
                self.tell("partition", &shown);
            }
        }
        match head {
            Some(head) => {
                self.run.head = head;
                self.finished = self.tell_finished();
            }
            // Forgotten.
            None => self.finished = true,
        }
        Ok(())
    }

    fn tell_finished(&mut self) -> bool {
        let finished = self.run.head.finished_at.is_some();
        if finished {
            self.tell("finished", &RunJson::of(&self.run));
        }
        finished
    }

    fn tell<T: Serialize>(&mut self, name: &str, shown: &T) {
        match Event::default().event(name).json_data(shown) {
            Ok(event) => self.waiting.push_back(event),
            Err(error) => tracing::error!("an event of a rebalance has no JSON form: {error}"),
        }
    }
}
