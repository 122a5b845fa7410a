//! One archive for a bug report. No record, key or token goes into it: only what the operator's side of the API tells, the
//! gateway's metrics, and which variables are set. What looks like a secret all the same is cut out.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};

use crate::cluster::connection::Connection;
use crate::cluster::http::join;
use crate::commands::status::{Seen, status_json};
use crate::output::outcome::Failure;

/// Folder within the archive.
const FOLDER: &str = "evenkeel-doctor";
const REMOVED: &str = "(removed)";
/// Variables whose names have one of these are told without value.
const SECRET_NAMES: [&str; 5] = ["TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL"];
/// What the API is asked for, by file.
const API_DOCUMENTS: [(&str, &str); 6] = [
    ("topology.json", "/v2/topology"),
    ("brokers.json", "/cluster/v2/brokers"),
    ("rebalance.json", "/cluster/v2/rebalance"),
    ("rebalance-history.json", "/cluster/v2/rebalance/history"),
    ("ownership.json", "/ESCManager/internal/ownership"),
    ("audit.json", "/cluster/v2/audit?limit=1000"),
];

/// Writes the archive. What cannot be had is told in its place.
pub async fn write(
    path: &Path,
    connection: &Connection,
    seen: Option<&Seen>,
    findings: &Value,
) -> Result<(), Failure> {
    let mut files = vec![
        ("findings.json".to_owned(), format!("{findings:#}")),
        ("program.json".to_owned(), format!("{:#}", program())),
        ("variables.txt".to_owned(), variables(std::env::vars_os().filter_map(readable))),
    ];
    if let Some(Seen { topology, wishes, drained_known }) = seen {
        let drained = drained_known.then_some(&wishes.drained);
        files.push(("status.json".to_owned(), format!("{:#}", status_json(topology, drained, wishes))));
        for broker in &topology.brokers {
            let path = format!("/cluster/v2/brokers/{}/restart-risk", broker.node_id);
            let file = format!("restart-risk-{}.json", broker.node_id);
            files.push((file, fetched(connection, &connection.api, &path).await));
        }
    }
    for (file, path) in API_DOCUMENTS {
        files.push((file.to_owned(), fetched(connection, &connection.api, path).await));
    }
    for (file, path) in
        [("gateway-metrics.txt", "/actuator/prometheus"), ("gateway-health.json", "/actuator/health")]
    {
        files.push((file.to_owned(), fetched(connection, &connection.monitoring, path).await));
    }
    let secrets = secrets(connection);
    let archive = packed(files.iter().map(|(file, text)| (file.as_str(), scrubbed(text, &secrets))));
    let archive = archive.map_err(|error| Failure::new(1, format!("the archive: {error}")))?;
    std::fs::write(path, archive)
        .map_err(|error| Failure::new(1, format!("--bundle {}: {error}; name another file", path.display())))
}

fn program() -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "system": std::env::consts::OS,
        "machine": std::env::consts::ARCH,
        "written_at": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
    })
}

async fn fetched(connection: &Connection, base: &str, path: &str) -> String {
    let asked = async { connection.http()?.get(&join(base, path)).await };
    match asked.await {
        Ok(answer) if answer.status.is_success() => answer.text(),
        Ok(answer) => format!("not to be had: {}\n{}", answer.status, answer.text()),
        Err(failure) => format!("not to be had: {failure}"),
    }
}

fn readable((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// Our own variables, without the values of those that could be secrets.
fn variables(all: impl Iterator<Item = (String, String)>) -> String {
    let mut lines: Vec<String> = all
        .filter(|(name, _)| name.starts_with("EVENKEEL_"))
        .map(|(name, value)| {
            let secret = SECRET_NAMES.iter().any(|part| name.contains(part));
            format!("{name}={}\n", if secret { REMOVED } else { &value })
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// The text of the token that this command uses.
fn secrets(connection: &Connection) -> Vec<String> {
    let text = connection.token_file.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    text.into_iter().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
}

/// The text without these secrets, without bearer tokens, and without names and passwords in URLs.
fn scrubbed(text: &str, secrets: &[String]) -> String {
    let mut text = text.to_owned();
    for secret in secrets {
        text = text.replace(secret, REMOVED);
    }
    let text = cut(&text, "Bearer ", |c| c.is_whitespace() || c == '"', |_| true);
    cut(&text, "://", |c| c.is_whitespace() || "\"/'<>".contains(c), |rest| rest.contains('@'))
}

/// Cuts out what follows each `mark` up to an `end`, when it `is_secret`; of a URL only what comes before the `@`.
fn cut(text: &str, mark: &str, end: impl Fn(char) -> bool, is_secret: impl Fn(&str) -> bool) -> String {
    let mut parts = text.split(mark);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (found, rest) = part.split_at(part.find(&end).unwrap_or(part.len()));
        clean.push_str(mark);
        match found {
            found if found.is_empty() || !is_secret(found) => clean.push_str(found),
            found => {
                clean.push_str(REMOVED);
                if let Some((_, host)) = found.rsplit_once('@') {
                    clean.push('@');
                    clean.push_str(host);
                }
            }
        }
        clean.push_str(rest);
    }
    clean
}

fn packed<'a>(files: impl Iterator<Item = (&'a str, String)>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    for (file, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_ref().map_or(0, std::time::Duration::as_secs));
        archive.append_data(&mut header, format!("{FOLDER}/{file}"), text.as_bytes())?;
    }
    let mut whole = archive.into_inner()?;
    whole.flush()?;
    whole.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn secrets_are_cut_out_wherever_they_stand() {
        let secrets = ["s3cret".to_owned()];
        let table = [
            ("token s3cret here", "token (removed) here"),
            ("\"Authorization\": \"Bearer abc.def\"", "\"Authorization\": \"Bearer (removed)\""),
            ("http://ops:pass@h:1/x y", "http://(removed)@h:1/x y"),
            ("http://h:1/x a@b", "http://h:1/x a@b"),
            ("plain", "plain"),
        ];
        for (text, expected) in table {
            assert_eq!(scrubbed(text, &secrets), expected);
        }
        let variables = variables(
            [("EVENKEEL_TOKEN_FILE", "/t"), ("PATH", "/bin"), ("EVENKEEL_GATEWAY", "a:1")]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        assert_eq!(variables, "EVENKEEL_GATEWAY=a:1\nEVENKEEL_TOKEN_FILE=(removed)\n");
    }

    #[test]
    fn the_archive_can_be_unpacked() {
        let bytes = packed([("a.txt", "text".to_owned())].into_iter()).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        assert_eq!((entry.path().unwrap().to_str(), text.as_str()), (Some("evenkeel-doctor/a.txt"), "text"));
        assert!(entries.next().is_none());
    }
}
