//! Exporters: what a partition's leader pushes out of its committed changes, at least once and in order.
//!
//! ```text
//! changes kept for watches ──► batch ──► sink takes it ──► position, into the partition's log once a second
//! ```
//!
//! A leader-side service: it begins with a [`Tenure`] and ends with it, so that a leader that hands over exports no more
//! when its target stands. The next leader goes on after the position that the log tells: what was exported since that was
//! written comes again. A sink that fails is tried again after a growing pause, and nothing overtakes what it did not take.
//!
//! Paused softly, exporters go on and do not write their positions: what they export meanwhile comes again after the next change
//! of leader. Resuming writes them.
//!
//! Changes are kept for so long only (`data.changes_retained_max`); an exporter that falls behind further jumps to what is
//! left, and says so: in the log, in `evenkeel_exporter_lost_positions_total`, and in a line to the sink.
//!
//! Cost: a batch in memory for each of `EXPORTS_MAX` exports at once; one small log entry per partition, exporter and
//! `POSITION_INTERVAL_MS` while there is something to export, none while there is not.
//!
//! [`Tenure`]: crate::leadership::Tenure

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::{NodeId, PartitionId, Position};
use evenkeel_raft_storage::{Changes, ChangesError, Command, DataDirectory, ExportingPhase, Offload};
use evenkeel_security::ClientTlsError;
use openraft::async_runtime::WatchReceiver;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::export_lines::{self, Batch};
use crate::exporters::{ExporterKind, ExporterOptions};
use crate::http_export::{HttpExport, PostError};
use crate::json_lines::JsonLines;
use crate::metric_definitions as metric;
use crate::replica::{Answer, Replica};

/// How often at most a position goes into a partition's log.
const POSITION_INTERVAL_MS: u64 = 1_000;
/// How soon a leadership that begins without a change of role, after a transfer that was given up, is noticed.
const LOOK_INTERVAL_MS: u64 = 200;
/// Batches in memory at once, of all partitions.
const EXPORTS_MAX: usize = 16;
const BACKOFF_MS_MIN: u64 = 100;
const BACKOFF_MS_MAX: u64 = 10_000;

/// Why an export did not go on.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("files: {0}")]
    Files(io::Error),
    #[error(transparent)]
    Post(#[from] PostError),
    #[error(transparent)]
    Trust(#[from] ClientTlsError),
    #[error("reading changes: {0}")]
    Changes(io::Error),
    #[error("the broker is stopping")]
    Stopping,
}

/// Cheap handle.
#[derive(Clone)]
pub struct Exporting(Arc<Inner>);

struct Inner {
    exporters: Vec<ExporterOptions>,
    node: NodeId,
    data: Arc<DataDirectory>,
    offload: Offload,
    phase: watch::Sender<ExportingPhase>,
    /// One change at a time, so that what is remembered and what is done agree.
    changing: tokio::sync::Mutex<()>,
    room: Semaphore,
    /// How far the exporters of the partitions led here are.
    reached: Mutex<BTreeMap<(PartitionId, String), Position>>,
}

/// What an operator is told of one replica's exporters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// `None` without exporters.
    pub phase: Option<&'static str>,
    /// By exporter: position, and what it lacks, where this broker leads.
    pub exporters: BTreeMap<String, (Option<u64>, Option<u64>)>,
}

impl Exporting {
    /// Paused or not, as when the broker ran last.
    pub fn remembered(
        exporters: Vec<ExporterOptions>,
        node: NodeId,
        data: Arc<DataDirectory>,
        offload: Offload,
    ) -> io::Result<Self> {
        let phase = data.exporting()?;
        if phase != ExportingPhase::Exporting && !exporters.is_empty() {
            tracing::info!("exporting is paused: POST /actuator/exporting/resume resumes it");
        }
        Ok(Self(Arc::new(Inner {
            exporters,
            node,
            data,
            offload,
            phase: watch::Sender::new(phase),
            changing: tokio::sync::Mutex::new(()),
            room: Semaphore::new(EXPORTS_MAX),
            reached: Mutex::default(),
        })))
    }

    /// Whether there is anything to do.
    pub fn is_configured(&self) -> bool {
        !self.0.exporters.is_empty()
    }

    /// Pauses or resumes, from now on and durably.
    pub async fn set(&self, phase: ExportingPhase) -> io::Result<()> {
        let _one_at_a_time = self.0.changing.lock().await;
        let data = Arc::clone(&self.0.data);
        self.0.offload.run(move || data.set_exporting(phase)).await??;
        tracing::info!(?phase, "told whether to export");
        self.0.phase.send_replace(phase);
        Ok(())
    }

