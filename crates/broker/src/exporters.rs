//! What an operator can set about exporters: `[[exporters]]`, each with a name, a kind, and what its kind needs.

use std::collections::BTreeSet;
use std::time::Duration;

use evenkeel_raft_storage::{EXPORTER_NAME_BYTES_MAX, EXPORTERS_MAX};
use http::Uri;
use http::uri::Scheme;
use serde::{Deserialize, Serialize};

use crate::http_export::HttpExport;
use crate::options::{DURATION_MAX, OptionsError};

const KEY: &str = "exporters";
/// Smallest file that is rotated: below it there would be a file for every few records.
const FILE_BYTES_MIN: u64 = 4_096;
const FILE_BYTES_MAX: u64 = 1 << 40;
const BATCH_RECORDS_MAX: usize = 10_000;
const BATCH_BYTES_MAX: usize = 16 << 20;

/// One exporter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExporterOptions {
    /// Under this name the position is remembered.
    pub name: String,
    /// Where records go.
    pub kind: ExporterKind,
    /// JSON Lines: the folder of the files.
    #[serde(default)]
    pub directory: String,
    /// JSON Lines: a file that has reached this size is followed by another.
    #[serde(default = "file_bytes_max_default")]
    pub file_bytes_max: u64,
    /// JSON Lines: files kept of each partition; 0 keeps all.
    #[serde(default = "files_max_default")]
    pub files_max: u32,
    /// HTTP: where to post to.
    #[serde(default)]
    pub url: String,
    /// HTTP: PEM file with the authorities that an https receiver's certificate may be of.
    #[serde(default)]
    pub ca_file: String,
    /// HTTP: an answer that takes longer is none.
    #[serde(default = "request_timeout_default", with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Records of one batch.
    #[serde(default = "batch_records_max_default")]
    pub batch_records_max: usize,
    /// Bytes of keys and values of one batch; a larger record goes alone.
    #[serde(default = "batch_bytes_max_default")]
    pub batch_bytes_max: usize,
}

/// Where an exporter's records go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExporterKind {
    /// Files of this broker.
    JsonLines,
    /// Somebody's HTTP endpoint.
    Http,
}

fn file_bytes_max_default() -> u64 {
    64 << 20
}

fn files_max_default() -> u32 {
    16
}

fn request_timeout_default() -> Duration {
    Duration::from_secs(10)
}

fn batch_records_max_default() -> usize {
    500
}

fn batch_bytes_max_default() -> usize {
    1 << 20
}

/// Refuses an authority's file that cannot be used, before a broker starts with it.
pub(crate) fn check_files(exporters: &[ExporterOptions]) -> Result<(), OptionsError> {
    for exporter in exporters.iter().filter(|exporter| exporter.kind == ExporterKind::Http) {
        HttpExport::new(exporter).map_err(|error| {
            let remedy = "name a PEM file with the authority of the receiver's certificate";
            let problem = format!("of exporter {:?} cannot be used ({error})", exporter.name);
            refuse(format!("{:?}", exporter.ca_file), problem, remedy)
        })?;
    }
    Ok(())
}

/// Refuses what cannot work.
pub(crate) fn check(exporters: &[ExporterOptions]) -> Result<(), OptionsError> {
    if exporters.len() > EXPORTERS_MAX {
        return Err(refuse(
            format!("[{} tables]", exporters.len()),
            "is too many",
            format!("list at most {EXPORTERS_MAX}"),
        ));
    }
    let mut names = BTreeSet::new();
    for exporter in exporters {
        let name = format!("{:?}", exporter.name);
        let fits = (1..=EXPORTER_NAME_BYTES_MAX).contains(&exporter.name.len());
        if !fits || !exporter.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            let remedy = format!("use 1 to {EXPORTER_NAME_BYTES_MAX} letters, digits, '-', '_' or '.'");
            return Err(refuse(name, "is not a name", remedy));
        }
        if !names.insert(&exporter.name) {
            return Err(refuse(name, "is the name of two exporters", "give each its own"));
        }
        check_one(exporter)?;
    }
    Ok(())
}

