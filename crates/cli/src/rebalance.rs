//! `evenkeel rebalance`: asks for even leadership, follows the run, and says what became of each partition.
//!
//! Asking goes to the monitoring port, as Zeebe's operators do it; its answer is always 200 without a body, so the
//! `Rebalance-Status` and `Location` headers tell what happened and where to follow it.

use std::time::{Duration, Instant};

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use crate::connection::Connection;
use crate::http::{Answer, Http, join};
use crate::outcome::{EXIT_ALREADY_ACTIVE, EXIT_TRANSFERS_FAILED, Failure, note, print};
use crate::record_output::Output;
use crate::tables::table;

const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// A run of very many partitions, each waiting for a replica to catch up, still ends before this.
const RUN_TIMEOUT: Duration = Duration::from_secs(900);
/// Every one of these means that the partition is where it belongs.
const GOOD_RESULTS: [&str; 2] = ["TRANSFERRED", "ALREADY_LEADER"];

#[derive(Args, Debug)]
pub struct RebalanceArgs {
    /// How to print the outcome
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What the actuator's headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Follow this URL.
    Started(String),
    AlreadyRunning(Option<String>),
    NothingToDo,
    Refused(String),
    /// A gateway without our headers.
    Untold,
}

/// One run as the API tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub result: Option<String>,
    pub finished_at: Option<String>,
    #[serde(default)]
    pub partitions: Vec<RunPartition>,
}

/// What became of one partition.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunPartition {
    pub partition_id: u32,
    #[serde(default)]
    pub current_leader: Value,
    #[serde(default)]
    pub desired_leader: Value,
    #[serde(default)]
    pub from: Value,
    #[serde(default)]
    pub to: Value,
    pub result: Option<String>,
    pub reason: Option<String>,
    pub detail: Option<String>,
}

pub async fn run(args: RebalanceArgs, connection: &Connection) -> Result<(), Failure> {
    let http = Http::new();
    let url = match request(&http, &connection.monitoring, &connection.api).await? {
        Accepted::Started(url) => url,
        Accepted::NothingToDo => return print_unless_json(&args, "balanced: nothing to move"),
        Accepted::Untold => {
            note("accepted; this gateway does not tell about its runs: see `evenkeel status`");
            return Ok(());
        }
        Accepted::Refused(why) => {
            return Err(Failure::unreachable(format!("refused: {why}; see `evenkeel status`")));
        }
        Accepted::AlreadyRunning(url) => {
            let url = url.map(|url| format!(": {url}")).unwrap_or_default();
            let message = format!("a rebalance is already under way{url}; wait for it, then run this again");
            return Err(Failure::new(EXIT_ALREADY_ACTIVE, message));
        }
    };
    let (run, raw) = follow(&http, &url).await?;
    match args.output {
        Output::Table => print(run_table(&run))?,
        Output::Json => print(&raw)?,
    }
    let failed = run.partitions.iter().filter(|partition| !went_well(partition)).count();
    if failed == 0 && run.result.as_deref() == Some("COMPLETED") {
        return print_unless_json(&args, "balanced");
    }
    let result = run.result.unwrap_or_default().to_lowercase();
    Err(Failure::new(
        EXIT_TRANSFERS_FAILED,
        format!(
            "{result}: {failed} of {} partitions did not reach their primary; the table says why; when that is \
             cured, run `evenkeel rebalance` again",
            run.partitions.len()
        ),
    ))
}

fn print_unless_json(args: &RebalanceArgs, text: &str) -> Result<(), Failure> {
    match args.output {
        Output::Table => print(text),
        Output::Json => {
            note(text);
            Ok(())
        }
    }
}

/// Asks for a rebalance.
pub async fn request(http: &Http, monitoring: &str, api: &str) -> Result<Accepted, Failure> {
    let answer = http.post(&join(monitoring, "/actuator/rebalance")).await?;
    if !answer.status.is_success() {
        let message = format!("{monitoring} answers {}; is that a gateway's monitoring port?", answer.status);
        return Err(Failure::unreachable(message));
    }
    Ok(accepted(&answer, api))
}

fn accepted(answer: &Answer, api: &str) -> Accepted {
    let location = answer.header("location").map(|path| join(api, path));
    let reason = ["rebalance-reason", "rebalance-detail"].iter().find_map(|name| answer.header(name));
    match (answer.header("rebalance-status"), location) {
        (Some("started"), Some(url)) => Accepted::Started(url),
        (Some("running"), url) => Accepted::AlreadyRunning(url),
        (Some("noop"), _) => Accepted::NothingToDo,
        (Some("refused"), _) => Accepted::Refused(reason.unwrap_or("the gateway's log says why").to_owned()),
        _ => Accepted::Untold,
    }
}

