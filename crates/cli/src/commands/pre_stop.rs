//! `evenkeel pre-stop`: what a supervisor runs before it stops a broker that is to come back, such as a preStop hook.
//!
//! Two things at once, within the time that it is given. Leaderships move away while the broker still serves, by a run that waits
//! for replicas that lag; the broker's mark as drained is then taken back, unless it had it before, so that it may lead again once it
//! is back. And the restart risk is asked for until the restart is safe: until those that were restarted before have caught up.
//!
//! All of it is a courtesy: a gateway that is dead, busy or refuses must not keep a broker from being stopped, which hands over what
//! it still leads when it is told to. So this never fails, and takes no longer than it was given. The risk is asked of the broker
//! itself where no gateway tells it.

use std::time::Duration;

use clap::Args;
use clap::builder::ArgPredicate;

use crate::cluster::cluster_api::{ClusterApi, RestartRisk};
use crate::cluster::connection::Connection;
use crate::commands::drain::{drain_once, state_of};
use crate::output::format::Output;
use crate::output::outcome::{EXIT_AUTH, EXIT_UNREACHABLE, EXIT_USAGE, Failure, note};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts without an answer after which nobody is taken to be there.
const UNANSWERED_MAX: u32 = 5;
/// How long a gateway may take to tell the risk: it asks every broker, a second at most.
const RISK_TIMEOUT: Duration = Duration::from_secs(3);
/// How long taking the mark back may take, on top of the time given.
const UNDRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const FOR_AT_MOST_MAX: Duration = Duration::from_secs(3_600);
/// What no waiting mends: the API's name for a partition without other replicas.
const ONLY_REPLICA: &str = "ONLY_REPLICA";

#[derive(Args, Debug)]
pub struct PreStopArgs {
    /// Node id of the broker that will be stopped
    #[arg(long, env = "EVENKEEL_CLUSTER_NODE_ID", value_name = "NODE_ID")]
    broker: u64,
    /// How long all of it may take, such as 60s; 5 s more may pass
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    for_at_most: Duration,
    /// Monitoring port of the broker itself, asked for the restart risk where no gateway answers
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9600",
        default_value_if("ca", ArgPredicate::IsPresent, "https://127.0.0.1:9600")
    )]
    broker_monitoring: String,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|error| error.to_string())? {
        given if given.is_zero() || given > FOR_AT_MOST_MAX => Err("give up to an hour, such as 60s".into()),
        given => Ok(given),
    }
}

pub async fn run(args: PreStopArgs, connection: &Connection) -> Result<(), Failure> {
    let api = match connection.cluster_api() {
        Ok(api) => api,
        Err(failure) => {
            note(format_args!("{failure}; the broker hands over what it leads when it stops"));
            return Ok(());
        }
    };
    let mut drained_by_us = false;
    tokio::join!(free(&args, &api, &mut drained_by_us), await_safety(&args, &api));
    if drained_by_us {
        undrain(&api, args.broker).await;
    }
    Ok(())
}

/// Moves the leaderships away, and says what came of it.
async fn free(args: &PreStopArgs, api: &ClusterApi, drained_by_us: &mut bool) {
    let broker = args.broker;
    let drain = drain_patiently(api, broker, drained_by_us);
    match tokio::time::timeout(args.for_at_most, drain).await {
        Ok(Ok(())) => note(format_args!("broker {broker} leads nothing any more")),
        Ok(Err(failure)) => {
            note(format_args!("{failure}; the broker hands over what it leads when it stops"))
        }
        Err(_) => note(format_args!(
            "broker {broker} still leads after {:?}; it hands over the rest when it stops",
            args.for_at_most
        )),
    }
}

