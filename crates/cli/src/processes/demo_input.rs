//! Real records for the demo: the packages that this workspace is built from, or a file that is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};

const CARGO_TIMEOUT: Duration = Duration::from_secs(120);
/// The field that `packages_file` keys its lines by.
pub const PACKAGE_KEY: &str = "id";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    name: String,
    version: String,
    description: Option<String>,
    license: Option<String>,
    repository: Option<String>,
}

#[derive(Serialize)]
struct PackageLine<'a> {
    id: String,
    name: &'a str,
    version: &'a str,
    description: Option<&'a str>,
    license: Option<&'a str>,
    repository: Option<&'a str>,
}

/// Asks cargo for the packages of the workspace in the current folder and writes them as JSON Lines.
pub async fn packages_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let remedy = "run this in a Rust workspace, or give records with --file FILE --key FIELD";
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = tokio::process::Command::new(cargo);
    command.args(["metadata", "--format-version", "1"]).kill_on_drop(true);
    let output = tokio::time::timeout(CARGO_TIMEOUT, command.output());
    let output =
        output.await.map_err(|_| anyhow!("cargo metadata: no answer within {CARGO_TIMEOUT:?}; {remedy}"))?;
    let output = output.map_err(|error| anyhow!("cargo metadata: {error}; {remedy}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("cargo metadata: {}; {remedy}", errors.lines().next().unwrap_or("it failed"));
    }
    let lines =
        package_lines(&output.stdout).map_err(|error| anyhow!("cargo metadata: {error:#}; {remedy}"))?;
    let file = folder.join("packages.jsonl");
    std::fs::write(&file, lines).with_context(|| file.display().to_string())?;
    Ok(file)
}

fn package_lines(metadata: &[u8]) -> anyhow::Result<String> {
    let metadata: Metadata = serde_json::from_slice(metadata)?;
    let mut lines = String::new();
    for package in &metadata.packages {
        let line = PackageLine {
            id: format!("{}@{}", package.name, package.version),
            name: &package.name,
            version: &package.version,
            description: package.description.as_deref(),
            license: package.license.as_deref(),
            repository: package.repository.as_deref(),
        };
        lines.push_str(&serde_json::to_string(&line)?);
        lines.push('\n');
    }
    if lines.is_empty() {
        bail!("it names no package");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_become_lines_keyed_by_name_and_version() {
        let metadata =
            r#"{"packages":[{"name":"a","version":"1.0.0","description":"does\nthings","x":1}],"y":2}"#;
        let expected = "{\"id\":\"a@1.0.0\",\"name\":\"a\",\"version\":\"1.0.0\",\"description\":\"does\\nthings\",\
                        \"license\":null,\"repository\":null}\n";
        assert_eq!(package_lines(metadata.as_bytes()).unwrap(), expected);
        assert!(package_lines(br#"{"packages":[]}"#).is_err());
    }
}
