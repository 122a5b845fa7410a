//! Takes in a snapshot's bytes and fills a new generation with them, beside the live one.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use evenkeel_protocol::internal::v1::ExportedPosition;
use prost::Message;

use crate::snapshot::{
    FRAME_END, FRAME_HEAD_BYTES, FRAME_HEADER, FRAME_RECORD, FRAME_REQUEST, SNAPSHOT_FORMAT, Snapshot,
    SnapshotEnd, SnapshotHeader,
};
use crate::state_database::Rows;
use crate::state_layout::{KEY_BYTES_MAX, Kind, RECORD_HEAD_BYTES, Scope, decode_log_id};
use crate::state_store::StoreInner;
use crate::types::{GroupId, raft};

/// Longest frame that is taken in; bounds what a wrong length makes the receiver hold.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A generation that is not live (yet): dropped with this, unless kept.
struct Filling {
    store: Arc<StoreInner>,
    scope: Scope,
    kept: bool,
}

impl Drop for Filling {
    fn drop(&mut self) {
        if !self.kept {
            self.store.cleaner.drop_later(self.scope);
        }
    }
}

/// A generation that holds a whole snapshot.
pub(crate) struct ReceivedGeneration {
    filling: Filling,
    applied: Option<raft::LogId>,
    records_count: u64,
    exported: Vec<ExportedPosition>,
}

impl ReceivedGeneration {
    pub(crate) fn scope(&self) -> Scope {
        self.filling.scope
    }

    pub(crate) fn applied(&self) -> Option<raft::LogId> {
        self.applied
    }

    pub(crate) fn exported(&self) -> &[ExportedPosition] {
        &self.exported
    }

    pub(crate) fn records_count(&self) -> u64 {
        self.records_count
    }

    /// It went live.
    pub(crate) fn keep(mut self) {
        self.filling.kept = true;
    }
}

struct Receiving {
    filling: Filling,
    /// The beginning of a frame whose rest has not arrived.
    buffer: BytesMut,
    header: Option<SnapshotHeader>,
    /// What was counted on the way.
    counted: SnapshotEnd,
    ended: bool,
}

/// Receives one snapshot of a partition: push every chunk in order, then finish.
///
/// An error, or dropping it or its snapshot before that is installed, throws away what was received.
pub struct SnapshotReceiver {
    /// Absent after an error, and while a push that was never awaited to its end holds it.
    receiving: Option<Receiving>,
}

impl SnapshotReceiver {
    pub(crate) fn begin(store: Arc<StoreInner>, partition: GroupId) -> io::Result<Self> {
        let scope = store.begin_generation(partition)?;
        let receiving = Receiving {
            filling: Filling { store, scope, kept: false },
            buffer: BytesMut::new(),
            header: None,
            counted: SnapshotEnd::default(),
            ended: false,
        };
        Ok(Self { receiving: Some(receiving) })
    }

    /// Takes in the next bytes, cut anywhere.
    pub async fn push(&mut self, chunk: Bytes) -> io::Result<()> {
        let mut receiving = self.take()?;
        let store = Arc::clone(&receiving.filling.store);
        let push = move || receiving.push(&chunk).map(|()| receiving);
        let receiving = store.blocking(push).await?;
        self.receiving = Some(receiving);
        Ok(())
    }

    /// Checks that everything arrived; what comes back is to be installed.
    pub async fn finish(self) -> io::Result<Snapshot> {
        self.finish_generation().await.map(Snapshot::from_received)
    }

    pub(crate) async fn finish_generation(mut self) -> io::Result<ReceivedGeneration> {
        let receiving = self.take()?;
        match receiving.header {
            Some(header) if receiving.ended => Ok(ReceivedGeneration {
                filling: receiving.filling,
                applied: header.applied.as_ref().map(decode_log_id),
                records_count: receiving.counted.records_count,
                exported: header.exported,
            }),
            _ => Err(invalid("cut off before its end")),
        }
    }

    fn take(&mut self) -> io::Result<Receiving> {
        self.receiving.take().ok_or_else(|| invalid("given up after an earlier error"))
    }
}

impl Receiving {
    fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(chunk);
        let mut rows = Rows::default();
        while let Some((kind, payload)) = self.next_frame()? {
            self.take_frame(kind, payload, &mut rows)?;
        }
        self.filling.store.database.commit(rows, false)
    }

    fn next_frame(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let Some((head, _)) = self.buffer.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let bytes = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if bytes > FRAME_BYTES_MAX {
            return Err(invalid("a frame is too long"));
        }
        if self.buffer.len() < FRAME_HEAD_BYTES + bytes {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(FRAME_HEAD_BYTES + bytes).freeze();
        let kind = frame[0];
        if kind != FRAME_END {
            self.counted.crc32c = crc32c::crc32c_append(self.counted.crc32c, &frame);
        }
        frame.advance(FRAME_HEAD_BYTES);
        Ok(Some((kind, frame)))
    }

    fn take_frame(&mut self, kind: u8, mut payload: Bytes, rows: &mut Rows) -> io::Result<()> {
        if self.ended {
            return Err(invalid("goes on after its end"));
        }
        if (kind == FRAME_HEADER) == self.header.is_some() {
            return Err(invalid("does not begin with its only header"));
        }
        let scope = self.filling.scope;
        match kind {
            FRAME_HEADER => {
                let header = SnapshotHeader::decode(payload).map_err(|e| invalid(format!("header: {e}")))?;
                if header.format != SNAPSHOT_FORMAT {
                    return Err(invalid(format!("format {} is not {SNAPSHOT_FORMAT}", header.format)));
                }
                if header.partition != scope.partition {
                    return Err(invalid(format!(
                        "of partition {}, not {}",
                        header.partition, scope.partition
                    )));
                }
                self.header = Some(header);
            }
            FRAME_RECORD => {
                let key_bytes =
                    payload.try_get_u32_le().map_err(|_| invalid("a record is cut short"))? as usize;
                if key_bytes > KEY_BYTES_MAX || payload.len() < key_bytes + RECORD_HEAD_BYTES {
                    return Err(invalid("a record is cut short"));
                }
                let key = payload.split_to(key_bytes);
                self.counted.records_count += 1;
                // Copied: a slice would keep the whole chunk in the memtable.
                rows.insert(scope.key(Kind::Record, &key), payload.as_ref());
            }
            FRAME_REQUEST => {
                let client = payload.try_get_u64_le().map_err(|_| invalid("a request id is cut short"))?;
                self.counted.requests_count += 1;
                rows.insert(scope.number_key(Kind::Request, client), payload.as_ref());
            }
            FRAME_END => {
                let end = SnapshotEnd::decode(payload).map_err(|e| invalid(format!("end: {e}")))?;
                if end != self.counted {
                    return Err(invalid("counts or checksum differ from the sender's"));
                }
                self.ended = true;
            }
            kind => return Err(invalid(format!("unknown frame kind {kind}"))),
        }
        Ok(())
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("received snapshot: {}", what.into()))
}
