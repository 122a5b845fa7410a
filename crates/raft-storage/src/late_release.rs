//! Keeps what fjall is done with for a moment longer, so that it is freed here.
//!
//! fjall drops old versions of its tree while it holds the lock that every read and write takes (3.1.13,
//! `SuperVersions::maintenance`). With the last version that has them go a memtable, which takes tens of milliseconds to
//! free, and files of tables and blobs, which are deleted; and the thread that does it may be preempted meanwhile. All
//! partitions of the broker waited for 60 to 80 ms, each time a memtable had become a table. What is held here as well
//! costs fjall nothing to drop.

use std::collections::VecDeque;
use std::sync::Arc;

use fjall::{AbstractTree, Keyspace};
use parking_lot::Mutex;

/// Shares what fjall holds, until the first sweep after fjall has let go of it.
#[derive(Default)]
pub(crate) struct LateRelease(Mutex<VecDeque<Box<dyn Shared>>>);

/// A memtable, and the version of the tree when it was ended: its tables and blobs.
trait Shared: Send + Sync {
    /// Whether nobody else has the memtable, so that every version with it is gone.
    fn is_ours_alone(&self) -> bool;
}

impl<M: Send + Sync, V: Send + Sync> Shared for (Arc<M>, V) {
    fn is_ours_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl LateRelease {
    /// Holds the newest memtable, which is about to be ended.
    pub(crate) fn hold_newest(&self, keyspace: &Keyspace) {
        let newest = (keyspace.tree.active_memtable(), keyspace.tree.current_version());
        self.0.lock().push_back(Box::new(newest));
    }

    /// Frees what fjall has let go of. Takes long when there is something.
    pub(crate) fn sweep(&self) {
        while let Some(shared) = self.pop_ours_alone() {
            drop(shared);
        }
    }

    fn pop_ours_alone(&self) -> Option<Box<dyn Shared>> {
        let mut held = self.0.lock();
        held.front().filter(|oldest| oldest.is_ours_alone())?;
        held.pop_front()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
