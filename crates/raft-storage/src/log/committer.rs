//! The committer: the only one who writes the log.
//!
//! Each round takes everything that gathered, writes it with one call, syncs once, and then answers everybody who
//! waits for it. A round begins as soon as the one before has ended and something is queued; there is no timer.
//! The same rounds are driven by a thread of their own, or by a task where everything must run on the caller's
//! runtime (simulation).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use metrics::{counter, gauge, histogram};

use super::log_core::{Batch, LogCore, Waiter};
use super::log_error::LogFailure;
use super::segment;
use super::shared_log::LogShared;
use crate::disk::DiskFile;
use crate::metric_definitions as names;

/// A log whose committer has to be run. Dropping it stops the log, so that whoever waits is told also when the
/// committer's task is dropped, before its first step even, or its thread unwinds.
pub struct Committer(pub Arc<LogShared>);

impl Drop for Committer {
    fn drop(&mut self) {
        self.0.committer_ended();
    }
}

/// Runs rounds on the calling thread until the log is closed or has failed.
pub fn run_on_thread(committer: Committer) {
    let log = &*committer.0;
    loop {
        if run_round(log) {
            continue;
        }
        let mut core = log.core.lock();
        if is_over(&core) {
            break;
        }
        if !core.has_batch() {
            log.work_for_thread.wait(&mut core);
        }
    }
}

/// Runs rounds on the current task until the log is closed or has failed.
pub async fn run_on_task(committer: Committer) {
    let log = &*committer.0;
    loop {
        let worked = match take(log) {
            Some(batch) => {
                #[cfg(feature = "known-bugs")]
                let mut batch = batch;
                let mut outcome = write(log, &batch);
                if outcome.is_ok() {
                    #[cfg(feature = "known-bugs")]
                    if crate::known_bugs::KnownBug::AcknowledgeBeforeSync.is_awake() {
                        complete(std::mem::take(&mut batch.waiters));
                    }
                    let takes = log.disk.sync_takes();
                    if !takes.is_zero() {
                        tokio::time::sleep(takes).await;
                    }
                    outcome = sync(log, &batch);
                }
                finish(log, batch, outcome).map(|()| true)
            }
            None => delete_oldest(log),
        };
        if end_round(log, worked) {
            // Others of this runtime may queue for the next batch meanwhile.
            tokio::task::yield_now().await;
            continue;
        }
        if is_over(&log.core.lock()) {
            break;
        }
        log.work_for_task.notified().await;
    }
}

fn is_over(core: &LogCore) -> bool {
    core.failure.is_some() || (core.closing && !core.has_batch())
}

/// One round; false when there was nothing to do.
fn run_round(log: &LogShared) -> bool {
    let worked = match take(log) {
        Some(batch) => {
            let outcome = write(log, &batch).and_then(|()| sync(log, &batch));
            finish(log, batch, outcome).map(|()| true)
        }
        None => delete_oldest(log),
    };
    end_round(log, worked)
}

fn end_round(log: &LogShared, worked: Result<bool, LogFailure>) -> bool {
    let outcome = worked.and_then(|worked| Ok(log.rewrite_laggards()? || worked));
    outcome.unwrap_or_else(|failure| {
        log.fail(failure);
        false
    })
}

fn take(log: &LogShared) -> Option<Batch> {
    let mut core = log.core.lock();
    if core.failure.is_some() || !core.has_batch() {
        return None;
    }
    let batch = core.take_batch();
    drop(core);
    log.room.notify_waiters();
    Some(batch)
}

/// Answers whoever waits for the batch, and creates and deletes the segments that follow from it.
fn finish(log: &LogShared, mut batch: Batch, durable: Result<(), LogFailure>) -> Result<(), LogFailure> {
    let waiters = std::mem::take(&mut batch.waiters);
    match durable {
        Ok(()) => complete(waiters),
        Err(failure) => {
            let failure = log.fail(failure);
            for waiter in waiters {
                waiter.complete(&Err(failure.clone()));
            }
            return Ok(());
        }
    }
    let created = match &batch.rotation {
        Some(rotation) => {
            let path = segment::path(&log.options.directory, rotation.sequence);
            let file =
                segment::create(&*log.disk, &log.options.directory, rotation.sequence, &rotation.start);
            Some((rotation.sequence, file.map_err(|e| failure_of("create", path, &e))?))
        }
        None => None,
    };
    let segments = {
        let mut core = log.core.lock();
        if let Some((sequence, file)) = created {
            core.segments.entry(sequence).or_default().file = Some(file);
        }
        core.batch_durable(batch.number, batch.bytes);
        core.segments.len()
    };
    gauge!(names::LOG_SEGMENTS).set(segments as f64);
    batch.deletable.map_or(Ok(()), |sequence| delete(log, sequence))
}

fn complete(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter.complete(&Ok(()));
    }
}

fn path_of(log: &LogShared, batch: &Batch) -> PathBuf {
    segment::path(&log.options.directory, batch.segment)
}

fn file_of<'a>(log: &LogShared, batch: &'a Batch) -> Result<&'a Arc<dyn DiskFile>, LogFailure> {
    batch.file.as_ref().ok_or_else(|| LogFailure {
        action: "write",
        path: path_of(log, batch),
        reason: "the segment was never created".into(),
    })
}

fn write(log: &LogShared, batch: &Batch) -> Result<(), LogFailure> {
    if batch.bytes.is_empty() {
        return Ok(());
    }
    let written = file_of(log, batch)?.write_all_at(&batch.bytes, batch.offset);
    written.map_err(|e| failure_of("write", path_of(log, batch), &e))
}

fn sync(log: &LogShared, batch: &Batch) -> Result<(), LogFailure> {
    if batch.bytes.is_empty() {
        return Ok(());
    }
    let started = Instant::now();
    file_of(log, batch)?.sync().map_err(|e| failure_of("sync", path_of(log, batch), &e))?;
    histogram!(names::LOG_FSYNC_SECONDS).record(started.elapsed().as_secs_f64());
    histogram!(names::LOG_BATCH_BYTES).record(batch.bytes.len() as f64);
    histogram!(names::LOG_BATCH_FRAMES).record(batch.frames as f64);
    counter!(names::LOG_APPENDED_BYTES).increment(batch.bytes.len() as u64);
    Ok(())
}

/// While nothing is queued, what is in memory is also durable, so a segment not needed can go.
fn delete_oldest(log: &LogShared) -> Result<bool, LogFailure> {
    let sequence = {
        let mut core = log.core.lock();
        if core.failure.is_some() || core.has_batch() {
            return Ok(false);
        }
        core.take_deletable()
    };
    let Some(sequence) = sequence else { return Ok(false) };
    delete(log, sequence)?;
    gauge!(names::LOG_SEGMENTS).set(log.core.lock().segments.len() as f64);
    Ok(true)
}

/// Deletes one segment durably before the next one may go, so that a crash leaves no gap between segments.
fn delete(log: &LogShared, sequence: u64) -> Result<(), LogFailure> {
    let directory = &log.options.directory;
    let path = segment::path(directory, sequence);
    let removed = log.disk.remove(&path).and_then(|()| log.disk.sync_directory(directory));
    removed.map_err(|e| failure_of("delete", path, &e))
}

fn failure_of(action: &'static str, path: PathBuf, error: &std::io::Error) -> LogFailure {
    LogFailure { action, path, reason: error.to_string() }
}
