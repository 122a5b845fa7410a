//! The operator's side of a gateway's API port: rebalance runs, brokers and their drain, ownership.
//!
//! What the gateway refuses becomes a [`Failure`] with the gateway's own sentence and the exit code of its kind.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cluster::http::{Answer, Http, OpenAnswer, join};
use crate::commands::audit::AuditEntry;
use crate::output::outcome::{EXIT_ALREADY_ACTIVE, EXIT_AUTH, Failure};

const REBALANCE_PATH: &str = "/cluster/v2/rebalance";
const BROKERS_PATH: &str = "/cluster/v2/brokers";
const AUDIT_PATH: &str = "/cluster/v2/audit";
const OWNERSHIP_PATH: &str = "/ESCManager/internal/ownership";
/// Every one of these means that the partition is led as wanted.
const GOOD_RESULTS: [&str; 2] = ["TRANSFERRED", "ALREADY_LEADER"];

/// One run; of a dry run, what it would do.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    pub rebalance_id: u64,
    /// RFC 3339.
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    #[serde(default)]
    pub cancel_requested: bool,
    pub result: Option<String>,
    /// Fingerprint of the plan.
    pub plan: Option<String>,
    #[serde(default)]
    pub partitions: Vec<RunPartition>,
}

impl Run {
    pub fn is_finished(&self) -> bool {
        self.finished_at.is_some() || self.result.is_some()
    }

    /// How long it took, by the clock of the gateways that carried it out.
    pub fn took(&self) -> Option<Duration> {
        let at = |time: &Option<String>| humantime::parse_rfc3339(time.as_deref()?).ok();
        at(&self.finished_at)?.duration_since(at(&self.started_at)?).ok()
    }

    /// Whether every partition is led as wanted.
    pub fn went_well(&self) -> bool {
        self.result.as_deref() == Some("COMPLETED") && self.partitions.iter().all(RunPartition::went_well)
    }
}

/// What became of one partition.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunPartition {
    pub partition_id: u32,
    pub current_leader: Option<String>,
    pub desired_leader: Option<String>,
    pub from: Option<String>,
    pub to: Option<String>,
    pub lag_entries: Option<u64>,
    pub lag_bytes: Option<u64>,
    /// `None` until it is done with, and in a dry run for what would move.
    pub result: Option<String>,
    /// How long the old leader held writes back.
    pub gap_ms: Option<f64>,
    pub reason: Option<String>,
    pub detail: Option<String>,
}

impl RunPartition {
    /// Whether the partition is led as wanted.
    pub fn went_well(&self) -> bool {
        self.result.as_deref().is_some_and(|result| GOOD_RESULTS.contains(&result))
    }
}

/// A run as the history tells it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunSummary {
    pub rebalance_id: u64,
    pub started_at: String,
    pub finished_at: Option<String>,
    pub result: Option<String>,
    pub policy: Option<String>,
    /// Partitions by result.
    #[serde(default)]
    pub results: BTreeMap<String, u64>,
}

/// What a rebalance is asked for. What is `None` is left to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_leaders_per_broker: Option<u32>,
    /// Leaders by partition.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub targets: BTreeMap<u32, u64>,
    /// ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_budget: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replication_lag_threshold: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// A broker as the API tells it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokerState {
    pub node_id: u64,
    #[serde(default)]
    pub reachable: bool,
    #[serde(default)]
    pub drained: bool,
    /// Partitions that it leads.
    #[serde(default)]
    pub leaders: u64,
}

/// What a restart of a broker would cost now.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestartRisk {
    #[serde(default)]
    pub node_id: u64,
    /// No group has anything against it.
    pub safe: bool,
    /// Each of its replicas takes part and has caught up.
    pub recovered: bool,
    pub verdict: String,
    #[serde(default)]
    pub partitions: Vec<GroupRisk>,
}

/// The same for one group; 0 is the system group.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupRisk {
    pub partition_id: u32,
    pub leads: bool,
    pub pauses: bool,
    pub loses_availability: bool,
    pub loses_durability: bool,
    pub recovered: bool,
    pub majority: u64,
    pub working_elsewhere: u64,
    pub caught_up_elsewhere: u64,
    pub reason: Option<String>,
    pub detail: Option<String>,
}

