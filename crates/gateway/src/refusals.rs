//! The errors that a client of the gateway sees: gRPC statuses with `ErrorInfo`, and with `RetryInfo` or
//! `BadRequest` where they help.

use std::collections::HashMap;
use std::time::Duration;

use evenkeel_protocol::v1::{RequestId, WriteError};
use evenkeel_protocol::{ERROR_DOMAIN, NodeId, PartitionId};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// When a client that was turned away for lack of room had better come back.
const RETRY_WHEN_FULL: Duration = Duration::from_millis(200);
/// When a client whose partition's disks are full had better come back: somebody has to make room.
const RETRY_WHEN_DISK_FULL: Duration = Duration::from_secs(5);
/// When a client whose partition had no leader had better come back.
const RETRY_WHEN_LEADERLESS: Duration = Duration::from_millis(500);

/// Why a request could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{in_flight_max} requests are under way already; retry later or raise routing.in_flight_max")]
    TooManyInFlight { in_flight_max: usize },
    #[error(
        "writes under way hold all of the {bytes_max} bytes that they may; retry later or send smaller ones"
    )]
    BytesInFlightFull { bytes_max: usize },
    #[error("requests that are still arriving hold all of the {bytes_max} bytes that they may; retry later")]
    RequestBytesFull { bytes_max: usize },
    #[error("the request did not arrive within {} s; send it again", .waited.as_secs())]
    RequestLate { waited: Duration },
    #[error("the broker that leads partition {partition} has as much under way as it may; retry later")]
    BrokerOverloaded { partition: PartitionId },
    #[error(
        "the watcher took nothing for {} while changes were waiting; read faster, and resume after the last position \
         received", humantime::format_duration(*.patience)
    )]
    SlowWatcher { patience: Duration },
    #[error("{watchers_max} watches are open already; close some or raise limits.watchers_max")]
    TooManyWatchers { watchers_max: usize },
    #[error("{streams_max} write streams are open already; close some, or send more writes on each")]
    TooManyWriteStreams { streams_max: usize },
    #[error(
        "partition {partition} is changing leader and the {parked_bytes_max} bytes for waiting writes are full; \
         retry later or raise routing.parked_bytes_max"
    )]
    ParkedFull { partition: PartitionId, parked_bytes_max: usize },
    #[error("partition {partition} takes no writes: {detail}")]
    DiskFull { partition: PartitionId, broker: NodeId, detail: String },
    #[error("no broker has been reached yet; check cluster.brokers and that the brokers run")]
    NoTopology,
    #[error("partition {partition} had no leader that could take the request in time ({last}); retry")]
    Unavailable { partition: PartitionId, last: &'static str },
    #[error("partition {partition} did not answer in time; retry")]
    ReadTimedOut { partition: PartitionId },
    #[error(
        "the write to partition {partition} may or may not have taken effect; retry it with the same request id \
         (client {}, sequence {}) or read the record", .id.client_id, .id.sequence
    )]
    OutcomeUnknown { partition: PartitionId, id: RequestId, id_given: bool },
    #[error(
        "a newer request of the same client id was applied before (sequence {last_sequence}); use a growing \
         sequence and one client id for each concurrent request"
    )]
    Superseded { last_sequence: u64 },
    #[error("precondition of operation {operation} does not hold: the record's version is {current_version}")]
    PreconditionFailed { operation: u32, current_version: u64 },
    #[error("partition {partition} does not exist: the cluster has 1 to {partitions_count}")]
    UnknownPartition { partition: u32, partitions_count: u32 },
    #[error("{what} is {actual} bytes, at most {limit} are allowed; make it smaller or raise {setting}")]
    TooLarge {
        reason: &'static str,
        what: String,
        field: String,
        actual: usize,
        limit: usize,
        setting: &'static str,
    },
    #[error("{problem}")]
    Invalid { reason: &'static str, field: String, problem: String },
    #[error(
        "changes of partition {partition} are kept from position {first_available_position} on; list the records \
         anew and watch from there"
    )]
    OutOfRange { partition: PartitionId, first_available_position: u64 },
    #[error("the gateway is stopping; connect to another one or wait for it to return")]
    Stopping,
    #[error("a broker answered what it must not: {detail}")]
    BrokerMisbehaved { detail: String },
}

