//! Writes that come at fixed times, whatever the cluster does. Pure.
//!
//! A client that waits for its answers asks less of a cluster that is slow, and so hides that it was. With a schedule,
//! a write that had to wait for its turn counts from when it should have been sent.

use std::time::Duration;

/// A schedule of so many writes a second, which clients take in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    per_second: f64,
    clients: usize,
}

impl Pace {
    /// `None` unless there is something to send, and somebody to send it.
    pub fn new(per_second: f64, clients: usize) -> Option<Self> {
        (per_second.is_finite() && per_second > 0.0 && clients > 0).then_some(Self { per_second, clients })
    }

    /// When a client's nth write, both from 0, is to be sent, after the start.
    pub fn due(&self, client: usize, nth: u64) -> Duration {
        let arrival = nth as f64 * self.clients as f64 + client as f64;
        Duration::try_from_secs_f64(arrival / self.per_second).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_at_even_distances() {
        let pace = Pace::new(100.0, 4).unwrap();
        let mut due: Vec<Duration> =
            (0..4).flat_map(|client| (0..50).map(move |nth| pace.due(client, nth))).collect();
        due.sort();
        let expected: Vec<Duration> = (0..200).map(|n| Duration::from_millis(n * 10)).collect();
        assert_eq!(due, expected);
        assert_eq!(pace.due(1, 1) - pace.due(1, 0), Duration::from_millis(40));
    }

    #[test]
    fn nothing_to_send_is_no_schedule() {
        for (per_second, clients) in [(0.0, 4), (-1.0, 4), (f64::NAN, 4), (f64::INFINITY, 4), (10.0, 0)] {
            assert_eq!(Pace::new(per_second, clients), None);
        }
    }

    #[test]
    fn a_schedule_of_years_does_not_overflow() {
        assert_eq!(Pace::new(1e-300, 1).unwrap().due(0, u64::MAX), Duration::MAX);
    }
}
