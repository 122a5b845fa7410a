//! The errors of the gRPC services as HTTP shows them: one status, and a problem+json with the same reason, metadata and
//! advice on trying again.

use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde_json::{Map, Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::http::problem_with;

/// The answer to a request that a service refused.
pub(crate) fn response(status: &Status, uri: &Uri) -> Response {
    let code = http_status(status);
    let mut response = problem_with(code, uri, status.message().to_owned(), members(status));
    if code == StatusCode::PAYLOAD_TOO_LARGE {
        // For clients that ask first: the body has been read, and the connection goes on.
        return response;
    }
    if let Some(after) = retry_after(status) {
        // Whole seconds are all that the header can say; the problem says it exactly.
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    response
}

/// What a problem tells beside the sentence.
pub(crate) fn members(status: &Status) -> Value {
    let mut members = Map::new();
    if let Some(info) = status.get_details_error_info() {
        members.insert("reason".to_owned(), json!(info.reason));
        if !info.metadata.is_empty() {
            let metadata: std::collections::BTreeMap<_, _> = info.metadata.into_iter().collect();
            members.insert("metadata".to_owned(), json!(metadata));
        }
    }
    if let Some(after) = retry_after(status) {
        members
            .insert("retryAfterMs".to_owned(), json!(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)));
    }
    Value::Object(members)
}

fn retry_after(status: &Status) -> Option<std::time::Duration> {
    status.get_details_retry_info()?.retry_delay
}

fn http_status(status: &Status) -> StatusCode {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    match (status.code(), reason.as_str()) {
        (Code::InvalidArgument, "VALUE_TOO_LARGE") => StatusCode::PAYLOAD_TOO_LARGE,
        (Code::InvalidArgument, "SUPERSEDED") => StatusCode::CONFLICT,
        (Code::InvalidArgument, _) => StatusCode::BAD_REQUEST,
        (Code::FailedPrecondition, _) => StatusCode::PRECONDITION_FAILED,
        (Code::NotFound, _) => StatusCode::NOT_FOUND,
        (Code::OutOfRange, _) => StatusCode::GONE,
        (Code::ResourceExhausted, "DISK_FULL") => StatusCode::INSUFFICIENT_STORAGE,
        (Code::ResourceExhausted, _) => StatusCode::TOO_MANY_REQUESTS,
        (Code::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        // Whether the write took effect is not known.
        (Code::Aborted | Code::Unknown | Code::DeadlineExceeded, _) => StatusCode::GATEWAY_TIMEOUT,
        (Code::Internal, _) => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_protocol::PartitionId;
    use evenkeel_protocol::v1::RequestId;

    use super::*;
    use crate::refusals::Refusal;

    #[test]
    fn every_refusal_has_a_status_of_its_kind_and_says_when_to_come_back() {
        let partition = PartitionId(3);
        let id = RequestId { client_id: 7, sequence: 1 };
        let table = [
            (Refusal::invalid("BAD_PRECONDITION", "If-Match", "x"), 400, "BAD_PRECONDITION", false),
            (
                Refusal::PreconditionFailed { operation: 0, current_version: 4 },
                412,
                "PRECONDITION_FAILED",
                false,
            ),
            (
                Refusal::OutOfRange { partition, first_available_position: 9 },
                410,
                "POSITION_NOT_AVAILABLE",
                false,
            ),
            (Refusal::TooManyInFlight { in_flight_max: 1 }, 429, "TOO_MANY_IN_FLIGHT", true),
            (Refusal::NoTopology, 503, "NO_TOPOLOGY", true),
            (Refusal::Superseded { last_sequence: 2 }, 409, "SUPERSEDED", false),
            (Refusal::OutcomeUnknown { partition, id, id_given: true }, 504, "OUTCOME_UNKNOWN", true),
            (Refusal::OutcomeUnknown { partition, id, id_given: false }, 504, "OUTCOME_UNKNOWN", false),
            (Refusal::BrokerMisbehaved { detail: "x".into() }, 502, "BROKER_MISBEHAVED", false),
        ];
        for (refusal, code, reason, retries) in table {
            let status = Status::from(refusal);
            let response = response(&status, &Uri::from_static("/v1/records/k"));
            assert_eq!(response.status().as_u16(), code, "{reason}");
            assert_eq!(members(&status)["reason"], reason);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), retries, "{reason}");
        }
        let full = Refusal::TooLarge {
            reason: "VALUE_TOO_LARGE",
            what: "value".into(),
            field: "value".into(),
            actual: 9,
            limit: 8,
            setting: "limits.value_bytes_max",
        };
        let status = Status::from(full);
        assert_eq!(http_status(&status), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(members(&status)["metadata"]["limit"], "8");
    }
}
