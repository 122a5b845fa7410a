//! A state database in memory, for simulations: deterministic, without threads, and it forgets at a crash what was not
//! synced.
//!
//! [`SimulatedState`] is the disk that outlives a process; a [`StateStore`](crate::StateStore) opened on it is the
//! process's. As in fjall's journal, commits reach the disk in order, so a crash leaves what was synced and some of the
//! first commits after that.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::state_database::{RowIter, Rows, StateDatabase, StateView, UserKey, UserValue};

type Map = BTreeMap<UserKey, UserValue>;

#[derive(Debug, Default)]
struct Disk {
    incarnation: u64,
    /// As whoever reads sees it.
    rows: Arc<Map>,
    synced: Arc<Map>,
    /// Commits since `synced`.
    unsynced: Vec<Vec<(UserKey, Option<UserValue>)>>,
}

/// What of a state database outlives a crash. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedState(Arc<Mutex<Disk>>);

impl SimulatedState {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of commits that a crash could lose.
    pub fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// Crashes: of the unsynced commits the first `commits_kept` are left. Stores opened before work no more.
    pub fn crash(&self, commits_kept: usize) {
        let mut disk = self.0.lock();
        disk.incarnation += 1;
        let mut rows = (*disk.synced).clone();
        for commit in disk.unsynced.drain(..).take(commits_kept) {
            apply(&mut rows, commit);
        }
        disk.rows = Arc::new(rows);
        disk.synced = disk.rows.clone();
    }

    /// A database on this disk, until the next crash.
    pub(crate) fn open(&self) -> SimulatedDatabase {
        let incarnation = self.0.lock().incarnation;
        SimulatedDatabase { disk: self.0.clone(), incarnation }
    }
}

fn apply(rows: &mut Map, commit: Vec<(UserKey, Option<UserValue>)>) {
    for (key, value) in commit {
        match value {
            Some(value) => drop(rows.insert(key, value)),
            None => drop(rows.remove(&key)),
        }
    }
}

pub(crate) struct SimulatedDatabase {
    disk: Arc<Mutex<Disk>>,
    incarnation: u64,
}

impl SimulatedDatabase {
    fn alive<T>(&self, act: impl FnOnce(&mut Disk) -> T) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.incarnation != self.incarnation {
            return Err(io::Error::other("the machine crashed since this database was opened"));
        }
        Ok(act(&mut disk))
    }
}

impl StateDatabase for SimulatedDatabase {
    fn get(&self, key: &[u8]) -> io::Result<Option<UserValue>> {
        self.alive(|disk| disk.rows.get(key).cloned())
    }

    fn view(&self) -> io::Result<Box<dyn StateView>> {
        self.alive(|disk| Box::new(SimulatedView(disk.rows.clone())) as Box<dyn StateView>)
    }

    fn commit(&self, rows: Rows, sync: bool) -> io::Result<()> {
        self.alive(|disk| {
            apply(Arc::make_mut(&mut disk.rows), rows.0.clone());
            disk.unsynced.push(rows.0);
        })?;
        if sync { self.persist() } else { Ok(()) }
    }

    fn sync_ahead(&self) -> io::Result<()> {
        Ok(())
    }

    fn persist(&self) -> io::Result<()> {
        self.alive(|disk| {
            disk.synced = disk.rows.clone();
            disk.unsynced.clear();
        })
    }
}

struct SimulatedView(Arc<Map>);

impl StateView for SimulatedView {
    fn range(&self, from: &[u8], to: &[u8]) -> RowIter {
        let (rows, to) = (self.0.clone(), to.to_vec());
        let mut from = Bound::Included(from.to_vec());
        Box::new(std::iter::from_fn(move || {
            let start = from.as_ref().map(Vec::as_slice);
            let next = rows.range::<[u8], _>((start, Bound::Excluded(to.as_slice()))).next();
            let (key, value) = next.map(|(key, value)| (key.clone(), value.clone()))?;
            from = Bound::Excluded(key.to_vec());
            Some(Ok((key, value)))
        }))
    }
}
