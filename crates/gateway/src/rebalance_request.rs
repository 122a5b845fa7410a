//! What a rebalance is asked for: the body of `POST /cluster/v2/rebalance`, with Zeebe 8.10's fields and ours. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use evenkeel_protocol::{NodeId, PartitionId};
use serde::{Deserialize, Serialize};

use crate::planner::{PlanRequest, Policy, REPLICATION_LAG_BYTES_MAX};

/// Transfers under way at once, unless the request says otherwise.
const CONCURRENT_DEFAULT: u32 = 4;
const CONCURRENT_MAX: u32 = 64;
const TRANSFER_ATTEMPTS_DEFAULT: u32 = 3;
const TRANSFER_ATTEMPTS_MAX: u32 = 10;
const REPLICATION_TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const LEADER_WAIT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(3_600);

/// How a run is to go. Kept with the run, so that whoever carries it on does the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunSettings {
    pub(crate) policy: Policy,
    pub(crate) replication_lag_bytes_max: u64,
    pub(crate) replication_timeout: Duration,
    pub(crate) leader_wait_timeout: Duration,
    pub(crate) transfer_attempts_max: u32,
    pub(crate) concurrent_max: u32,
    /// Only these; `None` for all.
    pub(crate) partitions: Option<BTreeSet<PartitionId>>,
    /// Most leaderships that a broker may be given.
    #[serde(default)]
    pub(crate) leaders_per_broker_max: Option<u32>,
    /// Who shall lead these, whatever the policy wants.
    #[serde(default)]
    pub(crate) targets: BTreeMap<PartitionId, NodeId>,
    /// Writes may be held back for so long in all.
    pub(crate) pause_budget: Option<Duration>,
}

impl Default for RunSettings {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            replication_lag_bytes_max: REPLICATION_LAG_BYTES_MAX,
            replication_timeout: REPLICATION_TIMEOUT_DEFAULT,
            leader_wait_timeout: LEADER_WAIT_TIMEOUT_DEFAULT,
            transfer_attempts_max: TRANSFER_ATTEMPTS_DEFAULT,
            concurrent_max: CONCURRENT_DEFAULT,
            partitions: None,
            leaders_per_broker_max: None,
            targets: BTreeMap::new(),
            pause_budget: None,
        }
    }
}

impl RunSettings {
    pub(crate) fn plan_request(&self) -> PlanRequest {
        PlanRequest {
            policy: self.policy,
            replication_lag_bytes_max: self.replication_lag_bytes_max,
            leaders_per_broker_max: self.leaders_per_broker_max,
            partitions: self.partitions.clone(),
            targets: self.targets.clone(),
        }
    }
}

/// A request, understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RebalanceRequest {
    pub(crate) settings: RunSettings,
    /// Go on only if the plan is still the one with this fingerprint.
    pub(crate) plan: Option<String>,
    /// The same key gives the same run.
    pub(crate) idempotency_key: Option<String>,
}

/// Why a body is not understood: what, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadRequest(pub(crate) String);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Body {
    replication_lag_threshold: Option<u64>,
    replication_timeout: Option<String>,
    leader_wait_timeout: Option<String>,
    max_transfer_attempts: Option<u32>,
    policy: Option<Policy>,
    max_concurrent: Option<u32>,
    partitions: Option<BTreeSet<PartitionId>>,
    max_leaders_per_broker: Option<u32>,
    #[serde(default)]
    targets: BTreeMap<PartitionId, NodeId>,
    pause_budget: Option<String>,
    plan: Option<String>,
}

impl RebalanceRequest {
    /// Reads a body: nothing, or a JSON object whatever its content type says.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, BadRequest> {
        let body: Option<Body> = match body.trim_ascii() {
            b"" | b"null" => None,
            object => Some(parse_object(object)?),
        };
        let body = body.unwrap_or_default();
        let or = RunSettings::default();
        let bounded = |name: &str, given: Option<u32>, default: u32, max: u32| match given {
            None => Ok(default),
            Some(given) if (1..=max).contains(&given) => Ok(given),
            Some(given) => Err(BadRequest(format!("{name} = {given}: give 1 to {max}"))),
        };
        if body.partitions.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(BadRequest("partitions = []: name at least one, or leave the field out".into()));
        }
        let settings = RunSettings {
            policy: body.policy.unwrap_or_default(),
            replication_lag_bytes_max: body.replication_lag_threshold.unwrap_or(or.replication_lag_bytes_max),
            replication_timeout: duration("replicationTimeout", body.replication_timeout.as_deref())?
                .unwrap_or(or.replication_timeout),
            leader_wait_timeout: duration("leaderWaitTimeout", body.leader_wait_timeout.as_deref())?
                .unwrap_or(or.leader_wait_timeout),
            transfer_attempts_max: bounded(
                "maxTransferAttempts",
                body.max_transfer_attempts,
                or.transfer_attempts_max,
                TRANSFER_ATTEMPTS_MAX,
            )?,
            concurrent_max: bounded("maxConcurrent", body.max_concurrent, or.concurrent_max, CONCURRENT_MAX)?,
            partitions: body.partitions,
            leaders_per_broker_max: body.max_leaders_per_broker,
            targets: body.targets,
            pause_budget: duration("pauseBudget", body.pause_budget.as_deref())?,
        };
        Ok(Self { settings, plan: body.plan, idempotency_key: None })
    }
}

