//! A partition's whole state at one log position, on its way out as a stream of bytes or received and ready to install.
//!
//! # Format
//! A stream of bytes, cut anywhere into chunks. It consists of frames: kind u8, length of the payload u32, payload.
//! Integers are little-endian.
//!
//! | kind | payload |
//! | --- | --- |
//! | 1 header, first | [`SnapshotHeader`] |
//! | 2 record, in key order | length of the key u32, key, value as in the state database |
//! | 3 request id | client id u64, row as in the state database |
//! | 4 end, last | [`SnapshotEnd`]: counts, and CRC32C of all bytes before this frame |
//!
//! Changes for watchers are not sent: at the receiver, the first available one is that after the snapshot.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use evenkeel_protocol::internal::v1 as internal;
use futures::{Stream, StreamExt};
use prost::Message;
use tokio::sync::mpsc;

use crate::offload::Offload;
use crate::snapshot_receiver::{ReceivedGeneration, SnapshotReceiver};
use crate::state_database::{RowIter, StateView};
use crate::state_layout::{Kind, PartitionRow, Scope, damaged, number_of_key};
use crate::state_store::StoreInner;
use crate::types::GroupId;

/// Version of the stream's format.
pub(crate) const SNAPSHOT_FORMAT: u32 = 1;
/// Most bytes in a chunk.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Chunks read ahead of whoever sends them.
const CHUNKS_AHEAD_MAX: usize = 2;

pub(crate) const FRAME_HEADER: u8 = 1;
pub(crate) const FRAME_RECORD: u8 = 2;
pub(crate) const FRAME_REQUEST: u8 = 3;
pub(crate) const FRAME_END: u8 = 4;
/// Kind and length.
pub(crate) const FRAME_HEAD_BYTES: usize = 5;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotHeader {
    #[prost(uint32, tag = "1")]
    pub format: u32,
    #[prost(uint32, tag = "2")]
    pub partition: u32,
    #[prost(message, optional, tag = "3")]
    pub applied: Option<internal::LogId>,
    #[prost(message, repeated, tag = "4")]
    pub exported: Vec<internal::ExportedPosition>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SnapshotEnd {
    #[prost(uint64, tag = "1")]
    pub records_count: u64,
    #[prost(uint64, tag = "2")]
    pub requests_count: u64,
    #[prost(fixed32, tag = "3")]
    pub crc32c: u32,
}

/// A consistent view of a partition's state in the database; holds its old versions until dropped.
pub(crate) struct SnapshotView {
    pub store: Arc<StoreInner>,
    pub view: Box<dyn StateView>,
    pub partition: GroupId,
    pub row: PartitionRow,
}

enum Content {
    View(SnapshotView),
    Received(ReceivedGeneration),
}

/// A partition's state at one position: openraft's snapshot data.
pub struct Snapshot {
    content: Content,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Content::View(view) => {
                write!(f, "Snapshot(of partition {}, {:?})", view.partition, view.row.applied)
            }
            Content::Received(received) => write!(f, "Snapshot(received, {:?})", received.scope()),
        }
    }
}

impl Snapshot {
    pub(crate) fn from_view(view: SnapshotView) -> Self {
        Self { content: Content::View(view) }
    }

    pub(crate) fn from_received(received: ReceivedGeneration) -> Self {
        Self { content: Content::Received(received) }
    }

    /// The bytes to send, [`CHUNK_BYTES_MAX`] at a time. Reading them blocks; see [`Self::stream`].
    ///
    /// A received snapshot has none: it can only be installed.
    pub fn chunks(self) -> io::Result<SnapshotChunks> {
        match self.content {
            Content::View(view) => Ok(SnapshotChunks::new(view)),
            Content::Received(_) => Err(io::Error::other("a received snapshot can only be installed")),
        }
    }

    /// The same bytes, read on a blocking thread a few chunks ahead. Dropping the stream stops the reading.
    pub fn stream(self) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
        if let Content::View(SnapshotView { store, .. }) = &self.content
            && store.offload == Offload::InPlace
        {
            return match self.chunks() {
                Ok(chunks) => futures::stream::iter(chunks).boxed(),
                Err(error) => futures::stream::iter([Err(error)]).boxed(),
            };
        }
        let (sender, mut receiver) = mpsc::channel(CHUNKS_AHEAD_MAX);
        tokio::task::spawn_blocking(move || match self.chunks() {
            Ok(chunks) => {
                for chunk in chunks {
                    if sender.blocking_send(chunk).is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                // Fails when nobody waits for it any more.
                let _ = sender.blocking_send(Err(error));
            }
        });
        futures::stream::poll_fn(move |context| receiver.poll_recv(context)).boxed()
    }