    /// What `/actuator/partitions` shows of a replica.
    pub fn shown(&self, replica: &Replica) -> Exported {
        let leads = replica.tenure().is_some();
        let applied = *replica.reader.applied().borrow();
        let reached = self.0.reached.lock();
        let exporters = self.0.exporters.iter().map(|exporter| {
            let live = reached.get(&(replica.partition, exporter.name.clone())).copied();
            let position =
                live.or_else(|| replica.reader.exported(&exporter.name)).map(|position| position.0);
            let lag = leads.then(|| applied.saturating_sub(position.unwrap_or(0)));
            (exporter.name.clone(), (position, lag))
        });
        let exporters = exporters.collect();
        let phase = match (self.is_configured(), leads, *self.0.phase.borrow()) {
            (false, ..) => None,
            (true, false, _) => Some("CLOSED"),
            (true, true, ExportingPhase::Paused) => Some("PAUSED"),
            (true, true, ExportingPhase::SoftPaused) => Some("SOFT_PAUSED"),
            (true, true, ExportingPhase::Exporting) => Some("EXPORTING"),
        };
        Exported { phase, exporters }
    }

    /// Brings the gauges up to date; called for each scrape.
    pub fn refresh_gauges<'a>(&self, replicas: impl Iterator<Item = &'a Arc<Replica>>) {
        if !self.is_configured() {
            return;
        }
        metric::set_exporting_paused(*self.0.phase.borrow() != ExportingPhase::Exporting);
        for replica in replicas.filter(|replica| is_exported(replica)) {
            for (exporter, (position, lag)) in self.shown(replica).exporters {
                metric::set_exporter_gauges(
                    replica.partition.0,
                    &exporter,
                    position.unwrap_or(0),
                    lag.unwrap_or(0),
                );
            }
        }
    }

    /// Exports one partition for as long as this broker leads it, again and again, until the replica stops.
    pub async fn follow(self, replica: Arc<Replica>) {
        if !is_exported(&replica) {
            return;
        }
        let mut changes = replica.raft.server_metrics();
        loop {
            if let Some(tenure) = replica.tenure() {
                let exports = self.0.exporters.iter().map(|exporter| self.export(&replica, exporter));
                tokio::select! {
                    biased;
                    () = tenure.ended() => {}
                    _ = futures::future::join_all(exports) => {}
                }
                self.0.reached.lock().retain(|(partition, _), _| *partition != replica.partition);
            }
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                // Only a leader that hands over, or keeps on leading, begins again unannounced.
                () = sleep(Duration::from_millis(LOOK_INTERVAL_MS)), if replica.leads().is_some() => {}
            }
        }
    }

    /// Never ends by itself, unless the broker stops.
    async fn export(&self, replica: &Arc<Replica>, exporter: &ExporterOptions) {
        let (partition, name) = (replica.partition, exporter.name.as_str());
        let mut export = Export {
            all: &self.0,
            replica,
            exporter,
            after: replica.reader.exported(name),
            untold: false,
            told_at: None,
        };
        tracing::info!(%partition, exporter = name, after = export.after.map(|after| after.0), "exporting");
        let (mut failures, mut said) = (0, String::new());
        loop {
            let began = (Instant::now(), export.after);
            let Err(error) = export.run().await;
            if matches!(error, ExportError::Stopping) {
                return;
            }
            metric::exports_failed(partition.0, name, 1);
            failures = if export.after > began.1 { 0 } else { failures + 1 };
            // Once per kind of trouble, not once per attempt.
            let words = error.to_string();
            if words != said {
                tracing::warn!(%partition, exporter = name, "exporting: {words}; trying again");
                said = words;
            }
            sleep(backoff(failures, rand::random())).await;
        }
    }
}

/// The system group keeps what is nobody's record.
fn is_exported(replica: &Replica) -> bool {
    replica.partition != evenkeel_protocol::SYSTEM_GROUP
}

/// Doubling, with jitter, so that partitions do not knock in step.
fn backoff(failures: u32, random: f64) -> Duration {
    let full = (BACKOFF_MS_MIN << failures.min(16)).min(BACKOFF_MS_MAX);
    Duration::from_millis(full).mul_f64(0.5 + random / 2.0)
}

enum Sink {
    Files(Arc<Mutex<JsonLines>>),
    Http(Box<HttpExport>),
}

/// One exporter of one partition, while this broker leads it.
struct Export<'a> {
    all: &'a Inner,
    replica: &'a Arc<Replica>,
    exporter: &'a ExporterOptions,
    /// Everything up to here has been taken by the sink; `None` when nothing ever was.
    after: Option<Position>,
    /// Something has been taken that the partition's log does not know of.
    untold: bool,
    told_at: Option<Instant>,
}

