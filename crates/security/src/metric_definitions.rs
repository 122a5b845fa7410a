//! Names and help texts of this crate's metrics.

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Counter, Unit, counter, describe_counter, describe_gauge, gauge};

const CERTIFICATE_EXPIRY: &str = "evenkeel_certificate_expiry_timestamp_seconds";
const RELOADS: &str = "evenkeel_security_reloads_total";
const CONNECTIONS_REFUSED: &str = "evenkeel_tls_connections_refused_total";
const REQUESTS_DENIED: &str = "evenkeel_requests_denied_total";

/// Registers the help texts with the recorder that is installed.
pub(crate) fn describe() {
    describe_gauge!(
        CERTIFICATE_EXPIRY,
        Unit::Seconds,
        "When a certificate that this process uses expires, seconds since 1970: its own, or the first of the \
         authority's."
    );
    describe_counter!(
        RELOADS,
        Unit::Count,
        "Times that changed certificate or token files were read, by outcome."
    );
    describe_counter!(CONNECTIONS_REFUSED, Unit::Count, "Connections that TLS did not let in, by reason.");
    describe_counter!(REQUESTS_DENIED, Unit::Count, "Requests without sufficient credentials, by reason.");
}

pub(crate) fn set_certificate_expiry(certificate: &'static str, at: SystemTime) {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    gauge!(CERTIFICATE_EXPIRY, "certificate" => certificate).set(seconds);
}

pub(crate) fn reloads(what: &'static str, outcome: &'static str) -> Counter {
    counter!(RELOADS, "what" => what, "outcome" => outcome)
}

pub(crate) fn connections_refused(reason: &'static str) -> Counter {
    counter!(CONNECTIONS_REFUSED, "reason" => reason)
}

pub(crate) fn requests_denied(reason: &'static str) -> Counter {
    counter!(REQUESTS_DENIED, "reason" => reason)
}
