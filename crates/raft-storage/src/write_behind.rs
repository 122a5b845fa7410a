//! Keeps what was committed last in memory and hands it to the database later, much at a time.
//!
//! Nothing needs the database to have a commit at once: the log replays whatever it lacks after a crash, and is not
//! purged before [`StateDatabase::persist`] has returned. So a commit is a few insertions into a hash table. Every
//! [`FLUSH_BYTES`] or [`FLUSH_AGE_MS_MAX`] all of it goes to the database as one commit, in key order, on a thread that
//! yields to others; applies do not wait for it, nor for what the database does meanwhile (a table added, a journal
//! synced), unless it falls behind by as much again.
//!
//! ```text
//! commit ─► active ─► flushing ─► database
//!    get ◄─ active ◄─ flushing ◄─ flushed last ◄─ database
//! ```
//!
//! # Order
//! A flush takes everything committed so far, and flushes follow each other. So the database always stands at some
//! earlier commit, whole, as it does without this layer. A view is made after a flush and holds everything.
//!
//! # A full disk
//! fjall takes no write any more once one has failed, so a flush waits until the disk has room for it. Meanwhile commits
//! gather up to the bound and then wait, views lay what is in memory over the database, and only what must become durable
//! waits. Nothing is lost when the broker stops then: the log has it.
//!
//! # Costs
//! A row that is written again before the flush (the row of a partition, what was answered to a client, a hot record)
//! reaches the database once. Measured with 256 clients and 12 partitions, inserting each batch into the database at
//! once and reading versions back from it took 40 % of a broker's processor time.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use metrics::{gauge, histogram};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::background_priority;
use crate::metric_definitions::{STATE_FLUSH_SECONDS, STATE_UNFLUSHED_BYTES};
use crate::offload::Offload;
use crate::state_database::{RowIter, Rows, StateDatabase, StateView, UserKey, UserValue};

/// Gathered before it is flushed. While a flush goes on as much again may gather; then commits wait for it.
const FLUSH_BYTES: usize = 8 << 20;
/// Nothing waits longer, so that a restart after a crash has little to apply again.
const FLUSH_AGE_MS_MAX: u64 = 1_000;
/// Room that must be left beside a flush, for the database's own tables.
const ROOM_BYTES_MIN: u64 = 8 << 20;
/// How often it is looked whether there is room again.
const ROOM_INTERVAL_MS: u64 = 50;
/// Memory of a row beside its bytes, about.
const ROW_BYTES: usize = 96;

type Map = HashMap<UserKey, Option<UserValue>>;

#[derive(Default)]
struct Pending {
    active: Map,
    active_bytes: usize,
    flushing: Option<Arc<Map>>,
    /// In the database already; kept because what was written last is what is read next.
    flushed: Option<Arc<Map>>,
    /// After a failed flush nothing is right any more: (kind, text), since `io::Error` cannot be cloned.
    failure: Option<(io::ErrorKind, String)>,
    closing: bool,
    /// A flush found the disk full.
    waits_for_room: bool,
    /// Nothing is waited for any more.
    in_haste: bool,
}

impl Pending {
    fn check(&self) -> io::Result<()> {
        match &self.failure {
            None => Ok(()),
            Some((kind, text)) => Err(io::Error::new(*kind, text.clone())),
        }
    }

    fn merge(&mut self, rows: Rows) {
        for (key, value) in rows.0 {
            let value_bytes = value.as_ref().map_or(0, |value| value.len());
            self.active_bytes += key.len() + value_bytes + ROW_BYTES;
            if let Some(replaced) = self.active.insert(key, value) {
                self.active_bytes = self
                    .active_bytes
                    .saturating_sub(ROW_BYTES + replaced.map_or(0, |replaced| replaced.len()));
            }
        }
    }

    /// `None` when only the database knows; `Some(None)` for a key that was removed.
    fn get(&self, key: &[u8]) -> Option<Option<UserValue>> {
        let held = [self.flushing.as_deref(), self.flushed.as_deref()].into_iter().flatten();
        std::iter::once(&self.active).chain(held).find_map(|map| map.get(key).cloned())
    }
}

