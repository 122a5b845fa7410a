//! The committer: the only one who writes the log.
//!
//! Each round takes everything that gathered, writes it with one call, syncs once, and then answers everybody who
//! waits for it. A round begins as soon as the one before has ended and something is queued; there is no timer.
//! The same rounds are driven by a thread of their own, or by a task where everything must run on the caller's
//! runtime (simulation).
//!
//! On a full disk the batch waits: what was written of it is cut off again and it is tried until there is room. That is safe
//! because nothing of it was synced or acknowledged. Every other failure, and any failed sync, ends the log.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, gauge, histogram};

use super::batches;
use super::log_core::{Batch, LogCore, Waiter};
use super::log_error::LogFailure;
use super::segment;
use super::shared_log::LogShared;
use crate::disk::{DiskFile, is_full};
use crate::metric_definitions as names;

/// How often a batch that found no room is tried again.
const FULL_RETRY_MS: u64 = 50;
const PAGE_BYTES: u64 = 4096;

/// What a round came to.
enum Round {
    Worked,
    /// There was nothing to do.
    Idle,
    /// The disk is full.
    NoRoom,
}

/// A batch on its way.
struct Underway {
    batch: Batch,
    durable: bool,
}

/// What the committer remembers from round to round.
#[derive(Default)]
struct Progress {
    /// The batch that waits for room on the disk.
    underway: Option<Underway>,
    room: Room,
}