/// The answer to a drain.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drained {
    /// The run that moves its leaderships away; `None` when there are none.
    pub rebalance_id: Option<u64>,
}

/// The API of one gateway.
#[derive(Clone, Debug)]
pub struct ClusterApi {
    http: Http,
    base: String,
}

impl ClusterApi {
    pub fn new(http: Http, base: &str) -> Self {
        Self { http, base: base.to_owned() }
    }

    fn url(&self, path: &str) -> String {
        join(&self.base, path)
    }

    /// Starts a run and answers its id; `None` when there is nothing to do.
    pub async fn start(&self, body: &RebalanceBody) -> Result<Option<u64>, Failure> {
        let url = self.url(REBALANCE_PATH);
        let answer = accepted(&url, self.http.post(&url, Some(&json_of(body)?)).await?)?;
        Ok(answer.header("location").and_then(run_id))
    }

    /// What a run would do, and its JSON as it came.
    pub async fn dry_run(&self, body: &RebalanceBody) -> Result<(Run, Value), Failure> {
        let url = format!("{}?dryRun=true", self.url(REBALANCE_PATH));
        let answer = accepted(&url, self.http.post(&url, Some(&json_of(body)?)).await?)?;
        let planned = field(&url, &answer, "plannedRebalance")?;
        let planned = planned.ok_or_else(|| strange(&url, "it has no plannedRebalance"))?;
        Ok((from_value(&url, planned.clone())?, planned))
    }

    /// A run by its id, and its JSON as it came.
    pub async fn run(&self, id: u64) -> Result<(Run, Value), Failure> {
        let url = self.url(&format!("{REBALANCE_PATH}/{id}"));
        let raw: Value = read(&url, self.http.get(&url).await?)?;
        Ok((from_value(&url, raw.clone())?, raw))
    }

    /// The run under way or else the last one, and its JSON as it came.
    pub async fn active_or_last(&self) -> Result<Option<(Run, Value)>, Failure> {
        let url = self.url(REBALANCE_PATH);
        let answer = accepted(&url, self.http.get(&url).await?)?;
        let found = match field(&url, &answer, "runningRebalance")? {
            Some(running) => Some(running),
            None => field(&url, &answer, "lastCompletedRebalance")?,
        };
        found.map(|raw| Ok((from_value(&url, raw.clone())?, raw))).transpose()
    }

    /// The runs that the cluster remembers, the newest first, and their JSON as it came.
    pub async fn history(&self) -> Result<(Vec<RunSummary>, Value), Failure> {
        let url = self.url(&format!("{REBALANCE_PATH}/history"));
        let answer = accepted(&url, self.http.get(&url).await?)?;
        let raw = field(&url, &answer, "rebalances")?.ok_or_else(|| strange(&url, "it has no rebalances"))?;
        Ok((from_value(&url, raw.clone())?, raw))
    }

    /// What operators did, the newest first, and its JSON as it came.
    pub async fn audit(&self, limit: u32) -> Result<(Vec<AuditEntry>, Value), Failure> {
        let url = format!("{}?limit={limit}", self.url(AUDIT_PATH));
        let answer = accepted(&url, self.http.get(&url).await?)?;
        let raw = field(&url, &answer, "entries")?.ok_or_else(|| strange(&url, "it has no entries"))?;
        Ok((from_value(&url, raw.clone())?, raw))
    }