struct Shared {
    inner: Arc<dyn StateDatabase>,
    pending: Mutex<Pending>,
    /// Held by whoever flushes: one at a time, in order.
    flush: Mutex<()>,
    /// The flusher's: enough has gathered, or the store closes.
    work: Condvar,
    /// The committers': a flush has ended.
    room: Condvar,
    /// Told the first flush that fails: there will be no other.
    failed: watch::Sender<Option<String>>,
}

impl Shared {
    /// Returns when everything committed before the call is in the database, if not yet durable there. Waits for room.
    fn flush(&self) -> io::Result<()> {
        let _one_at_a_time = self.flush.lock();
        self.flush_alone()
    }

    /// Does nothing and returns false where [`Shared::flush`] would wait for room.
    fn flush_unless_full(&self) -> io::Result<bool> {
        let pause = Duration::from_millis(ROOM_INTERVAL_MS);
        let _one_at_a_time = loop {
            if self.pending.lock().waits_for_room {
                return Ok(false);
            }
            if let Some(lock) = self.flush.try_lock_for(pause) {
                break lock;
            }
        };
        let bytes = self.pending.lock().active_bytes;
        // What is committed between the two looks is little.
        if bytes > 0 && !self.has_room(bytes) {
            return self.pending.lock().check().map(|()| false);
        }
        self.flush_alone().map(|()| true)
    }

    /// The caller holds the lock.
    fn flush_alone(&self) -> io::Result<()> {
        let (taken, bytes) = {
            let mut pending = self.pending.lock();
            pending.check()?;
            if pending.active.is_empty() {
                return Ok(());
            }
            let bytes = std::mem::take(&mut pending.active_bytes);
            let taken = Arc::new(std::mem::take(&mut pending.active));
            pending.flushing = Some(taken.clone());
            (taken, bytes)
        };
        let committed = self.wait_for_room(bytes).and_then(|()| {
            let began = std::time::Instant::now();
            let mut rows: Vec<_> = taken.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let committed = self.inner.commit(Rows(rows), false);
            histogram!(STATE_FLUSH_SECONDS).record(began.elapsed().as_secs_f64());
            committed
        });
        if let Err(error) = &committed {
            // First, so that nobody sees an apply fail without the reason.
            self.failed
                .send_if_modified(|known| known.is_none() && known.replace(error.to_string()).is_none());
        }
        let mut pending = self.pending.lock();
        match &committed {
            Ok(()) => pending.flushed = pending.flushing.take(),
            Err(error) => pending.failure = Some((error.kind(), error.to_string())),
        }
        drop(pending);
        self.room.notify_all();
        committed
    }

    /// Whether the disk has room for so many bytes twice, in the journal and in a table.
    fn has_room(&self, bytes: usize) -> bool {
        // What the system does not tell, the write will.
        self.inner.free_bytes().is_none_or(|free| free >= 2 * bytes as u64 + ROOM_BYTES_MIN)
    }

    fn wait_for_room(&self, bytes: usize) -> io::Result<()> {
        let mut told = false;
        while !self.has_room(bytes) {
            let mut pending = self.pending.lock();
            if pending.closing || pending.in_haste {
                let text = "the disk is full; what the state database lacks is applied again from the log";
                return Err(io::Error::new(io::ErrorKind::StorageFull, text));
            }
            pending.waits_for_room = true;
            drop(pending);
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    bytes,
                    "the disk is full: what is applied goes to the state database when there is room again"
                );
            }
            std::thread::sleep(Duration::from_millis(ROOM_INTERVAL_MS));
        }
        self.pending.lock().waits_for_room = false;
        Ok(())
    }

    /// The database with what is only in memory laid over it.
    fn overlaid_view(&self) -> io::Result<Box<dyn StateView>> {
        let pending = self.pending.lock();
        pending.check()?;
        // Under the lock, so that it holds nothing committed later.
        let below = self.inner.view()?;
        let flushing = pending.flushing.iter().flat_map(|map| map.iter());
        let above =
            flushing.chain(&pending.active).map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Box::new(OverlaidView { below, above }))
    }

    fn run_flusher(&self) {
        background_priority::lower_this_thread();
        loop {
            let mut pending = self.pending.lock();
            if pending.failure.is_some() || (pending.closing && pending.active.is_empty()) {
                return;
            }
            if !pending.closing && pending.active_bytes < FLUSH_BYTES {
                self.work.wait_for(&mut pending, Duration::from_millis(FLUSH_AGE_MS_MAX));
            }
            gauge!(STATE_UNFLUSHED_BYTES).set(pending.active_bytes as f64);
            drop(pending);
            if let Err(error) = self.flush() {
                tracing::error!(%error, "the state database takes no more writes; restart the broker");
            }
        }
    }
}