/// Waits for a run's end. Answers the run, and its JSON as it came.
pub async fn follow(http: &Http, url: &str) -> Result<(Run, String), Failure> {
    let began = Instant::now();
    let mut told = 0;
    while began.elapsed() < RUN_TIMEOUT {
        let answer = http.get(url).await?;
        if !answer.status.is_success() {
            return Err(Failure::unreachable(format!("{url} answers {}: {}", answer.status, answer.text())));
        }
        let run: Run = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::new(1, format!("{url}: not a rebalance run: {error}")))?;
        if run.finished_at.is_some() || run.result.is_some() {
            return Ok((run, answer.text()));
        }
        let done = run.partitions.iter().filter(|partition| partition.result.is_some()).count();
        if done != told {
            told = done;
            note(format_args!("{done} of {} partitions done", run.partitions.len()));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Err(Failure::unreachable(format!("the run did not end within {RUN_TIMEOUT:?}; follow it at {url}")))
}

/// Whether the partition is where it belongs now.
pub fn went_well(partition: &RunPartition) -> bool {
    partition.result.as_deref().is_some_and(|result| GOOD_RESULTS.contains(&result))
}

/// The first that is there, without quotation marks.
fn node(first: &Value, second: &Value) -> String {
    match if first.is_null() { second } else { first } {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub fn run_table(run: &Run) -> comfy_table::Table {
    let mut rows = table(["partition", "from", "to", "result", "detail"]);
    for partition in &run.partitions {
        let detail = partition.detail.as_deref().or(partition.reason.as_deref()).unwrap_or_default();
        rows.add_row([
            partition.partition_id.to_string(),
            node(&partition.from, &partition.current_leader),
            node(&partition.to, &partition.desired_leader),
            partition.result.clone().unwrap_or_else(|| "-".into()),
            detail.to_owned(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, StatusCode};

    use super::*;

    fn answer(headers: &[(&'static str, &'static str)]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        Answer { status: StatusCode::OK, headers: map, body: Default::default() }
    }

    #[test]
    fn headers_tell_what_became_of_the_request() {
        let at = "/cluster/v2/rebalance/7";
        let url = "http://api:1/cluster/v2/rebalance/7".to_owned();
        let table = [
            (answer(&[("rebalance-status", "started"), ("location", at)]), Accepted::Started(url.clone())),
            (
                answer(&[("rebalance-status", "running"), ("location", at)]),
                Accepted::AlreadyRunning(Some(url)),
            ),
            (answer(&[("rebalance-status", "noop")]), Accepted::NothingToDo),
            (
                answer(&[
                    ("rebalance-status", "refused"),
                    ("rebalance-reason", "PRIORITY_ELECTION_DISABLED"),
                ]),
                Accepted::Refused("PRIORITY_ELECTION_DISABLED".into()),
            ),
            (answer(&[]), Accepted::Untold),
        ];
        for (answer, expected) in table {
            assert_eq!(accepted(&answer, "http://api:1"), expected);
        }
    }

    #[test]
    fn a_run_is_told_partition_by_partition() {
        let text = r#"{"rebalanceId":7,"finishedAt":"2026-01-01T00:00:00Z","result":"FAILED","partitions":[
            {"partitionId":1,"currentLeader":"0","desiredLeader":"1","result":"TRANSFERRED","from":"0","to":"1"},
            {"partitionId":2,"currentLeader":"0","desiredLeader":"2","result":"LAG_TOO_HIGH",
             "detail":"broker 2 lacks 5,000 entries"}]}"#;
        let run: Run = serde_json::from_str(text).unwrap();
        assert_eq!(run.partitions.iter().map(went_well).collect::<Vec<_>>(), [true, false]);
        let expected = "\
╭───────────┬──────┬────┬──────────────┬──────────────────────────────╮
│ partition ┆ from ┆ to ┆ result       ┆ detail                       │
╞═══════════╪══════╪════╪══════════════╪══════════════════════════════╡
│ 1         ┆ 0    ┆ 1  ┆ TRANSFERRED  ┆                              │
│ 2         ┆ 0    ┆ 2  ┆ LAG_TOO_HIGH ┆ broker 2 lacks 5,000 entries │
╰───────────┴──────┴────┴──────────────┴──────────────────────────────╯";
        assert_eq!(run_table(&run).to_string(), expected);
    }
}