    /// Asks the run under way to stop; whether there is one.
    pub async fn cancel(&self) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Cancelled {
            was_running: bool,
        }
        let url = self.url(REBALANCE_PATH);
        Ok(read::<Cancelled>(&url, self.http.delete(&url).await?)?.was_running)
    }

    /// The run's events as they come, for who understands them; the status tells whether there are any.
    pub async fn events(&self, id: u64) -> Result<OpenAnswer, Failure> {
        self.http.open(&self.url(&format!("{REBALANCE_PATH}/{id}/events"))).await
    }

    /// Every broker.
    pub async fn brokers(&self) -> Result<Vec<BrokerState>, Failure> {
        #[derive(Deserialize)]
        struct Brokers {
            brokers: Vec<BrokerState>,
        }
        let url = self.url(BROKERS_PATH);
        Ok(read::<Brokers>(&url, self.http.get(&url).await?)?.brokers)
    }

    /// What a restart of the broker would cost now, and its JSON as it came.
    pub async fn restart_risk(&self, node: u64) -> Result<(RestartRisk, Value), Failure> {
        let url = self.url(&format!("{BROKERS_PATH}/{node}/restart-risk"));
        let raw: Value = read(&url, self.http.get(&url).await?)?;
        Ok((from_value(&url, raw.clone())?, raw))
    }

    /// The same, as the broker whose monitoring port this is says it of itself.
    pub async fn restart_risk_of_broker_at(&self, monitoring: &str) -> Result<RestartRisk, Failure> {
        let url = join(monitoring, "/actuator/restart-risk");
        read(&url, self.http.get(&url).await?)
    }

    /// Keeps the broker free of leaderships from now on.
    pub async fn drain(&self, node: u64) -> Result<Drained, Failure> {
        let url = self.url(&format!("{BROKERS_PATH}/{node}/drain"));
        read(&url, self.http.put(&url).await?)
    }

    /// Lets the broker lead again.
    pub async fn undrain(&self, node: u64) -> Result<(), Failure> {
        let url = self.url(&format!("{BROKERS_PATH}/{node}/drain"));
        accepted(&url, self.http.delete(&url).await?).map(drop)
    }

    /// Whether ownership is paused; `None` while the gateway cannot tell.
    pub async fn is_paused(&self) -> Result<Option<bool>, Failure> {
        #[derive(Deserialize)]
        struct Ownership {
            paused: Option<bool>,
        }
        let url = self.url(OWNERSHIP_PATH);
        Ok(read::<Ownership>(&url, self.http.get(&url).await?)?.paused)
    }

    /// Pauses ownership, or resumes it. Answers whether it is paused now.
    pub async fn set_paused(&self, paused: bool) -> Result<bool, Failure> {
        #[derive(Deserialize)]
        struct Ownership {
            paused: bool,
        }
        let url = self.url(&format!("{OWNERSHIP_PATH}/{}", if paused { "pause" } else { "resume" }));
        Ok(read::<Ownership>(&url, self.http.put(&url).await?)?.paused)
    }
}

/// The run that a `Location` leads to.
pub fn run_id(location: &str) -> Option<u64> {
    location.rsplit('/').next()?.parse().ok()
}

fn json_of(body: &RebalanceBody) -> Result<Value, Failure> {
    serde_json::to_value(body).map_err(|error| Failure::new(1, format!("the request: {error}")))
}

fn read<T: DeserializeOwned>(url: &str, answer: Answer) -> Result<T, Failure> {
    let answer = accepted(url, answer)?;
    serde_json::from_slice(&answer.body).map_err(|error| strange(url, &error.to_string()))
}

/// One field of an answer, unless it is null.
fn field(url: &str, answer: &Answer, name: &str) -> Result<Option<Value>, Failure> {
    let mut whole: Value =
        serde_json::from_slice(&answer.body).map_err(|error| strange(url, &error.to_string()))?;
    let found = whole.get_mut(name).map(Value::take);
    Ok(found.filter(|value| !value.is_null()))
}

fn from_value<T: DeserializeOwned>(url: &str, value: Value) -> Result<T, Failure> {
    serde_json::from_value(value).map_err(|error| strange(url, &error.to_string()))
}

fn strange(url: &str, detail: &str) -> Failure {
    Failure::new(
        1,
        format!("{url}: an answer that is not understood: {detail}; is that a gateway's API port?"),
    )
}

/// The answer, if the request was granted; else what the gateway has against it.
fn accepted(url: &str, answer: Answer) -> Result<Answer, Failure> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let told: Refused = serde_json::from_slice(&answer.body).unwrap_or_default();
    if told.reason.as_deref() == Some("ACTIVE") {
        return Err(already_active(told.rebalance_id));
    }
    let detail = told.detail.or_else(|| told.error.map(|error| error.error_message));
    let message = match detail {
        Some(detail) => detail,
        None => format!("{url} answers {}; is that a gateway's API port?", answer.status),
    };
    Err(match answer.status.as_u16() {
        400 => Failure::usage(message),
        401 | 403 => Failure::new(EXIT_AUTH, message),
        404 => Failure::not_found(message),
        _ => Failure::unreachable(format!("refused: {message}")),
    })
}