/// Waits until a restart costs neither availability nor durability, and says what came of it.
async fn await_safety(args: &PreStopArgs, api: &ClusterApi) {
    let mut told = None;
    let safe = async {
        let (mut pause, mut unanswered) = (PAUSE, 0);
        loop {
            match ask_for_risk(args, api).await {
                Ok(risk) if risk.safe => return Ok(risk.verdict),
                Ok(risk) if nothing_to_wait_for(&risk) => {
                    return Err(format!("{}; waiting would not change that", risk.verdict));
                }
                Ok(risk) => {
                    unanswered = 0;
                    if told.as_deref() != Some(risk.verdict.as_str()) {
                        note(format_args!("{}; waiting", risk.verdict));
                        told = Some(risk.verdict);
                    }
                }
                Err(failure) => {
                    unanswered += 1;
                    if unanswered >= UNANSWERED_MAX || failure.code == EXIT_AUTH {
                        return Err(format!("{failure}; whether the restart is safe is not known"));
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    };
    let ended = tokio::time::timeout(args.for_at_most, safe).await;
    match ended {
        Ok(Ok(verdict)) => note(verdict),
        Ok(Err(reason)) => note(reason),
        Err(_) => note(format_args!(
            "after {:?}: {}; the broker is stopped all the same",
            args.for_at_most,
            told.as_deref().unwrap_or("nobody tells whether the restart is safe")
        )),
    }
}

/// Asks a gateway, which may know of brokers that this one does not hear; and else the broker itself.
async fn ask_for_risk(args: &PreStopArgs, api: &ClusterApi) -> Result<RestartRisk, Failure> {
    let failure = match tokio::time::timeout(RISK_TIMEOUT, api.restart_risk(args.broker)).await {
        Ok(Ok((risk, _))) => return Ok(risk),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::unreachable(format!("the gateway does not answer within {RISK_TIMEOUT:?}")),
    };
    match api.restart_risk_of_broker_at(&args.broker_monitoring).await {
        // At that port may be another broker than the one that is stopped.
        Ok(risk) if risk.node_id == args.broker => Ok(risk),
        _ => Err(failure),
    }
}

/// Each partition that is against the restart will be so tomorrow.
fn nothing_to_wait_for(risk: &RestartRisk) -> bool {
    let mut against = risk.partitions.iter().filter_map(|group| group.reason.as_deref()).peekable();
    against.peek().is_some() && against.all(|reason| reason == ONLY_REPLICA)
}

/// `drained_by_us` is set as soon as there may be a mark to take back.
async fn drain_patiently(api: &ClusterApi, broker: u64, drained_by_us: &mut bool) -> Result<(), Failure> {
    let (mut pause, mut unanswered) = (PAUSE, 0);
    loop {
        let attempt = async {
            if !*drained_by_us {
                *drained_by_us = !state_of(api, broker).await?.is_some_and(|known| known.drained);
            }
            drain_once(api, broker, Output::Table).await.map(drop)
        };
        match attempt.await {
            Ok(()) => return Ok(()),
            Err(failure) if matches!(failure.code, EXIT_AUTH | EXIT_USAGE) => return Err(failure),
            Err(failure) => {
                unanswered = if failure.code == EXIT_UNREACHABLE { unanswered + 1 } else { 0 };
                if unanswered >= UNANSWERED_MAX {
                    return Err(failure);
                }
                note(format_args!("{failure}; trying again"));
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

async fn undrain(api: &ClusterApi, broker: u64) {
    let attempts = async {
        let mut unanswered = 1;
        loop {
            match api.undrain(broker).await {
                Err(failure) if failure.code == EXIT_UNREACHABLE && unanswered < UNANSWERED_MAX => {
                    unanswered += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                ended => return ended,
            }
        }
    };
    let failure = match tokio::time::timeout(UNDRAIN_TIMEOUT, attempts).await {
        Ok(Ok(())) => return,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => format!("no answer within {UNDRAIN_TIMEOUT:?}"),
    };
    note(format_args!(
        "{failure}; broker {broker} may stay drained: let it lead again with `evenkeel undrain {broker}` once it is back"
    ));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

    use axum::routing::{get, put};
    use axum::{Json, Router};
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::fake_gateway::serve_http;
    use crate::processes::free_ports::free_ports;

    fn args(for_at_most: Duration) -> PreStopArgs {
        // Where nothing listens.
        let broker_monitoring = format!("http://127.0.0.1:{}", free_ports(1).unwrap()[0]);
        PreStopArgs { broker: 1, for_at_most, broker_monitoring }
    }

    #[tokio::test]
    async fn a_gateway_that_is_away_does_not_keep_the_broker_from_stopping() {
        let port = free_ports(1).unwrap()[0];
        let connection = Connection::to_api(format!("http://127.0.0.1:{port}"));
        run(args(FOR_AT_MOST_MAX), &connection).await.unwrap();
    }

    #[tokio::test]
    async fn a_gateway_that_never_answers_takes_no_longer_than_given() {
        // It takes connections and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connection = Connection::to_api(format!("http://{}", silent.local_addr().unwrap()));
        run(args(Duration::from_millis(200)), &connection).await.unwrap();
    }

    /// The answer about broker 1, of which a partition has this against it.
    fn risk(reason: Option<&str>) -> Value {
        let verdict = if reason.is_none() { "safe" } else { "not safe" };
        json!({"nodeId": 1, "safe": reason.is_none(), "recovered": true, "verdict": verdict,
               "partitions": [{"partitionId": 1, "reason": reason}]})
    }

    /// A cluster in which broker 1 leads nothing, and is drained or not; its restart is safe at once.
    async fn cluster(drained: &Arc<AtomicBool>) -> Connection {
        cluster_with_risk(drained, || Json(risk(None))).await
    }

    async fn cluster_with_risk(
        drained: &Arc<AtomicBool>,
        asked: impl Fn() -> Json<Value> + Clone + Send + Sync + 'static,
    ) -> Connection {
        let set = |to: bool| {
            let drained = Arc::clone(drained);
            move || {
                drained.store(to, Relaxed);
                std::future::ready(Json(json!({"nodeId": 1, "drained": to})))
            }
        };
        let seen = Arc::clone(drained);
        let brokers = move || {
            let broker = json!({"nodeId": 1, "reachable": true, "drained": seen.load(Relaxed), "leaders": 0});
            std::future::ready(Json(json!({"brokers": [broker]})))
        };
        let routes = Router::new()
            .route("/cluster/v2/brokers", get(brokers))
            .route("/cluster/v2/brokers/1/restart-risk", get(move || std::future::ready(asked())))
            .route("/cluster/v2/brokers/1/drain", put(set(true)).delete(set(false)));
        Connection::to_api(serve_http(routes).await)
    }

    #[tokio::test]
    async fn the_mark_is_taken_back_unless_the_broker_was_drained_before() {
        for before in [false, true] {
            let drained = Arc::new(AtomicBool::new(before));
            run(args(Duration::from_secs(30)), &cluster(&drained).await).await.unwrap();
            assert_eq!(drained.load(Relaxed), before);
        }
    }

    /// How often the risk was asked for, when the answers are these in turn, the last again and again.
    async fn asked(answers: &'static [Option<&'static str>], for_at_most: Duration) -> usize {
        let drained = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let answer = move || {
            let turn = counted.fetch_add(1, Relaxed);
            Json(risk(answers[turn.min(answers.len() - 1)]))
        };
        run(args(for_at_most), &cluster_with_risk(&drained, answer).await).await.unwrap();
        assert!(!drained.load(Relaxed), "the mark is taken back");
        count.load(Relaxed)
    }

    #[tokio::test]
    async fn the_restart_waits_until_it_is_safe() {
        assert_eq!(asked(&[Some("OTHERS_LAG"), Some("NO_MAJORITY"), None], Duration::from_secs(30)).await, 3);
    }

    #[tokio::test]
    async fn a_restart_that_is_never_safe_is_waited_for_no_longer_than_given_and_not_at_all_without_hope() {
        assert!(asked(&[Some("OTHERS_LAG")], Duration::from_secs(1)).await >= 1);
        assert_eq!(asked(&[Some("ONLY_REPLICA")], FOR_AT_MOST_MAX).await, 1);
    }

    #[tokio::test]
    async fn without_a_gateway_the_broker_itself_is_asked_unless_another_one_answers() {
        let gone = Connection::to_api(format!("http://127.0.0.1:{}", free_ports(1).unwrap()[0]));
        for (answers, known) in [(1, true), (2, false)] {
            let told = move || {
                let mut risk = risk(Some("OTHERS_LAG"));
                risk["nodeId"] = answers.into();
                std::future::ready(Json(risk))
            };
            let broker = serve_http(Router::new().route("/actuator/restart-risk", get(told))).await;
            let args = PreStopArgs { broker_monitoring: broker, ..args(FOR_AT_MOST_MAX) };
            let risk = ask_for_risk(&args, &gone.cluster_api().unwrap()).await;
            assert_eq!(risk.is_ok(), known, "{risk:?}");
        }
    }

    #[test]
    fn the_time_is_bounded() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err() && duration("2h").is_err() && duration("soon").is_err());
    }
}
