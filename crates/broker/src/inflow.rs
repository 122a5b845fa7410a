//! How many writes of a partition are under way, and the throttle that keeps them few before a transfer.
//!
//! A transfer closes the gate and waits until everything proposed before is answered, and clients wait with it. Behind write streams that
//! are always full some hundred writes of each partition are under way, which take longer than a freeze may. So before the freeze
//! new ones are let in only as others are answered, until few are left; the partition works on meanwhile, at its usual rate.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Writes under way that drain in a moment.
const FEW: usize = 64;

#[derive(Default)]
pub struct Inflow {
    state: Mutex<State>,
    answered: Notify,
}

#[derive(Default)]
struct State {
    under_way: usize,
    throttled: bool,
}

/// Some writes under way, until it is dropped.
pub struct UnderWay<'a> {
    inflow: &'a Inflow,
    writes: usize,
}

/// Keeps the writes under way few until it is dropped.
pub struct Throttle<'a>(&'a Inflow);

impl Inflow {
    /// Lets so many writes in together: at once, or while throttled once fewer than [`FEW`] are under way.
    pub async fn enter(&self, writes: usize) -> UnderWay<'_> {
        match self.try_enter(writes) {
            Some(entered) => entered,
            None => self.when_answered(|| self.try_enter(writes)).await,
        }
    }

    fn try_enter(&self, writes: usize) -> Option<UnderWay<'_>> {
        let mut state = self.state.lock();
        if state.throttled && state.under_way >= FEW {
            return None;
        }
        state.under_way += writes;
        Some(UnderWay { inflow: self, writes })
    }

    /// Throttles. One transfer at a time does so.
    pub fn throttle(&self) -> Throttle<'_> {
        self.state.lock().throttled = true;
        Throttle(self)
    }

    fn are_few(&self) -> bool {
        self.state.lock().under_way <= FEW
    }

    /// Tries now, and again whenever writes were answered, until there is something.
    async fn when_answered<T>(&self, attempt: impl Fn() -> Option<T>) -> T {
        loop {
            let mut answered = std::pin::pin!(self.answered.notified());
            // From here on nothing is missed.
            answered.as_mut().enable();
            if let Some(done) = attempt() {
                return done;
            }
            answered.await;
        }
    }
}

impl Throttle<'_> {
    /// Returns when few writes are under way, or after `patience`.
    pub async fn few(&self, patience: Duration) {
        let few = self.0.when_answered(|| self.0.are_few().then_some(()));
        // Whoever closes the gate then finds out how long the rest takes.
        let _ = tokio::time::timeout(patience, few).await;
    }
}

impl Drop for Throttle<'_> {
    fn drop(&mut self) {
        self.0.state.lock().throttled = false;
        self.0.answered.notify_waiters();
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.inflow.state.lock();
        state.under_way -= self.writes;
        if state.throttled {
            drop(state);
            self.inflow.answered.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn writes_come_in_freely_until_they_are_throttled() {
        let inflow = Inflow::default();
        let first = inflow.enter(10 * FEW).await;
        let second = inflow.enter(10 * FEW).await;
        let throttle = inflow.throttle();
        assert!(inflow.enter(1).now_or_never().is_none());
        drop(throttle);
        assert!(inflow.enter(1).now_or_never().is_some());
        drop((first, second));
    }

    #[tokio::test]
    async fn while_throttled_writes_come_in_as_others_are_answered() {
        let inflow = Inflow::default();
        let mut answered: Vec<_> = (0..FEW + 1).map(|_| inflow.try_enter(1).unwrap()).collect();
        let throttle = inflow.throttle();
        let mut waits = std::pin::pin!(inflow.enter(8));
        let mut few = std::pin::pin!(throttle.few(PATIENCE));
        assert!(waits.as_mut().now_or_never().is_none() && few.as_mut().now_or_never().is_none());
        answered.pop();
        assert!(waits.as_mut().now_or_never().is_none(), "as many as may be are under way");
        assert!(few.as_mut().now_or_never().is_some());
        answered.pop();
        let entered = waits.now_or_never().unwrap();
        // However many come together, they do not wait for ever.
        assert_eq!(inflow.state.lock().under_way, FEW - 1 + 8);
        drop((entered, answered));
        assert_eq!(inflow.state.lock().under_way, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transfer_waits_no_longer_than_its_patience() {
        let inflow = Inflow::default();
        let many = inflow.enter(2 * FEW).await;
        let throttle = inflow.throttle();
        let began = tokio::time::Instant::now();
        throttle.few(PATIENCE).await;
        assert_eq!(began.elapsed(), PATIENCE);
        drop(throttle);
        drop(many);
    }
}
