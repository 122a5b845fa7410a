//! What a call can fail with, for a program to branch on and for a person to act on.

use std::collections::HashMap;
use std::time::Duration;

use evenkeel_protocol::ERROR_DOMAIN;
use evenkeel_protocol::v1::WriteError;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// Why a call failed, after every retry that could help.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The text is not a gateway's address.
    #[error("gateway address {address:?}: {detail}; write host:port, for example 127.0.0.1:26500")]
    BadAddress {
        /// As given.
        address: String,
        /// What is wrong with it.
        detail: String,
    },
    /// No gateway accepted a connection.
    #[error(
        "no gateway answers at {addresses} ({detail}); start a cluster with `evenkeel dev`, or name a gateway \
         with --gateway"
    )]
    Unreachable {
        /// Every address that was tried.
        addresses: String,
        /// The last connection error.
        detail: String,
    },
    /// This side or the other does not accept the other's certificate.
    #[error("{call}: {detail}")]
    NotTrusted {
        /// Which call.
        call: &'static str,
        /// Whose certificate it is, what is wrong with it, and the remedy.
        detail: String,
    },
    /// The call's deadline passed. A write may or may not have been applied.
    #[error(
        "{call}: no answer within {timeout:?} after {attempts} attempts (last: {last}); check the cluster with \
         `evenkeel status`"
    )]
    DeadlineExceeded {
        /// Which call.
        call: &'static str,
        /// Its deadline.
        timeout: Duration,
        /// How often it was sent.
        attempts: u32,
        /// What the last attempt failed with.
        last: String,
    },
    /// The cluster answered, and the answer is no.
    #[error("{call}: {0}", .refusal.message)]
    Refused {
        /// Which call.
        call: &'static str,
        /// The answer.
        refusal: Box<Refusal>,
    },
}

/// A gateway's answer that no retry would change.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// gRPC status.
    pub code: Code,
    /// The gateway's sentence.
    pub message: String,
    /// Reason from `google.rpc.ErrorInfo`, empty when there was none.
    pub reason: String,
    /// Details from `google.rpc.ErrorInfo`.
    pub metadata: HashMap<String, String>,
}

impl ClientError {
    pub(crate) fn refused(call: &'static str, status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == ERROR_DOMAIN);
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let message = match status.message() {
            "" => status.code().description().to_owned(),
            message => message.to_owned(),
        };
        Self::Refused { call, refusal: Box::new(Refusal { code: status.code(), message, reason, metadata }) }
    }

    /// The same, for one write on a stream.
    pub(crate) fn refused_write(call: &'static str, error: WriteError) -> Self {
        let WriteError { code, message, reason, metadata, .. } = error;
        Self::Refused { call, refusal: Box::new(Refusal { code: code.into(), message, reason, metadata }) }
    }

    /// The cluster's answer, when there was one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    /// gRPC code of the cluster's answer, when there was one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(|refusal| refusal.code)
    }

    /// The cluster does not know who calls or does not allow it, or a certificate is not accepted. Nothing was done.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        matches!(self, Self::NotTrusted { .. })
            || matches!(self.code(), Some(Code::Unauthenticated | Code::PermissionDenied))
    }

    /// A write's condition did not hold; nothing was written.
    #[must_use]
    pub fn is_precondition_failed(&self) -> bool {
        self.code() == Some(Code::FailedPrecondition)
    }

    /// Nobody answered: the cluster, or the way to it, is down.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::DeadlineExceeded { .. })
    }

    /// The write may have been applied: only reading the record tells.
    #[must_use]
    pub fn outcome_is_unknown(&self) -> bool {
        matches!(self, Self::DeadlineExceeded { .. })
    }
}

/// Whether sending the same request again can help, and after how long the gateway wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    Never,
    After(Option<Duration>),
}

/// Decides from a status alone. Every request may be repeated: reads change nothing and writes carry an id.
pub(crate) fn retry_advice(status: &Status) -> Retry {
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    if asked.is_some() {
        return Retry::After(asked);
    }
    // A status with a source was made on this side, by a connection that broke.
    let connection_broke = std::error::Error::source(status).is_some();
    match status.code() {
        code if passes(code) => Retry::After(None),
        Code::Unknown | Code::Internal if connection_broke => Retry::After(None),
        _ => Retry::Never,
    }
}

/// The same, for one write on a stream.
pub(crate) fn retry_advice_of_write(error: &WriteError) -> Retry {
    match error.retry_after_ms {
        Some(asked) => Retry::After(Some(Duration::from_millis(asked.into()))),
        None if passes(error.code.into()) => Retry::After(None),
        None => Retry::Never,
    }
}

/// Whether what failed so may succeed later.
fn passes(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled)
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_what_a_retry_can_cure_is_retried() {
        let cases = [
            (Status::unavailable("moving"), Retry::After(None)),
            (Status::deadline_exceeded("slow"), Retry::After(None)),
            (Status::aborted("leader changed"), Retry::After(None)),
            (Status::failed_precondition("exists"), Retry::Never),
            (Status::invalid_argument("empty key"), Retry::Never),
            (Status::internal("bug"), Retry::Never),
            (Status::resource_exhausted("value too large"), Retry::Never),
        ];
        for (status, expected) in cases {
            assert_eq!(retry_advice(&status), expected, "{status}");
        }
    }

    #[test]
    fn retry_info_makes_any_status_retryable() {
        let delay = Duration::from_millis(40);
        let details = ErrorDetails::with_retry_info(Some(delay));
        let status = Status::with_error_details(Code::ResourceExhausted, "overloaded", details);
        assert_eq!(retry_advice(&status), Retry::After(Some(delay)));
    }

    #[test]
    fn a_refusal_carries_reason_and_details_of_our_domain_only() {
        let metadata = HashMap::from([("first_available_position".to_owned(), "17".to_owned())]);
        for (domain, reason) in [(ERROR_DOMAIN, "POSITION_GONE"), ("elsewhere", "")] {
            let details = ErrorDetails::with_error_info("POSITION_GONE", domain, metadata.clone());
            let status = Status::with_error_details(Code::OutOfRange, "too old", details);
            let error = ClientError::refused("watch", &status);
            assert_eq!(error.refusal().unwrap().reason, reason);
            assert_eq!(error.to_string(), "watch: too old");
        }
    }
}
