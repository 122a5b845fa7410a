//! Whether there is room on the disk, and what a broker without any does: it serves reads and leads nothing that others can.
//!
//! | room | client writes | entries from leaders | leads |
//! | --- | --- | --- | --- |
//! | enough | taken | taken | as usual |
//! | low: less than `data.free_bytes_min` free | refused, typed | taken | hands over to brokers with room |
//! | none: less than an eighth of that, or the log found none | refused, typed | commands refused: the replica lags | the same |
//!
//! So a broker stops growing in good time, and what is left serves votes, purges and snapshots. A part of it is set aside
//! in a file and given back when there is none: room then also for what other programs took. Should the log meet a full
//! disk all the same, it waits (`raft-storage/log/committer.rs`). Room returns with an eighth more than was missing, so
//! that a disk on the edge does not flap.
//!
//! Cost: one system call every [`LOOK_INTERVAL_MS`].

use std::sync::Arc;
use std::time::Duration;

use evenkeel_raft_storage::{DataDirectory, Offload};
use futures::StreamExt;
use tokio::sync::watch;

use crate::elector::{Elector, Yields};
use crate::handover::{Handover, Purpose};
use crate::metric_definitions as metric;
use crate::replicas::Replicas;
use crate::status::StatusHub;
use crate::stop::Stop;

/// At 400 MB/s an eighth of a gigabyte is written between two looks.
const LOOK_INTERVAL_MS: u64 = 250;
/// How often a broker without room tries to hand over what it still leads.
const HAND_OVER_INTERVAL_MS: u64 = 1_000;
const HAND_OVER_CONCURRENCY: usize = 8;
/// There is no room with less than this part of `data.free_bytes_min`.
const NONE_SHARE: u64 = 8;
/// What is set aside: this part of `data.free_bytes_min`…
const RESERVE_SHARE: u64 = 8;
/// …up to this much.
const RESERVE_BYTES_MAX: u64 = 64 << 20;

/// How much room there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// Hardly any: nothing may grow.
    None,
    /// Little: nothing new is taken.
    Low,
    /// As much as was asked for.
    Enough,
}

/// What follows from so many free bytes when `least` should be free; `None` for the room when the log found none. Pure.
fn judge(before: Room, free: u64, least: u64, log_is_full: bool) -> Room {
    let more = |bytes: u64, wanted: bool| if wanted { bytes.saturating_add(bytes / 8) } else { bytes };
    if log_is_full || free < more(least / NONE_SHARE, before == Room::None) {
        Room::None
    } else if free < more(least, before != Room::Enough) {
        Room::Low
    } else {
        Room::Enough
    }
}

/// Cheap handle.
#[derive(Clone)]
pub struct DiskRoom {
    data: Arc<DataDirectory>,
    offload: Offload,
    /// 0 never refuses anything in advance.
    free_bytes_min: u64,
    node: u64,
    room: watch::Sender<Room>,
}

impl DiskRoom {
    pub fn new(data: Arc<DataDirectory>, offload: Offload, free_bytes_min: u64, node: u64) -> Self {
        Self { data, offload, free_bytes_min, node, room: watch::Sender::new(Room::Enough) }
    }

    /// How much there is now.
    pub fn now(&self) -> Room {
        *self.room.borrow()
    }

    /// Why nothing is written here, for whoever wanted to.
    pub fn refusal(&self) -> String {
        format!(
            "broker {}: its disk is full (less than data.free_bytes_min = {} bytes are free for {}); make room on it or give \
             it a larger one; it takes writes again by itself",
            self.node,
            self.free_bytes_min,
            self.data.path().display()
        )
    }

    /// Looks, and hands over while there is no room, until `stop`.
    pub async fn run(
        self,
        log_is_full: watch::Receiver<bool>,
        status: StatusHub,
        replicas: Replicas,
        handover: Handover,
        elector: Elector,
        mut stop: Stop,
    ) {
        self.keep_reserve(true).await;
        tokio::select! {
            () = self.keep_looking(log_is_full, &elector, &status) => {}
            () = self.keep_handing_over(&replicas, &handover) => {}
            () = stop.requested() => {}
        }
    }

