//! A bound on bytes held at once: take a share, and drop it to give it back. Never waits.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be held, and how many are.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    held: AtomicUsize,
    pub(crate) bytes_max: usize,
}

/// A share of a budget.
#[derive(Debug)]
pub(crate) struct HeldBytes<'a> {
    budget: &'a ByteBudget,
    bytes: usize,
}

impl ByteBudget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { held: AtomicUsize::new(0), bytes_max }
    }

    /// A share of `bytes`, when there is room for all of them.
    pub(crate) fn take(&self, bytes: usize) -> Option<HeldBytes<'_>> {
        // Not made unless there is room: dropping it would give back what was never taken.
        self.add(bytes).then(|| HeldBytes { budget: self, bytes })
    }

    /// Counts `bytes` as held when there is room for all of them; whoever holds them gives them back.
    #[must_use]
    pub(crate) fn add(&self, bytes: usize) -> bool {
        let add = |held: usize| held.checked_add(bytes).filter(|total| *total <= self.bytes_max);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    /// Counts `bytes` as held no longer.
    pub(crate) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_what_is_dropped_is_free_again() {
        let budget = ByteBudget::new(10);
        let first = budget.take(6).unwrap();
        assert!(budget.take(5).is_none());
        let second = budget.take(4).unwrap();
        assert!(budget.take(1).is_none());
        drop(first);
        assert!(budget.take(6).is_some());
        drop(second);
        assert!(budget.take(10).is_some());
        assert!(budget.take(usize::MAX).is_none());
    }
}
