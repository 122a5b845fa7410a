//! `evenkeel doctor`: goes the whole way to the cluster step by step, says where it ends and what to do, and packs what a
//! bug report needs.
//!
//! Exit codes: 0 nothing is wrong, 10 something is.

mod bundle;
mod certificates;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::cluster::connection::Connection;
use crate::cluster::http::join;
use crate::commands::assessment::assess;
use crate::commands::status::{Seen, look};
use crate::output::format::Output;
use crate::output::outcome::{EXIT_UNHEALTHY, Failure, note};
use crate::output::tables::table;

#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Pack findings, topology, runs, audit and metrics into this .tar.gz, with secrets removed
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// How to print the findings
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// How bad it is, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Ok,
    Warning,
    Wrong,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Wrong => "WRONG",
        }
    }
}

/// What one step found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    step: String,
    level: Level,
    told: String,
    fix: Option<String>,
}

impl Finding {
    fn ok(step: impl Into<String>, told: impl Into<String>) -> Self {
        Self { step: step.into(), level: Level::Ok, told: told.into(), fix: None }
    }

    fn new(step: impl Into<String>, level: Level, told: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { step: step.into(), level, told: told.into(), fix: Some(fix.into()) }
    }

    fn to_json(&self) -> Value {
        json!({"step": self.step, "level": self.level.name().to_lowercase(), "told": self.told, "fix": self.fix})
    }
}

pub async fn run(args: DoctorArgs, connection: &Connection) -> Result<(), Failure> {
    let (findings, seen) = examine(connection).await?;
    let all = || findings.iter().map(Finding::to_json).collect::<Value>();
    args.output.show(|| in_words(&findings), all)?;
    if let Some(path) = &args.bundle {
        bundle::write(path, connection, seen.as_ref(), &all()).await?;
        note(format_args!(
            "{} holds what a bug report needs; look into it before you send it",
            path.display()
        ));
    }
    let wrong = findings.iter().filter(|finding| finding.level == Level::Wrong).count();
    match wrong {
        0 => Ok(()),
        wrong => Err(Failure::new(
            EXIT_UNHEALTHY,
            format!(
                "{wrong} of {} steps found something wrong; begin with the first, then run `evenkeel doctor` again",
                findings.len()
            ),
        )),
    }
}

async fn examine(connection: &Connection) -> Result<(Vec<Finding>, Option<Seen>), Failure> {
    let mut findings = Vec::new();
    for address in &connection.gateway {
        findings.push(gateway(connection, address).await);
    }
    findings.push(http_port(connection, "API", &connection.api, "/v2/topology", "--api").await?);
    let health = "/actuator/health/liveness";
    findings.push(http_port(connection, "monitoring", &connection.monitoring, health, "--monitoring").await?);
    if connection.ca.is_some() {
        findings.extend(certificates::examine(connection).await);
    }
    let seen = look(connection).await.ok();
    if let Some(seen) = &seen {
        findings.extend(cluster(seen));
        findings.extend(restarts(connection, seen).await?);
    }
    Ok((findings, seen))
}

/// Each gateway by itself: with several, one that is away is not noticed otherwise.
async fn gateway(connection: &Connection, address: &str) -> Finding {
    let step = format!("gateway {address}");
    let alone = Connection { gateway: vec![address.to_owned()], ..connection.clone() };
    let asked = async { Ok::<_, Failure>(alone.client().await?.topology().await?) };
    match asked.await {
        Ok(topology) => {
            let own = env!("CARGO_PKG_VERSION");
            match topology.gateway_version {
                version if version == own => Finding::ok(step, format!("answers, version {version}")),
                version => Finding::new(
                    step,
                    Level::Warning,
                    format!("answers, version {version}; this program has {own}"),
                    "use the program of the cluster's version",
                ),
            }
        }
        Err(failure) => {
            Finding::new(step, Level::Wrong, failure.message, "start it, or name another with --gateway")
        }
    }
}

async fn http_port(
    connection: &Connection,
    name: &str,
    base: &str,
    path: &str,
    flag: &str,
) -> Result<Finding, Failure> {
    let step = format!("{name} {base}");
    Ok(match connection.http()?.get(&join(base, path)).await {
        Ok(answer) if answer.status.is_success() => Finding::ok(step, "answers"),
        Ok(answer) if matches!(answer.status.as_u16(), 401 | 403) => Finding::new(
            step,
            Level::Wrong,
            format!("answers {}", answer.status),
            "give a token that may read with --token-file",
        ),
        Ok(answer) => Finding::new(
            step,
            Level::Wrong,
            format!("answers {}", answer.status),
            format!("name the gateway's port with {flag}"),
        ),
        Err(failure) => {
            Finding::new(step, Level::Wrong, failure.message, format!("name the gateway's port with {flag}"))
        }
    })
}

