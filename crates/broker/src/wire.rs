//! Conversions between openraft's types and what travels between brokers.
//!
//! A command's bytes pass through untouched: what the log holds is what the peer receives.

use evenkeel_protocol::internal::v1 as pb;
use evenkeel_raft_storage::types::raft::{LogId, Vote};
use evenkeel_raft_storage::{Command, TypeConfig};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::vote::RaftLeaderId;

/// After the last entry another must be able to come.
const INDEX_MAX: u64 = u64::MAX - 2;

type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
type Entry = evenkeel_raft_storage::types::raft::Entry;

/// A message that a broker cannot have meant.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A required field is absent.
    #[error("message of group {group} lacks its {field}: is the peer of another version?")]
    Missing {
        /// Raft group.
        group: u32,
        /// Field name.
        field: &'static str,
    },
    /// Log ids that cannot follow each other.
    #[error("message of group {group}: entry {found} where {expected} must come next")]
    Gap {
        /// Raft group.
        group: u32,
        /// Index.
        expected: u64,
        /// Index.
        found: u64,
    },
    /// A log id after which none can come.
    #[error("message of group {group}: log index {index} is out of range")]
    OutOfRange {
        /// Raft group.
        group: u32,
        /// Index.
        index: u64,
    },
    /// The membership inside an entry does not parse.
    #[error("membership entry of group {group} does not parse: {source}")]
    Membership {
        /// Raft group.
        group: u32,
        /// What the parser said.
        source: serde_json::Error,
    },
}

pub fn vote_to_wire(vote: &Vote) -> pb::RaftVote {
    pb::RaftVote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub fn vote_from_wire(vote: &pb::RaftVote) -> Vote {
    Vote { leader_id: LeaderId::new(vote.term, vote.node_id), committed: vote.committed }
}

pub fn log_id_to_wire(id: &LogId) -> pb::LogId {
    let leader = id.committed_leader_id();
    pb::LogId { term: leader.term, node_id: leader.node_id, index: id.index() }
}

pub fn log_id_from_wire(id: &pb::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node_id).to_committed(), id.index)
}

fn entry_to_wire(group: u32, entry: Entry) -> Result<pb::Entry, WireError> {
    let log_id = Some(log_id_to_wire(&entry.log_id));
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) => Some(pb::entry::Payload::Command(command.0)),
        EntryPayload::Membership(membership) => {
            let json =
                serde_json::to_vec(&membership).map_err(|source| WireError::Membership { group, source })?;
            Some(pb::entry::Payload::Membership(json.into()))
        }
    };
    Ok(pb::Entry { log_id, payload })
}

fn entry_from_wire(group: u32, entry: pb::Entry) -> Result<Entry, WireError> {
    let log_id = entry.log_id.as_ref().ok_or(WireError::Missing { group, field: "entry's log id" })?;
    let payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Command(bytes)) => EntryPayload::Normal(Command(bytes)),
        Some(pb::entry::Payload::Membership(json)) => EntryPayload::Membership(
            serde_json::from_slice(&json).map_err(|source| WireError::Membership { group, source })?,
        ),
    };
    Ok(Entry::new(log_id_from_wire(log_id), payload))
}

/// Payload bytes of the entries in a request: what the data-rate metric counts.
pub fn payload_bytes(entries: &[pb::Entry]) -> u64 {
    entries
        .iter()
        .map(|e| match &e.payload {
            Some(pb::entry::Payload::Command(b) | pb::entry::Payload::Membership(b)) => b.len() as u64,
            None => 0,
        })
        .sum()
}

