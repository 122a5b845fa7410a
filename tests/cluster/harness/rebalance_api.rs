//! The rebalance API of one gateway.

use http::Method;
use serde_json::{Value, json};

use super::http::{Answer, http, send};
use super::waiting::wait_until;

const PATH: &str = "/cluster/v2/rebalance";

/// One gateway's `/cluster/v2/rebalance`.
#[derive(Clone, Debug)]
pub struct RebalanceApi {
    /// Of the API port, without a path.
    pub base: String,
}

impl RebalanceApi {
    /// `POST` with this body, whatever comes of it.
    pub async fn post(&self, body: &Value) -> Answer {
        self.post_as("", &[("content-type", "application/json")], &body.to_string()).await
    }

    /// `POST` with a query (with its `?`), headers and a body of one's own.
    pub async fn post_as(&self, query: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        send(Method::POST, &format!("{}{PATH}{query}", self.base), headers, body.to_owned()).await.unwrap()
    }

    /// Starts a run that must start; its id.
    pub async fn start(&self, body: &Value) -> u64 {
        let answer = self.post(body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        run_of(&answer).unwrap_or_else(|| panic!("no run started: {}", answer.text()))
    }

    /// Starts a run and follows it to its end.
    pub async fn run_to_the_end(&self, body: &Value) -> Value {
        let id = self.start(body).await;
        self.finished(id).await
    }

    /// What a run would do now: the answer's `plannedRebalance`.
    pub async fn dry_run(&self, body: &Value) -> Value {
        let answer = self.post_as("?dryRun=true", &[], &body.to_string()).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (202, None), "{}", answer.text());
        answer.json()["plannedRebalance"].take()
    }

    /// `GET` without an id.
    pub async fn balance(&self) -> Value {
        self.get("").await.unwrap()
    }

    /// One run.
    pub async fn run(&self, id: u64) -> Value {
        self.get(&format!("/{id}")).await.unwrap()
    }

    /// The summaries of all runs, the newest first.
    pub async fn history(&self) -> Vec<Value> {
        let Value::Array(runs) = self.get("/history").await.unwrap()["rebalances"].take() else {
            panic!("the history is no list")
        };
        runs
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let answer = http(Method::GET, &format!("{}{PATH}{path}", self.base)).await?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(answer.text()) }
    }

    /// `DELETE`: whether a run was under way.
    pub async fn cancel(&self) -> bool {
        let answer = http(Method::DELETE, &format!("{}{PATH}", self.base)).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let body = answer.json();
        let was_running = body["wasRunning"].as_bool().unwrap();
        assert_eq!(body, json!({"wasRunning": was_running}));
        was_running
    }

    /// Waits until a run looks like this.
    pub async fn wait_for(&self, id: u64, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_until(&format!("run {id}: {what}"), async || {
            let run = self.get(&format!("/{id}")).await?;
            if holds(&run) { Ok(run) } else { Err(run.to_string()) }
        })
        .await
    }

    /// Waits for a run's end.
    pub async fn finished(&self, id: u64) -> Value {
        self.wait_for(id, "to end", |run| run["finishedAt"].is_string()).await
    }
}

/// The run that an answer's `Location` names.
pub fn run_of(answer: &Answer) -> Option<u64> {
    let location = answer.header("location")?;
    let id = location.strip_prefix(PATH)?.strip_prefix('/')?;
    Some(id.parse().unwrap_or_else(|error| panic!("{error}: Location {location}")))
}

/// The partitions of a run of which this holds, in order.
pub fn partitions_where(run: &Value, holds: impl Fn(&Value) -> bool) -> Vec<u32> {
    let partitions = run["partitions"].as_array().unwrap().iter();
    partitions
        .filter(|p| holds(p))
        .map(|p| u32::try_from(p["partitionId"].as_u64().unwrap()).unwrap())
        .collect()
}

/// One partition of a run.
pub fn partition_of(run: &Value, id: u32) -> &Value {
    let mut partitions = run["partitions"].as_array().unwrap().iter();
    partitions.find(|p| p["partitionId"] == id).unwrap_or_else(|| panic!("no partition {id} in {run}"))
}