/// Rows over a view: they replace and remove what it has.
struct OverlaidView {
    below: Box<dyn StateView>,
    above: BTreeMap<UserKey, Option<UserValue>>,
}

impl StateView for OverlaidView {
    fn range(&self, from: &[u8], to: &[u8]) -> RowIter {
        let mut below = self.below.range(from, to).peekable();
        if from >= to {
            return Box::new(below);
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let above = self.above.range::<[u8], _>(range);
        let above: Vec<_> = above.map(|(key, value)| (key.clone(), value.clone())).collect();
        let mut above = above.into_iter().peekable();
        Box::new(std::iter::from_fn(move || {
            loop {
                match (above.peek(), below.peek()) {
                    (None, _) | (_, Some(Err(_))) => return below.next(),
                    (Some((over, _)), Some(Ok((under, _)))) if over > under => return below.next(),
                    (Some((over, _)), Some(Ok((under, _)))) if over == under => drop(below.next()),
                    _ => {}
                }
                if let Some((key, Some(value))) = above.next() {
                    return Some(Ok((key, value)));
                }
            }
        }))
    }
}

/// A database behind a memory of its own. Dropping it flushes.
pub(crate) struct WriteBehind {
    shared: Arc<Shared>,
    /// `None` in a simulation, where whoever commits too much flushes.
    flusher: Option<JoinHandle<()>>,
}

impl WriteBehind {
    /// `failed` is told why the database takes no more writes.
    pub(crate) fn start(
        inner: Arc<dyn StateDatabase>,
        offload: Offload,
        failed: watch::Sender<Option<String>>,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            inner,
            pending: Mutex::default(),
            flush: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            failed,
        });
        let flusher = match offload {
            Offload::Threads => {
                let shared = shared.clone();
                let run = move || shared.run_flusher();
                Some(std::thread::Builder::new().name("state-flusher".into()).spawn(run)?)
            }
            Offload::InPlace => None,
        };
        Ok(Self { shared, flusher })
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.shared.pending.lock().closing = true;
        self.shared.work.notify_all();
        match self.flusher.take() {
            Some(flusher) => drop(flusher.join()),
            // Fails when the simulated machine has crashed since, and then there is nothing to keep.
            None => drop(self.shared.flush()),
        }
    }
}

impl StateDatabase for WriteBehind {
    fn get(&self, key: &[u8]) -> io::Result<Option<UserValue>> {
        let held = self.shared.pending.lock().get(key);
        match held {
            Some(value) => Ok(value),
            // What left memory meanwhile is in the database.
            None => self.shared.inner.get(key),
        }
    }

    fn view(&self) -> io::Result<Box<dyn StateView>> {
        if self.shared.flush_unless_full()? { self.shared.inner.view() } else { self.shared.overlaid_view() }
    }

    fn earlier_view(&self) -> io::Result<Box<dyn StateView>> {
        self.shared.inner.view()
    }

    fn commit(&self, rows: Rows, sync: bool) -> io::Result<()> {
        let full = {
            let mut pending = self.shared.pending.lock();
            pending.check()?;
            while self.flusher.is_some() && pending.active_bytes >= FLUSH_BYTES && pending.flushing.is_some()
            {
                self.shared.room.wait(&mut pending);
                pending.check()?;
            }
            pending.merge(rows);
            pending.active_bytes >= FLUSH_BYTES
        };
        if sync {
            return self.persist();
        }
        match (full, &self.flusher) {
            (false, _) => Ok(()),
            (true, Some(_)) => {
                self.shared.work.notify_one();
                Ok(())
            }
            (true, None) => self.shared.flush(),
        }
    }

    fn sync_ahead(&self) -> io::Result<()> {
        self.shared.inner.sync_ahead()
    }

    fn persist(&self) -> io::Result<()> {
        self.shared.flush()?;
        self.shared.inner.persist()
    }

    fn free_bytes(&self) -> Option<u64> {
        self.shared.inner.free_bytes()
    }