pub fn append_to_wire(
    group: u32,
    stream: u64,
    heartbeat: bool,
    request: AppendEntriesRequest<TypeConfig>,
) -> Result<pb::AppendRequest, WireError> {
    Ok(pb::AppendRequest {
        group,
        stream,
        heartbeat,
        close: false,
        vote: Some(vote_to_wire(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request.entries.into_iter().map(|e| entry_to_wire(group, e)).collect::<Result<_, _>>()?,
    })
}

pub fn append_from_wire(request: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    let group = request.group;
    let vote = request.vote.as_ref().ok_or(WireError::Missing { group, field: "vote" })?;
    check_positions(&request)?;
    Ok(AppendEntriesRequest {
        vote: vote_from_wire(vote),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_from_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_from_wire),
        entries: request.entries.into_iter().map(|e| entry_from_wire(group, e)).collect::<Result<_, _>>()?,
    })
}

/// openraft counts on entries that follow the one before them and each other, and on an index after the last.
fn check_positions(request: &pb::AppendRequest) -> Result<(), WireError> {
    let group = request.group;
    let in_range = |id: &pb::LogId| match id.index {
        index if index > INDEX_MAX => Err(WireError::OutOfRange { group, index }),
        index => Ok(index),
    };
    if let Some(commit) = &request.leader_commit {
        in_range(commit)?;
    }
    let mut expected = request.prev_log_id.as_ref().map(in_range).transpose()?.map_or(0, |prev| prev + 1);
    for id in request.entries.iter().filter_map(|entry| entry.log_id.as_ref()) {
        let found = in_range(id)?;
        if found != expected {
            return Err(WireError::Gap { group, expected, found });
        }
        expected = found + 1;
    }
    Ok(())
}

pub fn append_result_to_wire(result: &StreamAppendResult<TypeConfig>) -> pb::append_result::Result {
    use pb::append_result::Result as R;
    match result {
        Ok(matched) => R::Matched(pb::Matched { log_id: matched.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(id)) => R::Conflict(log_id_to_wire(id)),
        Err(StreamAppendError::HigherVote(vote)) => R::HigherVote(vote_to_wire(vote)),
    }
}

/// `Err` carries the peer's reason for not taking part.
pub fn append_result_from_wire(
    result: Option<pb::append_result::Result>,
) -> Result<StreamAppendResult<TypeConfig>, String> {
    use pb::append_result::Result as R;
    match result {
        Some(R::Matched(m)) => Ok(Ok(m.log_id.as_ref().map(log_id_from_wire))),
        Some(R::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_from_wire(&id)))),
        Some(R::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(vote_from_wire(&vote)))),
        Some(R::Unavailable(reason)) => Err(reason),
        None => Err("the peer closed the stream".to_owned()),
    }
}