/// How far the segment being written was given room.
#[derive(Default)]
struct Room {
    segment: u64,
    end: u64,
}

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
    let mut progress = Progress::default();
    loop {
        match run_round(log, &mut progress) {
            Round::Worked => continue,
            Round::NoRoom => {
                std::thread::sleep(Duration::from_millis(FULL_RETRY_MS));
                continue;
            }
            Round::Idle => {}
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
    let mut progress = Progress::default();
    loop {
        let outcome = match next(log, &mut progress.underway) {
            Some(next) => {
                #[cfg(feature = "known-bugs")]
                let mut next = next;
                let mut written = write(log, &next, &mut progress.room);
                if let Ok(true) = written {
                    #[cfg(feature = "known-bugs")]
                    if crate::known_bugs::KnownBug::AcknowledgeBeforeSync.is_awake() {
                        complete(std::mem::take(&mut next.batch.waiters));
                    }
                    let takes = log.disk.sync_takes();
                    if !next.durable && !takes.is_zero() {
                        tokio::time::sleep(takes).await;
                    }
                    written = sync(log, &next).map(|()| true);
                }
                finish(log, next, written, &mut progress.underway)
            }
            None => delete_oldest(log),
        };
        match end_round(log, outcome, &progress.underway) {
            Round::Worked => {
                // Others of this runtime may queue for the next batch meanwhile.
                tokio::task::yield_now().await;
                continue;
            }
            Round::NoRoom => {
                tokio::time::sleep(Duration::from_millis(FULL_RETRY_MS)).await;
                continue;
            }
            Round::Idle => {}
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

/// One round, with the batch that is still under way from the one before, if any.
fn run_round(log: &LogShared, progress: &mut Progress) -> Round {
    let outcome = match next(log, &mut progress.underway) {
        Some(next) => {
            let written = write(log, &next, &mut progress.room).and_then(|written| {
                if written {
                    sync(log, &next)?;
                }
                Ok(written)
            });
            finish(log, next, written, &mut progress.underway)
        }
        None => delete_oldest(log),
    };
    end_round(log, outcome, &progress.underway)
}

fn next(log: &LogShared, underway: &mut Option<Underway>) -> Option<Underway> {
    underway.take().or_else(|| take(log).map(|batch| Underway { batch, durable: false }))
}

fn end_round(log: &LogShared, outcome: Result<bool, LogFailure>, underway: &Option<Underway>) -> Round {
    let full = underway.is_some();
    log.full.send_if_modified(|known| std::mem::replace(known, full) != full);
    if full {
        return Round::NoRoom;
    }
    match outcome.and_then(|worked| Ok(log.rewrite_laggards()? || worked)) {
        Ok(true) => Round::Worked,
        Ok(false) => Round::Idle,
        Err(failure) => {
            log.fail(failure);
            Round::Idle
        }
    }
}

fn take(log: &LogShared) -> Option<Batch> {
    let mut core = log.core.lock();
    if core.failure.is_some() || !core.has_batch() {
        return None;
    }
    let mut batch = core.take_batch();
    drop(core);
    batches::seal(&mut batch.bytes, batch.number, log.salt);
    log.room.notify_waiters();
    Some(batch)
}

/// Answers whoever waits for the batch, and creates and deletes the segments that follow from it. What finds no room is
/// under way again. `written` is false when the batch itself found none.
fn finish(
    log: &LogShared,
    mut next: Underway,
    written: Result<bool, LogFailure>,
    underway: &mut Option<Underway>,
) -> Result<bool, LogFailure> {
    let waiters = match written {
        Ok(true) => std::mem::take(&mut next.batch.waiters),
        Ok(false) => {
            *underway = Some(next);
            return Ok(true);
        }
        Err(failure) => {
            let failure = log.fail(failure);
            for waiter in std::mem::take(&mut next.batch.waiters) {
                waiter.complete(&Err(failure.clone()));
            }
            return Ok(true);
        }
    };
    let end = next.batch.offset + next.batch.bytes.len() as u64;
    log.core.lock().durable_until = (next.batch.segment, end);
    complete(waiters);
    next.durable = true;
    let created = match &next.batch.rotation {
        Some(rotation) => {
            let directory = &log.options.directory;
            let failed =
                |e: std::io::Error| failure_of("create", segment::path(directory, rotation.sequence), &e);
            match segment::prepare(&*log.disk, directory, rotation.sequence, &rotation.start) {
                Ok(file) => {
                    segment::publish(&*log.disk, directory, rotation.sequence).map_err(failed)?;
                    Some((rotation.sequence, file))
                }
                Err(error) if is_full(&error) && may_wait(log) => {
                    *underway = Some(next);
                    return Ok(true);
                }
                Err(error) => return Err(failed(error)),
            }
        }
        None => None,
    };
    let batch = next.batch;
    let segments = {
        let mut core = log.core.lock();
        if let Some((sequence, file)) = created {
            core.segments.entry(sequence).or_default().file = Some(file);
        }
        core.batch_durable(batch.number, batch.bytes);
        core.segments.len()
    };
    gauge!(names::LOG_SEGMENTS).set(segments as f64);
    batch.deletable.map_or(Ok(()), |sequence| delete(log, sequence)).map(|()| true)
}

fn complete(waiters: Vec<Waiter>) {
    for waiter in waiters {
        waiter.complete(&Ok(()));
    }
}

/// A log that is being closed waits for nothing.
fn may_wait(log: &LogShared) -> bool {
    !log.core.lock().closing
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

/// Writes a batch; `false` when it has to wait for room, and then nothing of it is left.
fn write(
    log: &LogShared,
    Underway { batch, durable }: &Underway,
    room: &mut Room,
) -> Result<bool, LogFailure> {
    if *durable || batch.bytes.is_empty() {
        return Ok(true);
    }
    let file = file_of(log, batch)?;
    match file.write_all_at(&batch.bytes, batch.offset) {
        Ok(()) => room.ahead_of(log, file, batch).map(|()| true),
        Err(error) if is_full(&error) && may_wait(log) => {
            *room = Room::default();
            let cut = file.set_length(batch.offset);
            cut.map(|()| false).map_err(|e| failure_of("cut", path_of(log, batch), &e))
        }
        Err(error) => Err(failure_of("write", path_of(log, batch), &error)),
    }
}

impl Room {
    /// Sees to it that there is room behind a batch that was written. It is only a matter of speed: where the disk has none left,
    /// batches lengthen the file.
    fn ahead_of(
        &mut self,
        log: &LogShared,
        file: &Arc<dyn DiskFile>,
        batch: &Batch,
    ) -> Result<(), LogFailure> {
        let failed = |e: std::io::Error| failure_of("give room to", path_of(log, batch), &e);
        let step = log.options.room_bytes;
        let end = batch.offset + batch.bytes.len() as u64;
        if step == 0 {
            return Ok(());
        }
        if self.segment != batch.segment {
            *self = Self { segment: batch.segment, end: file.length().map_err(failed)? };
        }
        if end < self.end {
            return Ok(());
        }
        let wanted = (end / step + 1) * step;
        match write_zeros(&**file, end..wanted) {
            Ok(()) => {}
            Err(error) if is_full(&error) => file.set_length(end).map_err(failed)?,
            Err(error) => return Err(failed(error)),
        }
        // Also where there was none: it is asked for again a step later.
        self.end = wanted;
        Ok(())
    }
}

/// Page by page: what is written at once may become one piece of the system's cache, all of which counts as written again
/// whenever a batch changes a part.
fn write_zeros(file: &dyn DiskFile, range: Range<u64>) -> std::io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        let next = ((at / PAGE_BYTES + 1) * PAGE_BYTES).min(range.end);
        file.write_all_at(&[0; PAGE_BYTES as usize][..(next - at) as usize], at)?;
        at = next;
    }
    Ok(())
}

fn sync(log: &LogShared, Underway { batch, durable }: &Underway) -> Result<(), LogFailure> {
    if *durable || batch.bytes.is_empty() {
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
