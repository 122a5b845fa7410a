//! Which certificates the gateways show, and for how long they are valid.

use std::time::{Duration, SystemTime};

use evenkeel_security::{Certificate, Shown};

use super::{Finding, Level};
use crate::cluster::connection::Connection;

/// From so long before its end on a certificate is worth a word.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 86_400);
/// A port that does not answer for longer is not waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub async fn examine(connection: &Connection) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in &connection.gateway {
        let step = format!("certificate of {address}");
        let found = tokio::time::timeout(ANSWER_TIMEOUT, shown_by(address)).await;
        findings.push(match found {
            Ok(Ok(certificate)) => judge(step, &certificate, SystemTime::now()),
            Ok(Err(problem)) => {
                Finding::new(step, Level::Wrong, problem, format!("evenkeel tls inspect {address}"))
            }
            Err(_) => {
                let told = format!("not shown within {ANSWER_TIMEOUT:?}");
                Finding::new(step, Level::Wrong, told, "start the gateway, or see its log")
            }
        });
    }
    findings
}

async fn shown_by(address: &str) -> Result<Certificate, String> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| "it is not host:port".to_owned())?;
    let port = port.parse().map_err(|error| format!("port {port:?}: {error}"))?;
    let host = host.trim_matches(['[', ']']);
    let shown = Shown::by_server(host, port).await.map_err(|error| error.to_string())?;
    let own = shown.certificates().next().ok_or_else(|| "no certificate is shown".to_owned())?;
    Certificate::parse(own).map_err(|error| error.to_string())
}

fn judge(step: String, certificate: &Certificate, now: SystemTime) -> Finding {
    let until = humantime::format_rfc3339_seconds(certificate.not_after);
    let renew = "renew it with `evenkeel tls issue --replace`; processes take it up by themselves";
    match certificate.not_after.duration_since(now) {
        Err(_) => Finding::new(step, Level::Wrong, format!("expired at {until}"), renew),
        Ok(_) if certificate.not_before > now => {
            let from = humantime::format_rfc3339_seconds(certificate.not_before);
            Finding::new(step, Level::Wrong, format!("not valid before {from}"), "set the clocks right")
        }
        Ok(left) if left < EXPIRES_SOON => {
            Finding::new(step, Level::Warning, format!("expires at {until}"), renew)
        }
        Ok(_) => Finding::ok(step, format!("valid until {until}")),
    }
}