pub fn vote_request_to_wire(
    group: u32,
    pre_vote: bool,
    request: &VoteRequest<TypeConfig>,
) -> pb::VoteRequest {
    pb::VoteRequest {
        group,
        pre_vote,
        vote: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub fn vote_request_from_wire(request: &pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    let vote = request.vote.as_ref().ok_or(WireError::Missing { group: request.group, field: "vote" })?;
    let mut out = VoteRequest::new(vote_from_wire(vote), request.last_log_id.as_ref().map(log_id_from_wire));
    out.leadership_transfer = request.leadership_transfer;
    Ok(out)
}

pub fn vote_response_to_wire(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
        granted: response.vote_granted,
        durable: false,
    }
}

pub fn vote_response_from_wire(
    group: u32,
    response: &pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, WireError> {
    let vote = response.vote.as_ref().ok_or(WireError::Missing { group, field: "vote" })?;
    let last_log_id = response.last_log_id.as_ref().map(log_id_from_wire);
    Ok(VoteResponse::new(vote_from_wire(vote), last_log_id, response.granted))
}

pub fn transfer_to_wire(
    group: u32,
    request: &TransferLeaderRequest<TypeConfig>,
) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        group,
        from_leader: Some(vote_to_wire(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_wire),
    }
}

pub fn transfer_from_wire(
    request: &pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, WireError> {
    let from =
        request.from_leader.as_ref().ok_or(WireError::Missing { group: request.group, field: "leader" })?;
    let last_log_id = request.last_log_id.as_ref().map(log_id_from_wire);
    Ok(TransferLeaderRequest::new(vote_from_wire(from), request.to_node_id, last_log_id))
}

pub fn rejection_to_wire(error: &TransferLeaderError<TypeConfig>) -> pb::transfer_leader_response::Rejection {
    use pb::transfer_leader_response::Rejection;
    match error {
        TransferLeaderError::VoteChanged { actual, .. } => Rejection::VoteChanged(vote_to_wire(actual)),
        TransferLeaderError::LogNotFlushed { expected, actual } => {
            Rejection::LogNotFlushed(pb::LogNotFlushed {
                expected: expected.as_ref().map(log_id_to_wire),
                actual: actual.as_ref().map(log_id_to_wire),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(LeaderId::new(term, node).to_committed(), index)
    }

    #[test]
    fn the_leadership_transfer_flag_survives_the_wire() {
        // A codec that drops it makes every transfer wait for the lease.
        let mut request = VoteRequest::<TypeConfig>::new(Vote::new(7, 2), Some(log_id(6, 1, 40)));
        request.leadership_transfer = true;
        let back = vote_request_from_wire(&vote_request_to_wire(3, false, &request)).unwrap();
        assert_eq!(back, request);
    }

    #[test]
    fn every_kind_of_entry_survives_the_wire() {
        let membership = openraft::Membership::new_with_defaults(vec![[0u64, 1, 2].into()], []);
        let entries = vec![
            Entry::new(log_id(1, 0, 1), EntryPayload::Membership(membership)),
            Entry::new(log_id(1, 0, 2), EntryPayload::Blank),
            Entry::new(log_id(2, 1, 3), EntryPayload::Normal(Command(bytes::Bytes::from_static(b"abc")))),
        ];
        let request = AppendEntriesRequest::<TypeConfig> {
            vote: Vote::new_committed(2, 1),
            prev_log_id: Some(log_id(1, 0, 0)),
            leader_commit: Some(log_id(1, 0, 2)),
            entries: entries.clone(),
        };
        let wire = append_to_wire(9, 1, false, request).unwrap();
        let back = append_from_wire(wire).unwrap();
        assert_eq!(back.entries, entries);
        assert_eq!(back.leader_commit, Some(log_id(1, 0, 2)));
    }

    #[test]
    fn entries_that_do_not_follow_each_other_are_refused() {
        let entry =
            |index| pb::Entry { log_id: Some(pb::LogId { term: 1, node_id: 0, index }), payload: None };
        let request = |prev: Option<u64>, entries: &[u64]| pb::AppendRequest {
            group: 4,
            vote: Some(pb::RaftVote { term: 1, node_id: 0, committed: true }),
            prev_log_id: prev.map(|index| pb::LogId { term: 1, node_id: 0, index }),
            entries: entries.iter().copied().map(entry).collect(),
            ..Default::default()
        };
        assert!(append_from_wire(request(None, &[0, 1])).is_ok());
        assert!(append_from_wire(request(Some(6), &[7, 8, 9])).is_ok());
        for (prev, entries) in [
            (None, &[1][..]),
            (Some(6), &[6]),
            (Some(6), &[7, 9]),
            (Some(u64::MAX), &[]),
            (Some(u64::MAX - 1), &[u64::MAX]),
        ] {
            assert!(append_from_wire(request(prev, entries)).is_err(), "{prev:?} {entries:?}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

        #[test]
        fn no_bytes_bring_the_conversions_down(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        ) {
            crate::bad_input::messages(&bytes);
        }
    }

    #[test]
    fn a_request_without_a_vote_is_an_error_not_a_panic() {
        let error = append_from_wire(pb::AppendRequest { group: 4, ..Default::default() }).unwrap_err();
        assert!(error.to_string().contains("group 4"), "{error}");
    }
}