impl Refusal {
    /// An `INVALID_ARGUMENT`.
    pub(crate) fn invalid(
        reason: &'static str,
        field: impl Into<String>,
        problem: impl Into<String>,
    ) -> Self {
        Self::Invalid { reason, field: field.into(), problem: problem.into() }
    }

    fn code_and_reason(&self) -> (Code, &'static str) {
        match self {
            Self::TooManyInFlight { .. } => (Code::ResourceExhausted, "TOO_MANY_IN_FLIGHT"),
            Self::BytesInFlightFull { .. } => (Code::ResourceExhausted, "BYTES_IN_FLIGHT_FULL"),
            Self::RequestBytesFull { .. } => (Code::ResourceExhausted, "REQUEST_BYTES_FULL"),
            Self::RequestLate { .. } => (Code::DeadlineExceeded, "REQUEST_LATE"),
            Self::BrokerOverloaded { .. } => (Code::ResourceExhausted, "BROKER_OVERLOADED"),
            Self::SlowWatcher { .. } => (Code::ResourceExhausted, "SLOW_WATCHER"),
            Self::TooManyWatchers { .. } => (Code::ResourceExhausted, "TOO_MANY_WATCHERS"),
            Self::TooManyWriteStreams { .. } => (Code::ResourceExhausted, "TOO_MANY_WRITE_STREAMS"),
            Self::ParkedFull { .. } => (Code::ResourceExhausted, "PARKED_FULL"),
            Self::DiskFull { .. } => (Code::ResourceExhausted, "DISK_FULL"),
            Self::NoTopology => (Code::Unavailable, "NO_TOPOLOGY"),
            Self::Unavailable { .. } => (Code::Unavailable, "NO_LEADER"),
            Self::ReadTimedOut { .. } => (Code::Unavailable, "NO_ANSWER"),
            // With the client's own id a retry is safe; with ours, a client that retries blindly writes twice.
            Self::OutcomeUnknown { id_given: true, .. } => (Code::Aborted, "OUTCOME_UNKNOWN"),
            Self::OutcomeUnknown { id_given: false, .. } => (Code::Unknown, "OUTCOME_UNKNOWN"),
            Self::Superseded { .. } => (Code::InvalidArgument, "SUPERSEDED"),
            Self::PreconditionFailed { .. } => (Code::FailedPrecondition, "PRECONDITION_FAILED"),
            Self::UnknownPartition { .. } => (Code::NotFound, "UNKNOWN_PARTITION"),
            Self::TooLarge { reason, .. } | Self::Invalid { reason, .. } => (Code::InvalidArgument, reason),
            Self::OutOfRange { .. } => (Code::OutOfRange, "POSITION_NOT_AVAILABLE"),
            Self::Stopping => (Code::Unavailable, "STOPPING"),
            Self::BrokerMisbehaved { .. } => (Code::Internal, "BROKER_MISBEHAVED"),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let pairs: Vec<(&str, String)> = match self {
            Self::TooManyInFlight { in_flight_max: limit }
            | Self::BytesInFlightFull { bytes_max: limit }
            | Self::RequestBytesFull { bytes_max: limit }
            | Self::TooManyWatchers { watchers_max: limit }
            | Self::TooManyWriteStreams { streams_max: limit } => vec![("limit", limit.to_string())],
            Self::ParkedFull { partition, parked_bytes_max } => {
                vec![("partition_id", partition.to_string()), ("limit", parked_bytes_max.to_string())]
            }
            Self::DiskFull { partition, broker, .. } => {
                vec![("partition_id", partition.to_string()), ("broker_id", broker.to_string())]
            }
            Self::Unavailable { partition, last } => {
                vec![("partition_id", partition.to_string()), ("last_setback", (*last).to_owned())]
            }
            Self::ReadTimedOut { partition } | Self::BrokerOverloaded { partition } => {
                vec![("partition_id", partition.to_string())]
            }
            Self::OutcomeUnknown { partition, id, .. } => vec![
                ("partition_id", partition.to_string()),
                ("client_id", id.client_id.to_string()),
                ("sequence", id.sequence.to_string()),
            ],
            Self::Superseded { last_sequence } => vec![("last_sequence", last_sequence.to_string())],
            Self::PreconditionFailed { operation, current_version } => {
                vec![("operation", operation.to_string()), ("current_version", current_version.to_string())]
            }
            Self::UnknownPartition { partition, partitions_count } => vec![
                ("partition_id", partition.to_string()),
                ("partitions_count", partitions_count.to_string()),
            ],
            Self::TooLarge { actual, limit, .. } => {
                vec![("actual", actual.to_string()), ("limit", limit.to_string())]
            }
            Self::OutOfRange { partition, first_available_position } => vec![
                ("partition_id", partition.to_string()),
                ("first_available_position", first_available_position.to_string()),
            ],
            Self::NoTopology
            | Self::RequestLate { .. }
            | Self::SlowWatcher { .. }
            | Self::Invalid { .. }
            | Self::Stopping
            | Self::BrokerMisbehaved { .. } => Vec::new(),
        };
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// When the same request, sent again, may succeed; `None` where that cannot help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TooManyInFlight { .. }
            | Self::BytesInFlightFull { .. }
            | Self::RequestBytesFull { .. }
            | Self::BrokerOverloaded { .. }
            | Self::TooManyWatchers { .. }
            | Self::TooManyWriteStreams { .. }
            | Self::ParkedFull { .. } => Some(RETRY_WHEN_FULL),
            Self::DiskFull { .. } => Some(RETRY_WHEN_DISK_FULL),
            Self::NoTopology
            | Self::Unavailable { .. }
            | Self::ReadTimedOut { .. }
            | Self::OutcomeUnknown { id_given: true, .. }
            | Self::Stopping => Some(RETRY_WHEN_LEADERLESS),
            Self::RequestLate { .. }
            | Self::SlowWatcher { .. }
            | Self::OutcomeUnknown { id_given: false, .. }
            | Self::Superseded { .. }
            | Self::PreconditionFailed { .. }
            | Self::UnknownPartition { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::OutOfRange { .. }
            | Self::BrokerMisbehaved { .. } => None,
        }
    }

    pub(crate) fn code(&self) -> Code {
        self.code_and_reason().0
    }
}

/// Of one write on a stream.
impl From<Refusal> for WriteError {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.code_and_reason();
        let retry_after = refusal.retry_after();
        Self {
            code: code.into(),
            message: refusal.to_string(),
            reason: reason.to_owned(),
            metadata: refusal.metadata(),
            retry_after_ms: retry_after.map(|after| u32::try_from(after.as_millis()).unwrap_or(u32::MAX)),
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let (code, reason) = refusal.code_and_reason();
        let message = refusal.to_string();
        let mut details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, refusal.metadata());
        // An empty RetryInfo would ask for a retry as well.
        if let Some(after) = refusal.retry_after() {
            details.set_retry_info(Some(after));
        }
        match &refusal {
            Refusal::TooLarge { field, .. } | Refusal::Invalid { field, .. } => {
                details.add_bad_request_violation(field.clone(), message.clone());
            }
            Refusal::PreconditionFailed { operation, .. } => {
                details.add_precondition_failure_violation(
                    "VERSION",
                    format!("operations[{operation}]"),
                    message.clone(),
                );
            }
            _ => {}
        }
        Status::with_error_details(code, message, details)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_tells_reason_and_what_to_do() {
        let status = Status::from(Refusal::PreconditionFailed { operation: 0, current_version: 4 });
        assert_eq!(status.code(), Code::FailedPrecondition);
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.domain.as_str(), info.reason.as_str()), (ERROR_DOMAIN, "PRECONDITION_FAILED"));
        assert_eq!(info.metadata["current_version"], "4");

        let status = Status::from(Refusal::ParkedFull { partition: PartitionId(3), parked_bytes_max: 10 });
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.get_details_retry_info().is_some());

        let id = RequestId { client_id: 7, sequence: 9 };
        for (id_given, code) in [(true, Code::Aborted), (false, Code::Unknown)] {
            let unknown = Refusal::OutcomeUnknown { partition: PartitionId(3), id, id_given };
            let status = Status::from(unknown);
            assert_eq!(status.code(), code);
            assert_eq!(status.get_details_error_info().unwrap().metadata["sequence"], "9");
            assert_eq!(
                status.get_details_retry_info().is_some(),
                id_given,
                "a blind retry could apply twice"
            );
        }
    }
}