    async fn keep_looking(
        &self,
        mut log_is_full: watch::Receiver<bool>,
        elector: &Elector,
        status: &StatusHub,
    ) {
        loop {
            let full = *log_is_full.borrow_and_update();
            self.look(full, elector, status).await;
            let pause = Duration::from_millis(LOOK_INTERVAL_MS);
            if let Ok(Err(_)) = tokio::time::timeout(pause, log_is_full.changed()).await {
                return;
            }
        }
    }

    async fn keep_handing_over(&self, replicas: &Replicas, handover: &Handover) {
        let mut room = self.room.subscribe();
        while room.wait_for(|room| *room != Room::Enough).await.is_ok() {
            hand_over(replicas, handover).await;
            tokio::time::sleep(Duration::from_millis(HAND_OVER_INTERVAL_MS)).await;
        }
    }

    async fn look(&self, log_is_full: bool, elector: &Elector, status: &StatusHub) {
        let data = Arc::clone(&self.data);
        let space = self.offload.run(move || data.disk_space()).await;
        let space = space.ok().and_then(Result::ok);
        status.set_disk(space);
        // What the system does not tell is no reason to refuse.
        let free = space.map_or(u64::MAX, |space| space.free_bytes);
        let before = self.now();
        let room = judge(before, free, self.free_bytes_min, log_is_full);
        metric::disk_room(room);
        if room == before {
            return;
        }
        self.room.send_replace(room);
        elector.yields(Yields::DiskFull, room != Room::Enough);
        match room {
            Room::Enough => tracing::info!(free, "the disk has room again: writes are taken"),
            Room::Low => {
                tracing::warn!(free, "the disk is filling: writes are refused, leaderships handed over")
            }
            Room::None => {
                tracing::error!(free, "the disk is full: nothing is written but votes and positions")
            }
        }
        match room {
            Room::None => self.keep_reserve(false).await,
            Room::Enough => self.keep_reserve(true).await,
            Room::Low => {}
        }
    }

    async fn keep_reserve(&self, keep: bool) {
        let bytes = if keep { (self.free_bytes_min / RESERVE_SHARE).min(RESERVE_BYTES_MAX) } else { 0 };
        let data = Arc::clone(&self.data);
        if let Ok(Err(error)) = self.offload.run(move || data.keep_reserve(bytes)).await {
            tracing::warn!(%error, "no room could be set aside on the disk");
        }
    }
}

/// Every leadership, to whoever has room.
async fn hand_over(replicas: &Replicas, handover: &Handover) {
    let led = replicas.iter().filter(|replica| replica.leads().is_some());
    futures::stream::iter(led)
        .for_each_concurrent(HAND_OVER_CONCURRENCY, |replica| async {
            let answer = handover.step_down(replica, 0, Purpose::Shutdown).await;
            tracing::info!(partition = %replica.partition, result = answer.result().as_str_name(), "disk full: hand-over");
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_shrinks_at_once_and_returns_with_some_to_spare() {
        let table = [
            (Room::Enough, 1_000, false, Room::Enough),
            (Room::Enough, 999, false, Room::Low),
            (Room::Low, 125, false, Room::Low),
            (Room::Enough, 124, false, Room::None),
            (Room::Enough, 5_000, true, Room::None),
            (Room::Low, 1_124, false, Room::Low),
            (Room::Low, 1_125, false, Room::Enough),
            (Room::None, 139, false, Room::None),
            (Room::None, 140, false, Room::Low),
            (Room::None, 1_124, false, Room::Low),
            (Room::None, 1_125, false, Room::Enough),
        ];
        for (before, free, log_is_full, after) in table {
            assert_eq!(judge(before, free, 1_000, log_is_full), after, "{before:?}, {free} free");
        }
    }

    #[test]
    fn with_no_bytes_asked_for_only_the_log_says_that_there_is_no_room() {
        assert_eq!(judge(Room::Enough, 0, 0, false), Room::Enough);
        assert_eq!(judge(Room::None, 0, 0, false), Room::Enough);
        assert_eq!(judge(Room::Enough, 0, 0, true), Room::None);
        assert_eq!(judge(Room::Enough, u64::MAX, u64::MAX, false), Room::Enough);
    }
}
