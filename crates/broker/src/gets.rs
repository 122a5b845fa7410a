//! A gateway's stream of gets: what waited there comes in one frame, is read partition by partition, and goes back in frames of what
//! is ready.
//!
//! One get by itself asks openraft whether the lease holds and visits a thread that may wait for the disk. Gets of one
//! partition that come together do both once.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use evenkeel_protocol::internal::v1 as pb;
use evenkeel_protocol::internal::v1::broker_get_response::Result as Answer;
use evenkeel_protocol::internal::v1::refused::Reason;
use evenkeel_raft_storage::PartitionReader;
use futures::StreamExt;
use futures::stream::BoxStream;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::{Status, Streaming};

use crate::broker_service::{Room, readable, refused, too_many_reads};
use crate::replica::{ReadRefusal, Replica};
use crate::replicas::Replicas;

/// Groups of answers that wait for the gateway's connection; readers wait when it is full, and hold their room.
const ANSWERS_MAX: usize = 64;
/// A group is read until it holds this many bytes, and a frame takes groups until it does; one answer always goes.
const ANSWER_BYTES_MAX: usize = 512 << 10;

/// Answers to some gets, and their bytes.
type Group = (usize, Vec<pb::TaggedGetResponse>);

/// Answers what `inbound` asks until it ends.
pub fn serve(
    replicas: Replicas,
    room: Room,
    inbound: Streaming<pb::GetFrame>,
) -> BoxStream<'static, Result<pb::GetResponseFrame, Status>> {
    let (answers, ready) = mpsc::channel(ANSWERS_MAX);
    tokio::spawn(Getter { replicas, room, answers }.run(inbound));
    futures::stream::unfold(ready, |mut ready: mpsc::Receiver<Group>| async move {
        let (mut bytes, mut responses) = ready.recv().await?;
        while bytes < ANSWER_BYTES_MAX
            && let Ok((more, group)) = ready.try_recv()
        {
            bytes += more;
            responses.extend(group);
        }
        Some((Ok(pb::GetResponseFrame { responses }), ready))
    })
    .boxed()
}

#[derive(Clone)]
struct Getter {
    replicas: Replicas,
    room: Room,
    answers: mpsc::Sender<Group>,
}

impl Getter {
    async fn run(self, mut inbound: Streaming<pb::GetFrame>) {
        while let Ok(Some(frame)) = inbound.message().await {
            let mut groups: HashMap<(u32, bool), Vec<(u64, Bytes)>> = HashMap::new();
            for pb::TaggedGet { tag, get } in frame.gets {
                // One without a question is a question about a partition that does not exist.
                let get = get.unwrap_or_default();
                groups.entry((get.partition_id, get.stale)).or_default().push((tag, get.key));
            }
            for ((partition, stale), gets) in groups {
                // The room bounds the tasks: each holds some of it.
                match self.room.for_reads(gets.len()) {
                    Some(room) => drop(tokio::spawn(self.clone().answer(partition, stale, gets, room))),
                    None => self.refuse(&gets, &Answer::Refused(too_many_reads())).await,
                }
            }
        }
    }

    async fn answer(self, partition: u32, stale: bool, gets: Vec<(u64, Bytes)>, _room: OwnedSemaphorePermit) {
        match readable(&self.replicas, partition, stale).await {
            Ok(replica) => self.read(&replica, gets.into()).await,
            Err(ReadRefusal::NotLeader(not)) => self.refuse(&gets, &Answer::NotLeader(not)).await,
            Err(ReadRefusal::Refused(refused)) => self.refuse(&gets, &Answer::Refused(refused)).await,
        }
    }

    /// Off the runtime: usually some microseconds each, but fjall lets readers wait while it adds a table.
    async fn read(&self, replica: &Arc<Replica>, gets: Arc<[(u64, Bytes)]>) {
        let mut done = 0;
        while done < gets.len() {
            let asked = Arc::clone(&gets);
            let group = replica.reader.off_runtime(move |reader| read_some(reader, &asked[done..])).await;
            let (read, sent) = match group {
                Ok(group) => (group.1.len(), self.answers.send(group).await),
                Err(error) => {
                    let error = Answer::Refused(refused(Reason::Storage, error.to_string()));
                    return self.refuse(&gets[done..], &error).await;
                }
            };
            // The gateway has gone: nobody needs the rest.
            if sent.is_err() {
                return;
            }
            done += read;
        }
    }

    async fn refuse(&self, gets: &[(u64, Bytes)], answer: &Answer) {
        let responses = gets.iter().map(|(tag, _)| tagged(*tag, answer.clone())).collect();
        // Nobody is there to be told when this fails.
        let _ = self.answers.send((0, responses)).await;
    }
}

/// The answers to the first of these gets: as many as fit, and one at least.
fn read_some(reader: &PartitionReader, gets: &[(u64, Bytes)]) -> Group {
    let (mut bytes, mut responses) = (0, Vec::with_capacity(gets.len()));
    for (tag, key) in gets {
        let answer = match reader.get(key) {
            Ok(record) => Answer::Found(pb::Found { record }),
            Err(error) => Answer::Refused(refused(Reason::Storage, error.to_string())),
        };
        let response = tagged(*tag, answer);
        bytes += response.encoded_len();
        responses.push(response);
        if bytes >= ANSWER_BYTES_MAX {
            break;
        }
    }
    (bytes, responses)
}

fn tagged(tag: u64, answer: Answer) -> pb::TaggedGetResponse {
    pb::TaggedGetResponse { tag, response: Some(pb::BrokerGetResponse { result: Some(answer) }) }
}
