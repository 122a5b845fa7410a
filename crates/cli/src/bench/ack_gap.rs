//! The longest time for which writes waited without any being acknowledged. Pure: the clock is an argument.
//!
//! The time between two acknowledgements says nothing while nobody asks for one: so it counts only while at least
//! one request is under way. A request that fails leaves the clock running, since for its sender the wait goes on.

/// Tracks one partition, or everything. Times are microseconds of any common clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct AckGap {
    under_way: u32,
    waiting_since_us: Option<u64>,
    longest_us: u64,
    acknowledged: u64,
}

impl AckGap {
    pub fn sent(&mut self, now_us: u64) {
        self.under_way += 1;
        self.waiting_since_us.get_or_insert(now_us);
    }

    pub fn acknowledged(&mut self, now_us: u64) {
        self.note_wait(now_us);
        self.acknowledged += 1;
        self.under_way = self.under_way.saturating_sub(1);
        self.waiting_since_us = (self.under_way > 0).then_some(now_us);
    }

    pub fn failed(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Acknowledgements so far.
    pub fn count(&self) -> u64 {
        self.acknowledged
    }

    fn note_wait(&mut self, now_us: u64) {
        if let Some(since_us) = self.waiting_since_us {
            self.longest_us = self.longest_us.max(now_us.saturating_sub(since_us));
        }
    }

    /// The longest so far, with the wait that is still going on; what comes is measured anew.
    pub fn take_longest(&mut self, now_us: u64) -> u64 {
        self.note_wait(now_us);
        if let Some(since_us) = &mut self.waiting_since_us {
            *since_us = now_us;
        }
        std::mem::take(&mut self.longest_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_requests_is_no_gap() {
        let mut gap = AckGap::default();
        gap.sent(0);
        gap.acknowledged(5);
        gap.sent(1000);
        gap.acknowledged(1008);
        assert_eq!(gap.take_longest(5000), 8);
    }

    #[test]
    fn a_gap_runs_from_one_acknowledgement_to_the_next_while_somebody_waits() {
        let mut gap = AckGap::default();
        gap.sent(0);
        gap.sent(10);
        gap.acknowledged(12);
        gap.acknowledged(70);
        assert_eq!(gap.take_longest(70), 58);
    }

    #[test]
    fn a_failure_does_not_end_the_wait() {
        let mut gap = AckGap::default();
        gap.sent(0);
        gap.failed();
        gap.sent(100);
        gap.acknowledged(150);
        assert_eq!(gap.take_longest(150), 150);
    }

    #[test]
    fn a_wait_that_goes_on_counts_in_both_phases() {
        let mut gap = AckGap::default();
        gap.sent(0);
        assert_eq!(gap.take_longest(40), 40);
        gap.acknowledged(100);
        assert_eq!(gap.take_longest(100), 60);
        assert_eq!(gap.take_longest(200), 0);
    }
}