impl Export<'_> {
    async fn run(&mut self) -> Result<std::convert::Infallible, ExportError> {
        let sink = self.open().await?;
        let mut applied = self.replica.reader.applied();
        let mut told = self.all.phase.subscribe();
        loop {
            let phase = *told.borrow_and_update();
            let tells = phase != ExportingPhase::SoftPaused;
            if tells {
                self.tell_if_due().await;
            }
            if phase == ExportingPhase::Paused {
                let resumed = told.wait_for(|phase| *phase != ExportingPhase::Paused);
                match self.untold {
                    true => drop(timeout_at(self.due(), resumed).await),
                    false => drop(resumed.await),
                }
                continue;
            }
            applied.borrow_and_update();
            if !self.step(&sink).await? {
                let due = self.due();
                tokio::select! {
                    changed = applied.changed() => changed.map_err(|_| ExportError::Stopping)?,
                    _ = told.changed() => {}
                    () = sleep_until(due), if self.untold && tells => {}
                }
            }
        }
    }

    async fn open(&self) -> Result<Sink, ExportError> {
        match self.exporter.kind {
            ExporterKind::Http => Ok(Sink::Http(Box::new(HttpExport::new(self.exporter)?))),
            ExporterKind::JsonLines => {
                let (options, node, partition) =
                    (self.exporter.clone(), self.all.node, self.replica.partition);
                let opened = self.all.offload.run(move || JsonLines::open(&options, node, partition)).await;
                let files = opened.map_err(|_| ExportError::Stopping)?.map_err(ExportError::Files)?;
                Ok(Sink::Files(Arc::new(Mutex::new(files))))
            }
        }
    }

    /// Exports the next batch; whether there was one.
    async fn step(&mut self, sink: &Sink) -> Result<bool, ExportError> {
        let _room = self.all.room.acquire().await.map_err(|_| ExportError::Stopping)?;
        let after = self.after.unwrap_or(Position(0));
        let (records_max, bytes_max) = (self.exporter.batch_records_max, self.exporter.batch_bytes_max);
        let read =
            self.replica.reader.off_runtime(move |reader| reader.changes(after, &[], records_max, bytes_max));
        let batch = match read.await.map_err(|_| ExportError::Stopping)? {
            Ok(Changes { events, up_to }) => {
                let Some(batch) = export_lines::batch(self.replica.partition, &events, up_to) else {
                    self.reach(up_to);
                    return Ok(false);
                };
                batch
            }
            Err(ChangesError::Io(error)) => return Err(ExportError::Changes(error)),
            Err(ChangesError::OutOfRange { first_available: first }) => match self.after {
                Some(after) => self.lose(after, first),
                None => {
                    // It begins: what was before it existed is not for it.
                    self.after = Some(Position(first.0.saturating_sub(1)));
                    return Ok(true);
                }
            },
        };
        self.deliver(sink, &batch).await?;
        metric::exported(self.replica.partition.0, &self.exporter.name, batch.count as u64);
        self.untold = true;
        self.reach(batch.up_to);
        Ok(true)
    }

    fn lose(&self, after: Position, first: Position) -> Batch {
        let (partition, exporter) = (self.replica.partition, self.exporter.name.as_str());
        let lost = first.0.saturating_sub(after.0 + 1);
        tracing::error!(
            %partition, exporter, after = after.0, first_available = first.0,
            "changes of {lost} positions are not kept any more and will not be exported; raise data.changes_retained_max"
        );
        metric::export_lost(partition.0, exporter, lost);
        export_lines::gap(partition, after, first)
    }

    fn reach(&mut self, up_to: Position) {
        self.after = Some(up_to);
        self.all.reached.lock().insert((self.replica.partition, self.exporter.name.clone()), up_to);
    }

    async fn deliver(&self, sink: &Sink, batch: &Batch) -> Result<(), ExportError> {
        match sink {
            Sink::Http(endpoint) => Ok(endpoint.post(batch).await?),
            Sink::Files(files) => {
                let (files, batch) = (Arc::clone(files), batch.clone());
                let added = self.all.offload.run(move || files.lock().add(&batch)).await;
                added.map_err(|_| ExportError::Stopping)?.map_err(ExportError::Files)
            }
        }
    }

    fn due(&self) -> Instant {
        self.told_at.map_or_else(Instant::now, |at| at + Duration::from_millis(POSITION_INTERVAL_MS))
    }

    /// Writes the position to the partition's log. When that does not succeed, later; the worst is a repetition.
    async fn tell_if_due(&mut self) {
        let Some(after) = self.after.filter(|_| self.untold && Instant::now() >= self.due()) else { return };
        let told = pb::ExportedPosition { exporter: self.exporter.name.clone(), position: after.0 };
        let command = pb::Command { exported: vec![told], ..Default::default() };
        let mut known = false;
        let write = self.replica.write(vec![Command(command.encode_to_vec().into())], |_, answer| {
            known = matches!(answer, Answer::Outcome(_));
        });
        write.await;
        self.told_at = Some(Instant::now());
        self.untold = !known;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap() {
        let pauses: Vec<u128> = (0..9).map(|failures| backoff(failures, 1.0).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(backoff(60, 0.0).as_millis(), 5_000);
    }
}