    fn stop_waiting(&self) {
        self.shared.pending.lock().in_haste = true;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::simulated_state::SimulatedState;

    fn database(disk: &SimulatedState, offload: Offload) -> WriteBehind {
        WriteBehind::start(Arc::new(disk.open()), offload, watch::Sender::new(None)).unwrap()
    }

    fn rows(rows: &[(&str, Option<&str>)]) -> Rows {
        let mut all = Rows::default();
        for (key, value) in rows {
            match value {
                Some(value) => all.insert(key.as_bytes(), value.as_bytes()),
                None => all.remove(key.as_bytes()),
            }
        }
        all
    }

    fn get(database: &WriteBehind, key: &str) -> Option<String> {
        let value = database.get(key.as_bytes()).unwrap();
        value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    fn all(view: &dyn StateView) -> Vec<String> {
        view.range(b"", b"~").map(|row| String::from_utf8(row.unwrap().0.to_vec()).unwrap()).collect()
    }

    #[test]
    fn the_newest_row_is_read_wherever_it_is() {
        let disk = SimulatedState::new();
        let database = database(&disk, Offload::InPlace);
        database.commit(rows(&[("a", Some("1")), ("b", Some("1"))]), false).unwrap();
        assert_eq!(disk.unsynced(), 0, "nothing has reached the database");
        assert_eq!(get(&database, "a").as_deref(), Some("1"));
        database.persist().unwrap();
        database.commit(rows(&[("a", Some("2")), ("b", None)]), false).unwrap();
        assert_eq!(get(&database, "a").as_deref(), Some("2"));
        assert_eq!(get(&database, "b"), None, "removed here, though the database still has it");
        assert_eq!(all(&*database.view().unwrap()), ["a"]);
        assert_eq!(get(&database, "c"), None);
    }

    #[test]
    fn a_view_holds_every_commit_before_it_and_none_after() {
        let disk = SimulatedState::new();
        let database = database(&disk, Offload::InPlace);
        database.commit(rows(&[("b", Some("1"))]), false).unwrap();
        let view = database.view().unwrap();
        database.commit(rows(&[("a", Some("1")), ("b", None)]), false).unwrap();
        assert_eq!(all(&*view), ["b"]);
        assert_eq!(all(&*database.earlier_view().unwrap()), ["b"], "not flushed for it");
        assert_eq!(all(&*database.view().unwrap()), ["a"]);
    }

    #[test]
    fn a_crash_leaves_whole_commits_and_all_that_was_persisted() {
        let disk = SimulatedState::new();
        let database = database(&disk, Offload::InPlace);
        database.commit(rows(&[("a", Some("1"))]), false).unwrap();
        database.commit(rows(&[("b", Some("1"))]), true).unwrap();
        database.commit(rows(&[("c", Some("1"))]), false).unwrap();
        disk.crash(0);
        assert_eq!(all(&*disk.open().view().unwrap()), ["a", "b"]);
        assert!(database.persist().is_err(), "that process is gone");
        assert!(database.commit(rows(&[("d", None)]), false).is_err(), "and writes no more");
    }

    #[test]
    fn dropping_it_hands_everything_over() {
        let disk = SimulatedState::new();
        for offload in [Offload::InPlace, Offload::Threads] {
            let database = database(&disk, offload);
            database.commit(rows(&[("a", Some("1"))]), false).unwrap();
            drop(database);
            assert_eq!(all(&*disk.open().view().unwrap()), ["a"]);
            disk.crash(0);
        }
    }

    #[test]
    fn more_than_memory_may_hold_is_flushed_while_commits_go_on() {
        let disk = SimulatedState::new();
        let database = database(&disk, Offload::Threads);
        let value = "v".repeat(FLUSH_BYTES / 16);
        for number in 0..64 {
            database.commit(rows(&[(&format!("k{number:02}"), Some(&value))]), false).unwrap();
            let pending = database.shared.pending.lock();
            assert!(pending.active_bytes < 2 * FLUSH_BYTES, "{}", pending.active_bytes);
        }
        assert!(disk.unsynced() > 0, "some of it is in the database");
        assert_eq!(all(&*database.view().unwrap()).len(), 64);
    }

    /// A database on a disk with so many free bytes that refuses writes when there are none.
    struct Small {
        database: Box<dyn StateDatabase>,
        free_bytes: Arc<AtomicU64>,
    }

    impl StateDatabase for Small {
        fn get(&self, key: &[u8]) -> io::Result<Option<UserValue>> {
            self.database.get(key)
        }

        fn view(&self) -> io::Result<Box<dyn StateView>> {
            self.database.view()
        }

        fn commit(&self, rows: Rows, sync: bool) -> io::Result<()> {
            match self.free_bytes.load(Relaxed) {
                0 => Err(io::ErrorKind::StorageFull.into()),
                _ => self.database.commit(rows, sync),
            }
        }

        fn sync_ahead(&self) -> io::Result<()> {
            self.database.sync_ahead()
        }

        fn persist(&self) -> io::Result<()> {
            self.database.persist()
        }

        fn free_bytes(&self) -> Option<u64> {
            Some(self.free_bytes.load(Relaxed))
        }
    }

    /// On a disk that has no room any more after `a`, `b` and `d` were written.
    fn on_a_full_disk(
        disk: &SimulatedState,
    ) -> (WriteBehind, Arc<AtomicU64>, watch::Receiver<Option<String>>) {
        let free_bytes = Arc::new(AtomicU64::new(u64::MAX));
        let small = Small { database: Box::new(disk.open()), free_bytes: free_bytes.clone() };
        let (failed, known) = watch::channel(None);
        let database = WriteBehind::start(Arc::new(small), Offload::Threads, failed).unwrap();
        database.commit(rows(&[("a", Some("1")), ("b", Some("1")), ("d", Some("1"))]), true).unwrap();
        free_bytes.store(0, Relaxed);
        (database, free_bytes, known)
    }

    #[test]
    fn on_a_full_disk_flushes_wait_and_views_lay_memory_over_the_database() {
        let disk = SimulatedState::new();
        let (database, free_bytes, failed) = on_a_full_disk(&disk);
        database.commit(rows(&[("b", None), ("c", Some("2")), ("e", Some("2"))]), false).unwrap();
        assert_eq!(all(&*database.view().unwrap()), ["a", "c", "d", "e"]);
        std::thread::scope(|scope| {
            let persisting = scope.spawn(|| database.persist());
            while !database.shared.pending.lock().waits_for_room {
                std::thread::yield_now();
            }
            // Beside what waits; and what is in memory replaces what is below.
            database.commit(rows(&[("a", Some("3")), ("c", None)]), false).unwrap();
            let view = database.view().unwrap();
            assert_eq!(all(&*view), ["a", "d", "e"]);
            assert_eq!(&*view.range(b"a", b"b").next().unwrap().unwrap().1, b"3");
            assert_eq!(view.range(b"b", b"d").count(), 0);
            assert_eq!(all(&*disk.open().view().unwrap()), ["a", "b", "d"], "the database was left alone");
            assert!(!persisting.is_finished());
            free_bytes.store(u64::MAX, Relaxed);
            persisting.join().unwrap().unwrap();
        });
        assert_eq!(all(&*database.view().unwrap()), ["a", "d", "e"]);
        assert_eq!(all(&*disk.open().view().unwrap()), ["a", "d", "e"]);
        assert_eq!(*failed.borrow(), None);
    }

    #[test]
    fn who_stops_on_a_full_disk_waits_for_nothing() {
        let disk = SimulatedState::new();
        let (database, _, _) = on_a_full_disk(&disk);
        database.commit(rows(&[("c", Some("2"))]), false).unwrap();
        database.stop_waiting();
        assert_eq!(database.persist().unwrap_err().kind(), io::ErrorKind::StorageFull);
        drop(database);
        let (database, _, _) = on_a_full_disk(&disk);
        database.commit(rows(&[("c", Some("2"))]), false).unwrap();
        drop(database);
        assert_eq!(all(&*disk.open().view().unwrap()), ["a", "b", "d"]);
    }

    #[test]
    fn a_flush_that_fails_is_told() {
        let disk = SimulatedState::new();
        let (failed, known) = watch::channel(None);
        let database = WriteBehind::start(Arc::new(disk.open()), Offload::Threads, failed).unwrap();
        disk.crash(0);
        database.commit(rows(&[("a", Some("1"))]), false).unwrap();
        assert!(database.persist().is_err());
        assert!(known.borrow().is_some());
    }
}