/// Says which field it is that is not understood.
fn parse_object(text: &[u8]) -> Result<Body, BadRequest> {
    let bad = |what: &str, problem: String| BadRequest(format!("{what}: {problem}"));
    let not_an_object = |problem: String| bad("body", format!("{problem}; send nothing or a JSON object"));
    // A list of values in the order of the fields would do for serde.
    if !text.starts_with(b"{") {
        return Err(not_an_object("not a JSON object".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let body = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        match error.into_inner() {
            problem if field != "." && problem.is_data() => bad(&field, problem.to_string()),
            problem => not_an_object(problem.to_string()),
        }
    })?;
    json.end().map_err(|error| not_an_object(error.to_string()))?;
    Ok(body)
}

fn duration(name: &str, given: Option<&str>) -> Result<Option<Duration>, BadRequest> {
    let Some(given) = given else { return Ok(None) };
    match parse_iso_8601(given) {
        Some(duration) if !duration.is_zero() && duration <= TIMEOUT_MAX => Ok(Some(duration)),
        Some(_) => Err(BadRequest(format!("{name} = {given:?}: give more than nothing and at most PT1H"))),
        None => Err(BadRequest(format!(
            "{name} = {given:?} is not an ISO 8601 duration; write one such as PT10S or PT1M30S"
        ))),
    }
}

/// `PnDTnHnMnS` with each part optional, but one of them given; seconds may have a fraction. Years and months have no
/// fixed length and are not understood.
fn parse_iso_8601(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix(['P', 'p'])?;
    let (date, time) = match rest.split_once(['T', 't']) {
        Some((_, "")) => return None,
        Some((date, time)) => (date, time),
        None => (rest, ""),
    };
    if date.is_empty() && time.is_empty() {
        return None;
    }
    let mut seconds = parts(date, &[('D', 86_400.0)])?;
    seconds += parts(time, &[('H', 3_600.0), ('M', 60.0), ('S', 1.0)])?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The sum of numbers with units; units in this order, each at most once, and only the last may have a fraction.
fn parts(mut text: &str, units: &[(char, f64)]) -> Option<f64> {
    let mut sum = 0.0;
    for (i, (unit, seconds)) in units.iter().enumerate() {
        let Some(at) = text.find([*unit, unit.to_ascii_lowercase()]) else { continue };
        let (number, rest) = (&text[..at], &text[at + 1..]);
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.replace(',', ".");
        let well_formed = match number.split_once('.') {
            Some((whole, fraction)) => {
                i + 1 == units.len() && *unit == 'S' && digits(whole) && digits(fraction)
            }
            None => digits(&number),
        };
        if !well_formed {
            return None;
        }
        sum += number.parse::<f64>().ok()? * seconds;
        text = rest;
    }
    text.is_empty().then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_8601_durations_of_fixed_length_are_understood() {
        let table = [
            ("PT10S", Some(10.0)),
            ("PT1M", Some(60.0)),
            ("PT1H2M3.5S", Some(3723.5)),
            ("P1D", Some(86_400.0)),
            ("P1DT1S", Some(86_401.0)),
            ("pt0,25s", Some(0.25)),
            ("P", None),
            ("PT", None),
            ("PT1", None),
            ("PT1S2M", None),
            ("P1M", None),
            ("PT1.5M", None),
            ("PT-1S", None),
            ("PT1e3S", None),
            ("10s", None),
            ("", None),
            ("PTé1S", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_iso_8601(text).map(|found| found.as_secs_f64()), expected, "{text:?}");
        }
    }

    #[test]
    fn no_body_and_an_empty_object_ask_for_the_defaults() {
        for body in ["", "  \n", "{}", "null"] {
            assert_eq!(RebalanceRequest::parse(body.as_bytes()), Ok(RebalanceRequest::default()), "{body:?}");
        }
    }

    #[test]
    fn every_field_is_taken_over() {
        let body = r#"{"replicationLagThreshold": 1024, "replicationTimeout": "PT2S", "leaderWaitTimeout": "PT3S",
            "maxTransferAttempts": 2, "policy": "even-count", "maxConcurrent": 7, "partitions": [3, 1],
            "maxLeadersPerBroker": 5, "targets": {"3": 2}, "pauseBudget": "PT0.5S", "plan": "00ff"}"#;
        let request = RebalanceRequest::parse(body.as_bytes()).unwrap();
        let expected = RunSettings {
            policy: Policy::EvenCount,
            replication_lag_bytes_max: 1024,
            replication_timeout: Duration::from_secs(2),
            leader_wait_timeout: Duration::from_secs(3),
            transfer_attempts_max: 2,
            concurrent_max: 7,
            partitions: Some([PartitionId(1), PartitionId(3)].into()),
            leaders_per_broker_max: Some(5),
            targets: [(PartitionId(3), NodeId(2))].into(),
            pause_budget: Some(Duration::from_millis(500)),
        };
        assert_eq!((request.settings, request.plan.as_deref()), (expected, Some("00ff")));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let table = [
            (r#"{"replicationLagTreshold": 1}"#, "replicationLagTreshold"),
            (r#"{"policy": "fair"}"#, "policy: unknown variant `fair`"),
            (r#"{"replicationLagThreshold": "8MiB"}"#, "replicationLagThreshold: "),
            (r#"{"partitions": [1, "two"]}"#, "partitions[1]: "),
            (r#"{"targets": {"1": "two"}}"#, "targets.1: "),
            (r#"{"replicationTimeout": "10s"}"#, "replicationTimeout"),
            (r#"{"leaderWaitTimeout": "PT0S"}"#, "leaderWaitTimeout"),
            (r#"{"maxTransferAttempts": 0}"#, "maxTransferAttempts"),
            (r#"{"maxConcurrent": 65}"#, "maxConcurrent"),
            (r#"{"partitions": []}"#, "partitions"),
            ("[", "body: "),
            ("{\"policy\"", "body: "),
            ("{} {}", "body: "),
            ("[1024]", "JSON object"),
        ];
        for (body, named) in table {
            let error = RebalanceRequest::parse(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