/// RFC 9457 with our own members, or ESC's own shape.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Refused {
    detail: Option<String>,
    reason: Option<String>,
    rebalance_id: Option<u64>,
    error: Option<EscError>,
}

#[derive(Debug, Deserialize)]
struct EscError {
    error_message: String,
}

fn already_active(id: Option<u64>) -> Failure {
    let (run, show) = match id {
        Some(id) => (format!("rebalance {id}"), format!("--show {id} --watch")),
        None => ("a rebalance".to_owned(), "--show --watch".to_owned()),
    };
    Failure::new(
        EXIT_ALREADY_ACTIVE,
        format!(
            "{run} is under way; follow it with `evenkeel rebalance {show}`, or stop it with \
             `evenkeel rebalance --cancel`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::output::outcome::{EXIT_UNREACHABLE, EXIT_USAGE};

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: Default::default(),
            body: body.to_owned().into(),
        }
    }

    #[test]
    fn every_refusal_has_its_exit_code_and_the_gateways_own_sentence() {
        let table = [
            (409, r#"{"detail":"x","reason":"ACTIVE","rebalanceId":17}"#, 7, "--show 17 --watch"),
            (409, r#"{"detail":"x","reason":"ACTIVE"}"#, 7, "--cancel"),
            (409, r#"{"detail":"ownership is paused","reason":"PAUSED"}"#, 3, "refused: ownership is paused"),
            (409, r#"{"detail":"the plan is b now","reason":"PLAN_CHANGED"}"#, 3, "the plan is b now"),
            (503, r#"{"detail":"no broker can be reached"}"#, 3, "no broker"),
            (400, r#"{"detail":"partition 99 does not exist"}"#, 2, "partition 99"),
            (
                401,
                r#"{"detail":"no credentials; send a token","reason":"NO_CREDENTIALS"}"#,
                4,
                "no credentials",
            ),
            (403, r#"{"detail":"app has the role read and this needs operate"}"#, 4, "needs operate"),
            (404, r#"{"detail":"run 4 is not known"}"#, 1, "run 4"),
            (501, r#"{"error":{"error_code":501,"error_message":"one broker"}}"#, 3, "one broker"),
            (502, "<html>", 3, "http://a:1 answers 502"),
        ];
        for (status, body, code, said) in table {
            let failure = accepted("http://a:1", answer(status, body)).unwrap_err();
            assert_eq!(failure.code, code, "{body}");
            assert!(failure.message.contains(said), "{failure}");
        }
        assert_eq!((EXIT_USAGE, EXIT_UNREACHABLE, EXIT_ALREADY_ACTIVE), (2, 3, 7));
        assert!(accepted("", answer(202, "")).is_ok());
    }

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let body = RebalanceBody { policy: Some("records".into()), ..RebalanceBody::default() };
        assert_eq!(json_of(&body).unwrap().to_string(), r#"{"policy":"records"}"#);
        assert_eq!(json_of(&RebalanceBody::default()).unwrap().to_string(), "{}");
    }

    #[test]
    fn a_run_tells_how_long_it_took() {
        let run = |text: &str| serde_json::from_str::<Run>(text).unwrap();
        let whole = r#"{"rebalanceId":1,"startedAt":"2026-01-01T00:00:00.250Z","finishedAt":"2026-01-01T00:01:00.000Z"}"#;
        assert_eq!(run(whole).took(), Some(Duration::from_millis(59_750)));
        assert_eq!(run(r#"{"rebalanceId":1,"startedAt":"2026-01-01T00:00:00.250Z"}"#).took(), None);
    }

    #[test]
    fn a_location_names_its_run() {
        assert_eq!(run_id("/cluster/v2/rebalance/17"), Some(17));
        assert_eq!(run_id("http://a:1/cluster/v2/rebalance/17"), Some(17));
        assert_eq!(run_id("/cluster/v2/rebalance/"), None);
    }
}
