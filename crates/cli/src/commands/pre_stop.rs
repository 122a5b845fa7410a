//! `evenkeel pre-stop`: what a supervisor runs before it stops a broker that is to come back, such as a preStop hook.
//!
//! Leaderships move away while the broker still serves, by a run that waits for replicas that lag. The broker's mark as drained is
//! then taken back, unless it had it before, so that it may lead again once it is back. All of it is a courtesy: a gateway that
//! is dead, busy or refuses must not keep a broker from being stopped, which hands over what it still leads when it is told to.
//! So this never fails, and takes no longer than it was given.

use std::time::Duration;

use clap::Args;

use crate::cluster::cluster_api::ClusterApi;
use crate::cluster::connection::Connection;
use crate::commands::drain::{drain_once, state_of};
use crate::output::format::Output;
use crate::output::outcome::{EXIT_AUTH, EXIT_UNREACHABLE, EXIT_USAGE, Failure, note};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Attempts without an answer after which nobody is taken to be there.
const UNANSWERED_MAX: u32 = 5;
/// How long taking the mark back may take, on top of the time given for the drain.
const UNDRAIN_TIMEOUT: Duration = Duration::from_secs(5);
const FOR_AT_MOST_MAX: Duration = Duration::from_secs(3_600);

#[derive(Args, Debug)]
pub struct PreStopArgs {
    /// Node id of the broker that will be stopped
    #[arg(long, env = "EVENKEEL_CLUSTER_NODE_ID", value_name = "NODE_ID")]
    broker: u64,
    /// How long leaderships may take to move away, such as 60s; 5 s more may pass
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    for_at_most: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text).map_err(|error| error.to_string())? {
        given if given.is_zero() || given > FOR_AT_MOST_MAX => Err("give up to an hour, such as 60s".into()),
        given => Ok(given),
    }
}

pub async fn run(args: PreStopArgs, connection: &Connection) -> Result<(), Failure> {
    let broker = args.broker;
    let api = match connection.cluster_api() {
        Ok(api) => api,
        Err(failure) => {
            note(format_args!("{failure}; the broker hands over what it leads when it stops"));
            return Ok(());
        }
    };
    let mut drained_by_us = false;
    let drain = drain_patiently(&api, broker, &mut drained_by_us);
    match tokio::time::timeout(args.for_at_most, drain).await {
        Ok(Ok(())) => note(format_args!("broker {broker} leads nothing and may be stopped")),
        Ok(Err(failure)) => {
            note(format_args!("{failure}; the broker hands over what it leads when it stops"))
        }
        Err(_) => note(format_args!(
            "broker {broker} still leads after {:?}; it hands over the rest when it stops",
            args.for_at_most
        )),
    }
    if drained_by_us {
        undrain(&api, broker).await;
    }
    Ok(())
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
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use axum::routing::{get, put};
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;
    use crate::cluster::fake_gateway::serve_http;
    use crate::processes::free_ports::free_ports;

    fn args(for_at_most: Duration) -> PreStopArgs {
        PreStopArgs { broker: 1, for_at_most }
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

    /// A cluster in which broker 1 leads nothing, and is drained or not.
    async fn cluster(drained: &Arc<AtomicBool>) -> Connection {
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

    #[test]
    fn the_time_is_bounded() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("0s").is_err() && duration("2h").is_err() && duration("soon").is_err());
    }
}