fn check_one(exporter: &ExporterOptions) -> Result<(), OptionsError> {
    let of = |what: &str| format!("of exporter {:?} {what}", exporter.name);
    match exporter.kind {
        ExporterKind::JsonLines if exporter.directory.is_empty() => {
            let remedy = "set directory to the folder that the files are to be in";
            return Err(refuse("json-lines", of("has no directory"), remedy));
        }
        ExporterKind::JsonLines if !exporter.url.is_empty() => {
            return Err(refuse("json-lines", of("has a url"), "remove it, or set kind to \"http\""));
        }
        ExporterKind::JsonLines if !exporter.ca_file.is_empty() => {
            return Err(refuse("json-lines", of("has a ca_file"), "remove it, or set kind to \"http\""));
        }
        ExporterKind::Http if !exporter.directory.is_empty() => {
            return Err(refuse("http", of("has a directory"), "remove it, or set kind to \"json-lines\""));
        }
        ExporterKind::Http => {
            let uri: Option<Uri> = exporter.url.parse().ok();
            let scheme = uri.filter(|uri| uri.host().is_some()).and_then(|uri| uri.scheme().cloned());
            match scheme.as_ref().map(Scheme::as_str) {
                Some("https") if exporter.ca_file.is_empty() => {
                    let remedy = "set ca_file to a PEM file with the authority of its certificate, such as \
                                  /etc/ssl/certs/ca-certificates.crt";
                    return Err(refuse(
                        format!("{:?}", exporter.url),
                        of("needs to know whom to trust"),
                        remedy,
                    ));
                }
                Some("http") if !exporter.ca_file.is_empty() => {
                    let remedy = "write https:// in url, or remove ca_file";
                    return Err(refuse(format!("{:?}", exporter.url), of("is not encrypted"), remedy));
                }
                Some("http" | "https") => {}
                _ => {
                    let remedy = "write http://HOST:PORT/PATH or https://HOST/PATH";
                    return Err(refuse(format!("{:?}", exporter.url), of("is not an http URL"), remedy));
                }
            }
        }
        ExporterKind::JsonLines => {}
    }
    if !(FILE_BYTES_MIN..=FILE_BYTES_MAX).contains(&exporter.file_bytes_max) {
        let remedy = format!("set file_bytes_max to {FILE_BYTES_MIN} to {FILE_BYTES_MAX}");
        return Err(refuse(exporter.file_bytes_max, of("is out of range"), remedy));
    }
    if !(1..=BATCH_RECORDS_MAX).contains(&exporter.batch_records_max) {
        let remedy = format!("set batch_records_max to 1 to {BATCH_RECORDS_MAX}");
        return Err(refuse(exporter.batch_records_max, of("is out of range"), remedy));
    }
    if !(1..=BATCH_BYTES_MAX).contains(&exporter.batch_bytes_max) {
        let remedy = format!("set batch_bytes_max to 1 to {BATCH_BYTES_MAX}");
        return Err(refuse(exporter.batch_bytes_max, of("is out of range"), remedy));
    }
    if exporter.request_timeout < Duration::from_millis(1) || exporter.request_timeout > DURATION_MAX {
        let value = humantime::format_duration(exporter.request_timeout);
        return Err(refuse(value, of("is out of range"), "set request_timeout to 1ms to 10m"));
    }
    Ok(())
}

fn refuse(value: impl ToString, problem: impl Into<String>, remedy: impl Into<String>) -> OptionsError {
    let (problem, remedy) = (problem.into(), remedy.into());
    OptionsError::Setting { key: KEY, value: value.to_string(), problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(), String> {
        let options: crate::options::Options = toml::from_str(text).map_err(|error| error.to_string())?;
        check(&options.exporters).map_err(|error| error.to_string())
    }

    #[test]
    fn exporters_are_taken_as_written_and_refused_by_name() {
        let files = "[[exporters]]\nname = \"files\"\nkind = \"json-lines\"\ndirectory = \"exports\"\n";
        let hook = "[[exporters]]\nname = \"hook\"\nkind = \"http\"\nurl = \"http://127.0.0.1:8000/in\"\n";
        assert_eq!(parsed(&format!("{files}{hook}")), Ok(()));
        let secured = format!("{}ca_file = \"ca.crt\"", hook.replace("http:", "https:"));
        assert_eq!(parsed(&secured), Ok(()));
        let table = [
            (files.replace("files\"", "fi les\""), "exporters = \"fi les\": is not a name; use"),
            (format!("{files}{files}"), "exporters = \"files\": is the name of two exporters; give"),
            (
                files.replace("directory = \"exports\"", ""),
                "exporters = json-lines: of exporter \"files\" has no directory; set",
            ),
            (
                format!("{files}url = \"http://h\""),
                "exporters = json-lines: of exporter \"files\" has a url; remove",
            ),
            (
                hook.replace("http:", "https:"),
                "exporters = \"https://127.0.0.1:8000/in\": of exporter \"hook\" needs to know whom to trust; set",
            ),
            (
                hook.replace("http:", "ftp:"),
                "exporters = \"ftp://127.0.0.1:8000/in\": of exporter \"hook\" is not an http URL; write",
            ),
            (
                format!("{hook}ca_file = \"ca.crt\""),
                "exporters = \"http://127.0.0.1:8000/in\": of exporter \"hook\" is not encrypted; write",
            ),
            (
                format!("{hook}batch_records_max = 0"),
                "exporters = 0: of exporter \"hook\" is out of range; set batch_records_max",
            ),
            (
                format!("{hook}request_timeout = \"0s\""),
                "exporters = 0s: of exporter \"hook\" is out of range; set request_timeout",
            ),
            (
                format!("{files}file_bytes_max = 1"),
                "exporters = 1: of exporter \"files\" is out of range; set file_bytes_max",
            ),
        ];
        for (text, expected) in table {
            let refused = parsed(&text).unwrap_err();
            assert!(refused.starts_with(expected), "{refused}");
        }
        assert!(parsed("[[exporters]]\nname = \"a\"\nkind = \"kafka\"").unwrap_err().contains("kafka"));
    }
}
