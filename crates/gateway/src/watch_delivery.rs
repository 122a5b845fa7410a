//! A watcher's changes on their way to its connection: one message waits here, and not for ever.
//!
//! A connection takes the next message when the one before is sent. A watcher that does not read lets its flow-control
//! window fill, after which nothing is taken; who takes nothing for too long while there is something is cut, with an error
//! as the last word and what waited thrown away: the watcher may resume after the last position that it has.

use std::time::Duration;

use evenkeel_protocol::v1::WatchResponse;
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::refusals::Refusal;

/// Messages that wait for one watcher; another is in the hand of whoever queues it.
const QUEUE_MAX: usize = 1;

type Changes = Result<WatchResponse, Refusal>;

/// Delivers `changes` for as long as the watcher takes one within `patience`.
pub(crate) fn deliver(
    changes: impl Stream<Item = Changes> + Send + Unpin + 'static,
    patience: Duration,
) -> impl Stream<Item = Changes> + Send + 'static {
    let (queue, waiting) = mpsc::channel(QUEUE_MAX);
    let (cut, was_cut) = oneshot::channel();
    tokio::spawn(feed(changes, queue, cut, patience));
    stream::unfold(Some((waiting, was_cut)), |delivery| async move {
        let (mut waiting, mut was_cut) = delivery?;
        tokio::select! {
            biased;
            Ok(last_word) = &mut was_cut => Some((Err(last_word), None)),
            next = waiting.recv() => next.map(|item| (item, Some((waiting, was_cut)))),
        }
    })
}

/// Ends with the changes, with the watcher, or by cutting it.
async fn feed(
    mut changes: impl Stream<Item = Changes> + Send + Unpin,
    queue: mpsc::Sender<Changes>,
    cut: oneshot::Sender<Refusal>,
    patience: Duration,
) {
    loop {
        let next = tokio::select! {
            next = changes.next() => next,
            () = queue.closed() => return,
        };
        let Some(next) = next else { return };
        match timeout(patience, queue.reserve()).await {
            Ok(Ok(place)) => place.send(next),
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!("a watcher that took nothing for {patience:?} is cut");
                // Who has gone meanwhile needs no last word.
                let _ = cut.send(Refusal::SlowWatcher { patience });
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(100);

    /// Endless changes, and how many were made.
    fn endless() -> (impl Stream<Item = Changes> + Send + Unpin + 'static, Arc<AtomicU64>) {
        let made = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&made);
        let changes = stream::repeat_with(move || {
            let position = count.fetch_add(1, Ordering::Relaxed);
            Ok(WatchResponse { position, ..Default::default() })
        });
        (changes, made)
    }

    #[tokio::test]
    async fn who_reads_gets_everything_in_order_however_long_nothing_changes() {
        let changes = stream::unfold(0, |position| async move {
            tokio::time::sleep(PATIENCE * 3).await;
            Some((Ok(WatchResponse { position, ..Default::default() }), position + 1))
        });
        let delivered = deliver(Box::pin(changes), PATIENCE);
        let got: Vec<u64> = delivered.take(4).map(|item| item.unwrap().position).collect().await;
        assert_eq!(got, [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn who_does_not_read_is_cut_and_nothing_piles_up() {
        let (changes, made) = endless();
        let mut delivered = std::pin::pin!(deliver(changes, PATIENCE));
        assert_eq!(delivered.next().await.unwrap().unwrap().position, 0);
        tokio::time::sleep(PATIENCE * 2).await;
        assert!(made.load(Ordering::Relaxed) <= 3, "{made:?} changes were made");
        assert_eq!(delivered.next().await, Some(Err(Refusal::SlowWatcher { patience: PATIENCE })));
        assert_eq!(delivered.next().await, None);
    }

    #[tokio::test]
    async fn who_is_slow_but_reads_is_not_cut() {
        let (changes, _) = endless();
        let mut delivered = std::pin::pin!(deliver(changes, PATIENCE));
        for position in 0..10 {
            assert_eq!(delivered.next().await.unwrap().unwrap().position, position);
            tokio::time::sleep(PATIENCE / 4).await;
        }
    }
}