    /// As a generation of this partition: a view, of whichever store, is copied through the stream's format.
    pub(crate) async fn into_received(
        self,
        store: &Arc<StoreInner>,
        partition: GroupId,
    ) -> io::Result<ReceivedGeneration> {
        let view = match self.content {
            Content::Received(received) => return Ok(received),
            Content::View(view) => view,
        };
        let mut receiver = SnapshotReceiver::begin(Arc::clone(store), partition)?;
        let mut chunks = Self::from_view(view).stream();
        while let Some(chunk) = chunks.next().await {
            receiver.push(chunk?).await?;
        }
        receiver.finish_generation().await
    }
}

enum Section {
    Header,
    Records(RowIter),
    Requests(RowIter),
    End,
    Done,
}

/// Reads a view as bytes.
pub struct SnapshotChunks {
    view: SnapshotView,
    section: Section,
    buffer: BytesMut,
    end: SnapshotEnd,
}

impl SnapshotChunks {
    fn new(view: SnapshotView) -> Self {
        let buffer = BytesMut::with_capacity(CHUNK_BYTES_MAX);
        Self { view, section: Section::Header, buffer, end: SnapshotEnd::default() }
    }

    fn scope(&self) -> Scope {
        Scope { partition: self.view.partition, generation: self.view.row.generation }
    }

    /// Reads until a chunk is full or everything is read.
    fn fill(&mut self) -> io::Result<()> {
        while self.buffer.len() < CHUNK_BYTES_MAX {
            let scope = self.scope();
            let all = |kind| self.view.view.range(&scope.prefix(kind), &scope.end(kind));
            match &mut self.section {
                Section::Header => {
                    let header = SnapshotHeader {
                        format: SNAPSHOT_FORMAT,
                        partition: self.view.partition,
                        applied: self.view.row.applied,
                        exported: self.view.row.exported.clone(),
                    };
                    self.section = Section::Records(all(Kind::Record));
                    self.put_frame(FRAME_HEADER, &[&header.encode_to_vec()])?;
                }
                Section::Records(items) => match items.next() {
                    Some(item) => {
                        let (key, stored) = item?;
                        let key = &key[Scope::PREFIX_BYTES..];
                        self.end.records_count += 1;
                        self.put_frame(FRAME_RECORD, &[&(key.len() as u32).to_le_bytes(), key, &stored])?;
                    }
                    None => {
                        if self.end.records_count != self.view.row.records_count {
                            let (found, counted) = (self.end.records_count, self.view.row.records_count);
                            return Err(damaged(format!("{found} records where {counted} were counted")));
                        }
                        self.section = Section::Requests(all(Kind::Request));
                    }
                },
                Section::Requests(items) => match items.next() {
                    Some(item) => {
                        let (key, row) = item?;
                        let client = number_of_key(&key)?;
                        self.end.requests_count += 1;
                        self.put_frame(FRAME_REQUEST, &[&client.to_le_bytes(), &row])?;
                    }
                    None => self.section = Section::End,
                },
                Section::End => {
                    self.section = Section::Done;
                    let end = self.end.encode_to_vec();
                    self.put_frame(FRAME_END, &[&end])?;
                }
                Section::Done => return Ok(()),
            }
        }
        Ok(())
    }

    fn put_frame(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let bytes = u32::try_from(bytes).map_err(|_| damaged("record longer than a frame"))?;
        let start = self.buffer.len();
        self.buffer.put_u8(kind);
        self.buffer.put_u32_le(bytes);
        for part in parts {
            self.buffer.put_slice(part);
        }
        self.end.crc32c = crc32c::crc32c_append(self.end.crc32c, &self.buffer[start..]);
        Ok(())
    }
}

impl Iterator for SnapshotChunks {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Err(error) = self.fill() {
            self.section = Section::Done;
            self.buffer.clear();
            return Some(Err(error));
        }
        if self.buffer.is_empty() {
            return None;
        }
        let bytes = self.buffer.len().min(CHUNK_BYTES_MAX);
        Some(Ok(self.buffer.split_to(bytes).freeze()))
    }
}
