//! A way in for bytes that nobody vouches for, as property tests and the fuzz targets in `fuzz/` take it.

use evenkeel_protocol::internal::v1 as pb;
use prost::Message;

use crate::wire;

/// The bytes as each message that a peer may send. What converts also converts back.
pub fn messages(bytes: &[u8]) {
    if let Ok(frame) = pb::AppendFrame::decode(bytes) {
        for request in frame.requests {
            let (group, stream, heartbeat) = (request.group, request.stream, request.heartbeat);
            let _ = wire::payload_bytes(&request.entries);
            if let Ok(converted) = wire::append_from_wire(request) {
                assert!(wire::append_to_wire(group, stream, heartbeat, converted).is_ok());
            }
        }
    }
    if let Ok(frame) = pb::AppendResultFrame::decode(bytes) {
        for result in frame.results {
            if let Ok(converted) = wire::append_result_from_wire(result.result) {
                let _ = wire::append_result_to_wire(&converted);
            }
        }
    }
    if let Ok(request) = pb::VoteRequest::decode(bytes)
        && let Ok(converted) = wire::vote_request_from_wire(&request)
    {
        let _ = wire::vote_request_to_wire(request.group, request.pre_vote, &converted);
    }
    if let Ok(response) = pb::VoteResponse::decode(bytes)
        && let Ok(converted) = wire::vote_response_from_wire(1, &response)
    {
        let _ = wire::vote_response_to_wire(&converted);
    }
    if let Ok(request) = pb::TransferLeaderRequest::decode(bytes)
        && let Ok(converted) = wire::transfer_from_wire(&request)
    {
        let _ = wire::transfer_to_wire(request.group, &converted);
    }
    let _ = pb::SnapshotChunk::decode(bytes);
    let _ = pb::WriteFrame::decode(bytes);
    let _ = pb::Command::decode(bytes);
}
