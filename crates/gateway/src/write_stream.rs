//! The stream of all writes to one broker.

use bytes::Bytes;
use evenkeel_protocol::PartitionId;
use evenkeel_protocol::internal::v1::{Write, WriteFrame, WriteResultFrame, write_result};

use crate::tagged_stream::{self, Exchange, TaggedStream};

/// Commands for partitions.
pub(crate) enum Writes {}

pub(crate) type WriteStream = TaggedStream<Writes>;
pub(crate) type Ended = tagged_stream::Ended<write_result::Result>;
pub(crate) type Reply = tagged_stream::Reply<write_result::Result>;
pub(crate) type Outstanding = tagged_stream::Outstanding<write_result::Result>;

impl Exchange for Writes {
    type Request = (PartitionId, Bytes);
    type Frame = WriteFrame;
    type Answer = write_result::Result;
    type AnswerFrame = WriteResultFrame;

    fn bytes((_, command): &Self::Request) -> usize {
        command.len()
    }

    fn frame(requests: impl ExactSizeIterator<Item = (u64, Self::Request)>) -> WriteFrame {
        let write = |(tag, (partition, command)): (u64, Self::Request)| Write {
            tag,
            partition_id: partition.0,
            command,
        };
        WriteFrame { writes: requests.map(write).collect() }
    }

    fn answers(frame: WriteResultFrame) -> impl Iterator<Item = (u64, Option<Self::Answer>)> {
        frame.results.into_iter().map(|result| (result.tag, result.result))
    }
}
