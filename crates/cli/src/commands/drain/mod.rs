//! `evenkeel drain` and `evenkeel undrain`: frees a broker of leaderships, and lets it lead again.
//!
//! A drain is remembered by the cluster: the broker is given no leadership until it is undrained, whatever restarts.
//! Exit codes are those of `evenkeel rebalance`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use crate::cluster::cluster_api::{BrokerState, ClusterApi, Run};
use crate::cluster::connection::Connection;
use crate::commands::rebalance::follow::follow;
use crate::commands::rebalance::report::{hints, run_table};
use crate::output::format::{Output, PrintArgs};
use crate::output::outcome::{
    EXIT_ALREADY_ACTIVE, EXIT_NOT_FOUND, EXIT_TRANSFERS_FAILED, EXIT_USAGE, Failure, note, print,
};
use crate::processes::signals::stop_requested;

/// Gateways learn of a change of leader within this, or the leadership is really still there.
const LEADERS_KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
const LEADERS_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Runs of others that a drain waits for before it gives way.
const ACTIVE_RUNS_MAX: u32 = 3;
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
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Args, Debug)]
pub struct UndrainArgs {
    /// Broker's node id
    broker: u64,
    #[command(flatten)]
    shown: PrintArgs,
}

pub async fn drain(args: DrainArgs, connection: &Connection) -> Result<(), Failure> {
    let api = connection.cluster_api()?;
    let broker = args.broker;
    let stop = stop_requested()?;
    let output = args.shown.output;
    let run = tokio::select! {
        drained = drain_patiently(&api, broker, args.wait, output) => drained?,
        signal = stop => return Err(Failure::new(1, format!(
            "{signal}: the cluster goes on without this command once it has taken the drain in; see `evenkeel status`, \
             or take it back with `evenkeel undrain {broker}`"
        ))),
    };
    output.show(
        || format!("broker {broker} leads nothing and is kept free of leaderships until `evenkeel undrain {broker}`"),
        || json!({"nodeId": broker, "drained": true, "leaders": 0, "rebalance": run}),
    )
}

async fn drain_patiently(
    api: &ClusterApi,
    broker: u64,
    wait: bool,
    output: Output,
) -> Result<Option<Value>, Failure> {
    let (began, mut pause) = (Instant::now(), ATTEMPT_PAUSE);
    loop {
        match drain_once(api, broker, output).await {
            Err(failure)
                if wait
                    && matches!(failure.code, EXIT_TRANSFERS_FAILED | EXIT_ALREADY_ACTIVE)
                    && began.elapsed() < WAIT_TIMEOUT =>
            {
                note(format_args!("{failure}; trying again"));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ATTEMPT_PAUSE_MAX);
            }
            ended => return ended,
        }
    }
}

/// Success when the broker leads nothing any more, with the run that brought it there. People see the run before that.
pub async fn drain_once(api: &ClusterApi, broker: u64, output: Output) -> Result<Option<Value>, Failure> {
    let mut attempt = 1;
    let id = loop {
        match api.drain(broker).await {
            Ok(drained) => break drained.rebalance_id,
            // The cluster frees drained brokers by itself, too: then its run is the one to wait for.
            Err(failure) if failure.code == EXIT_ALREADY_ACTIVE && attempt < ACTIVE_RUNS_MAX => {
                if !state_of(api, broker).await?.is_some_and(|broker| broker.drained) {
                    return Err(failure);
                }
                if let Some((run, _)) = api.active_or_last().await? {
                    follow(api, run.rebalance_id, &mut ()).await?;
                }
                attempt += 1;
            }
            Err(failure) => return Err(unknown_broker(failure)),
        }
    };
    let (run, raw) = match id {
        Some(id) => {
            let (run, raw) = follow(api, id, &mut ()).await?;
            if output.is_for_people() {
                print(run_table(&run))?;
            }
            for hint in hints(&run) {
                if output.is_for_people() { print(hint)? } else { note(hint) }
            }
            (run, Some(raw))
        }
        None => (Run::default(), None),
    };
    match leaders_left(api, broker, &run).await? {
        0 => Ok(raw),
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
        EXIT_NOT_FOUND => Failure::new(EXIT_USAGE, failure.message),
        _ => failure,
    }
}

pub async fn state_of(api: &ClusterApi, broker: u64) -> Result<Option<BrokerState>, Failure> {
    Ok(api.brokers().await?.into_iter().find(|known| known.node_id == broker))
}

/// How many partitions the broker leads after the run. The gateway that is asked may learn of the last ones later
/// than the one that ran it.
async fn leaders_left(api: &ClusterApi, broker: u64, run: &Run) -> Result<u64, Failure> {
    let began = Instant::now();
    loop {
        let left = state_of(api, broker).await?.map_or(0, |broker| broker.leaders);
        if left == 0 || !run.went_well() || began.elapsed() > LEADERS_KNOWN_TIMEOUT {
            return Ok(left);
        }
        tokio::time::sleep(LEADERS_POLL_INTERVAL).await;
    }
}

pub async fn undrain(args: UndrainArgs, connection: &Connection) -> Result<(), Failure> {
    let api = connection.cluster_api()?;
    let broker = args.broker;
    api.undrain(broker).await.map_err(unknown_broker)?;
    args.shown.output.show(
        || format!("broker {broker} may lead again; its leaderships come back with `evenkeel rebalance`"),
        || json!({"nodeId": broker, "drained": false}),
    )
}

#[cfg(test)]
mod tests;
