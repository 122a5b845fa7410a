//! How long to wait before the next attempt: doubling, capped, with jitter. Pure: chance is an argument.

use std::time::Duration;

/// Wait before the second attempt, before jitter.
pub const BACKOFF_INITIAL: Duration = Duration::from_millis(5);
/// No wait grows beyond this, unless a gateway asks for more.
pub const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// A gateway that asks for a longer pause than this gets this.
pub(crate) const RETRY_DELAY_MAX: Duration = Duration::from_secs(5);

/// The waits of one call's attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Starts at `initial` and never exceeds `max`.
    #[must_use]
    pub fn new(initial: Duration, max: Duration) -> Self {
        Self { next: initial.min(max), max }
    }

    /// The next wait. `chance` in 0..1 spreads it over the upper half of the step, so that clients that failed
    /// together do not return together; `asked` is what the gateway asked for, a lower bound.
    pub fn next_delay(&mut self, chance: f64, asked: Option<Duration>) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        let jittered = step.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        match asked {
            Some(asked) => asked.min(RETRY_DELAY_MAX) + jittered.min(asked.min(RETRY_DELAY_MAX)) / 4,
            None => jittered,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(BACKOFF_INITIAL, BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn waits_double_up_to_the_cap() {
        let mut backoff = Backoff::new(MS(10), MS(100));
        let waits: Vec<u128> = (0..6).map(|_| backoff.next_delay(1.0, None).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 100, 100]);
    }

    #[test]
    fn a_gateways_request_is_a_lower_bound_and_itself_bounded() {
        let mut backoff = Backoff::new(MS(10), MS(100));
        assert!(backoff.next_delay(0.0, Some(MS(300))) >= MS(300));
        assert!(backoff.next_delay(1.0, Some(Duration::from_secs(3600))) <= RETRY_DELAY_MAX.mul_f64(1.25));
    }

    proptest! {
        #[test]
        fn no_wait_leaves_its_step(chance in 0.0..1.0f64, rounds in 1usize..20) {
            let mut backoff = Backoff::new(MS(8), MS(512));
            let mut step = MS(8);
            for _ in 0..rounds {
                let wait = backoff.next_delay(chance, None);
                prop_assert!(wait >= step / 2 && wait <= step);
                step = (step * 2).min(MS(512));
            }
        }
    }
}
