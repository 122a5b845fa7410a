//! `evenkeel drain` and `evenkeel undrain`: frees a broker of leaderships, and lets it lead again.
//!
//! A drain is remembered by the cluster: the broker is given no leadership until it is undrained, whatever restarts.
//! Exit codes are those of `evenkeel rebalance`.

use std::time::{Duration, Instant};

use clap::Args;

use crate::cluster_api::{ClusterApi, Run};
use crate::connection::Connection;
use crate::http::Http;
use crate::outcome::{EXIT_ALREADY_ACTIVE, EXIT_TRANSFERS_FAILED, EXIT_USAGE, Failure, note, print};
use crate::rebalance::follow_or_leave;
use crate::rebalance_report::{hints, run_table};

/// Gateways learn of a change of leader within this, or the leadership is really still there.
const LEADERS_KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
const LEADERS_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// With --wait: pauses between attempts, and when to give up.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(500);
const ATTEMPT_PAUSE_MAX: Duration = Duration::from_secs(10);
const WAIT_TIMEOUT: Duration = Duration::from_secs(900);

#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Broker's node id
    broker: u64,
    /// Try again until the broker leads nothing, at most 15 minutes: replicas that lag catch up meanwhile
    #[arg(long)]
    wait: bool,
}

#[derive(Args, Debug)]
pub struct UndrainArgs {
    /// Broker's node id
    broker: u64,
}

pub async fn drain(args: DrainArgs, connection: &Connection) -> Result<(), Failure> {
    let api = ClusterApi::new(Http::new(), &connection.api);
    let broker = args.broker;
    let (began, mut pause) = (Instant::now(), ATTEMPT_PAUSE);
    loop {
        let attempt = drain_once(&api, broker).await;
        let worth_another = |failure: &Failure| {
            args.wait && matches!(failure.code, EXIT_TRANSFERS_FAILED | EXIT_ALREADY_ACTIVE)
        };
        match attempt {
            Ok(()) => {
                return print(format_args!(
                    "broker {broker} leads nothing and is kept free of leaderships until `evenkeel undrain {broker}`"
                ));
            }
            Err(failure) if worth_another(&failure) && began.elapsed() < WAIT_TIMEOUT => {
                note(format_args!("{failure}; trying again"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ATTEMPT_PAUSE_MAX);
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Success when the broker leads nothing any more.
async fn drain_once(api: &ClusterApi, broker: u64) -> Result<(), Failure> {
    let drained = api.drain(broker).await.map_err(unknown_broker)?;
    if let Some(id) = drained.rebalance_id {
        let (run, _) = follow_or_leave(api, id, false).await?;
        print(run_table(&run))?;
        for hint in hints(&run) {
            print(hint)?;
        }
        let left = leaders_left(api, broker, &run).await?;
        if left > 0 {
            return Err(still_leads(broker, left));
        }
        return Ok(());
    }
    match leaders_now(api, broker).await? {
        0 => Ok(()),
        left => Err(still_leads(broker, left)),
    }
}

fn still_leads(broker: u64, left: u64) -> Failure {
    Failure::new(
        EXIT_TRANSFERS_FAILED,
        format!(
            "broker {broker} is drained but still leads {left} partition(s): nobody else can take them over yet; they \
             are moved away when somebody can, and `evenkeel drain {broker} --wait` waits for that"
        ),
    )
}

/// A node id that no broker has is a slip of the person's.
fn unknown_broker(failure: Failure) -> Failure {
    match failure.code {
        crate::outcome::EXIT_NOT_FOUND => Failure::new(EXIT_USAGE, failure.message),
        _ => failure,
    }
}

async fn leaders_now(api: &ClusterApi, broker: u64) -> Result<u64, Failure> {
    let brokers = api.brokers().await?;
    let found = brokers.iter().find(|known| known.node_id == broker);
    Ok(found.map_or(0, |broker| broker.leaders))
}

/// How many partitions the broker leads after the run. The gateway that is asked may learn of the last ones later
/// than the one that ran it.
async fn leaders_left(api: &ClusterApi, broker: u64, run: &Run) -> Result<u64, Failure> {
    let began = Instant::now();
    loop {
        let left = leaders_now(api, broker).await?;
        if left == 0 || !run.went_well() || began.elapsed() > LEADERS_KNOWN_TIMEOUT {
            return Ok(left);
        }
        tokio::time::sleep(LEADERS_POLL_INTERVAL).await;
    }
}

pub async fn undrain(args: UndrainArgs, connection: &Connection) -> Result<(), Failure> {
    let api = ClusterApi::new(Http::new(), &connection.api);
    let broker = args.broker;
    api.undrain(broker).await.map_err(unknown_broker)?;
    print(format_args!("broker {broker} may lead again; its leaderships come back with `evenkeel rebalance`"))
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