/// What the topology says.
fn cluster(seen: &Seen) -> Vec<Finding> {
    let Seen { topology, wishes, .. } = seen;
    let found = assess(topology, wishes);
    let mut findings = Vec::new();
    for problem in &found.problems {
        findings.push(Finding::new("cluster", Level::Wrong, &*problem.what, &*problem.fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            "cluster",
            format!("{} brokers, {} partitions, all replicas work", found.brokers, found.partitions),
        ));
    }
    let mut versions: Vec<&str> =
        topology.brokers.iter().map(|broker| broker.version.as_str()).filter(|v| !v.is_empty()).collect();
    versions.sort_unstable();
    versions.dedup();
    match versions[..] {
        [] | [_] => {}
        _ => findings.push(Finding::new(
            "versions",
            Level::Warning,
            format!("brokers run {}", versions.join(" and ")),
            "finish the upgrade, one broker after the other",
        )),
    }
    if wishes.paused {
        let told = "ownership is paused: every rebalance is refused";
        findings.push(Finding::new("ownership", Level::Warning, told, "evenkeel resume"));
    }
    for node in &wishes.drained {
        let told = format!("broker {node} is drained: it is to lead nothing");
        findings.push(Finding::new("drain", Level::Warning, told, format!("evenkeel undrain {node}")));
    }
    if found.is_balanced() {
        findings.push(Finding::ok("balance", found.verdict));
    } else if found.leaderless == 0 && found.misplaced > 0 {
        findings.push(Finding::new("balance", Level::Warning, found.verdict, "evenkeel rebalance explain"));
    }
    findings
}

/// Whether each broker may be restarted.
async fn restarts(connection: &Connection, seen: &Seen) -> Result<Vec<Finding>, Failure> {
    let api = connection.cluster_api()?;
    let mut findings = Vec::new();
    for broker in &seen.topology.brokers {
        let step = format!("restart of broker {}", broker.node_id);
        findings.push(match api.restart_risk(broker.node_id).await {
            Ok((risk, _)) if risk.safe => Finding::ok(step, risk.verdict),
            Ok((risk, _)) => {
                let wait = format!("evenkeel probe restart {} --wait", broker.node_id);
                Finding::new(step, Level::Warning, risk.verdict, wait)
            }
            Err(failure) => Finding::new(step, Level::Warning, failure.message, "evenkeel status"),
        });
    }
    Ok(findings)
}

fn in_words(findings: &[Finding]) -> String {
    let mut rows = table(["step", "", "found"]);
    for finding in findings {
        let fix = finding.fix.as_ref().map(|fix| format!("\n→ {fix}")).unwrap_or_default();
        rows.add_row([
            finding.step.clone(),
            finding.level.name().to_owned(),
            format!("{}{fix}", wrapped(&finding.told)),
        ]);
    }
    rows.to_string()
}

/// Columns of a finding.
const COLUMNS_MAX: usize = 90;

/// The text with line breaks between words.
fn wrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS_MAX => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::topology;
    use crate::output::verdict::Wishes;

    fn found(leaders: &[Option<u64>], wishes: Wishes) -> Vec<(Level, String)> {
        let seen = Seen { topology: topology(leaders), wishes, drained_known: true };
        cluster(&seen).into_iter().map(|finding| (finding.level, finding.step)).collect()
    }

    #[test]
    fn what_the_cluster_lacks_is_found_with_its_remedy() {
        let well = found(&[Some(0), Some(1), Some(2)], Wishes::default());
        assert_eq!(well, [(Level::Ok, "cluster".into()), (Level::Ok, "balance".into())]);
        let wishes = Wishes { drained: [1].into(), paused: true };
        let forgotten = found(&[Some(0), Some(0), Some(2)], wishes);
        assert_eq!(
            forgotten,
            [
                (Level::Ok, "cluster".into()),
                (Level::Warning, "ownership".into()),
                (Level::Warning, "drain".into()),
                (Level::Ok, "balance".into()),
            ]
        );
        let headless = found(&[Some(0), None, Some(2)], Wishes::default());
        assert_eq!(headless[0], (Level::Wrong, "cluster".into()));
    }

    #[test]
    fn long_findings_are_broken_between_words() {
        let text = wrapped(&"word ".repeat(40));
        assert!(text.lines().all(|line| line.len() <= COLUMNS_MAX) && text.lines().count() == 3, "{text}");
    }
}
