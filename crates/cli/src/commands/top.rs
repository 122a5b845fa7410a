//! `evenkeel top`: the cluster at work, brokers and what passes the gateway, again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::bench::metrics_text::samples;
use crate::cluster::connection::Connection;
use crate::cluster::http::join;
use crate::commands::assessment::{Assessment, assess};
use crate::commands::status::{Seen, look};
use crate::commands::waiting::interval;
use crate::output::format::Output;
use crate::output::live::{Frame, repeat};
use crate::output::outcome::{Failure, note};
use crate::output::tables::{right_align, table};

/// Requests that the gateway has answered, by call and outcome.
const REQUESTS: &str = "evenkeel_gateway_requests_total";
/// Requests that wait for a leader.
const PARKED: &str = "evenkeel_gateway_parked_requests";

#[derive(Args, Debug)]
pub struct TopArgs {
    /// How often
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Show it once, with rates over one interval
    #[arg(long)]
    once: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub async fn run(args: TopArgs, connection: &Connection) -> Result<(), Failure> {
    let before = Mutex::new(None);
    if args.once {
        *before.lock() = scrape(connection).await;
        tokio::time::sleep(args.interval).await;
        let Frame { people, data } = frame(connection, &before).await?;
        return args.output.show(|| people, || data);
    }
    repeat(args.output, args.interval, || frame(connection, &before)).await
}

/// What the gateway has counted, and when.
struct Counted {
    at: Instant,
    requests: BTreeMap<String, f64>,
    parked: f64,
}

/// `None` when the monitoring port does not tell: the rest is worth showing all the same.
async fn scrape(connection: &Connection) -> Option<Counted> {
    let url = join(&connection.monitoring, "/actuator/prometheus");
    let answer = match connection.http().ok()?.get(&url).await {
        Ok(answer) if answer.status.is_success() => answer,
        Ok(answer) => {
            note(format_args!("{url} answers {}: no rates are shown; see --monitoring", answer.status));
            return None;
        }
        Err(failure) => {
            note(format_args!("{failure}: no rates are shown; see --monitoring"));
            return None;
        }
    };
    Some(counted(&answer.text()))
}

fn counted(text: &str) -> Counted {
    let mut requests = BTreeMap::new();
    for sample in samples(text, REQUESTS) {
        let labels: Vec<&str> = sample.labels.iter().map(|(_, value)| value.as_str()).collect();
        *requests.entry(labels.join(" ")).or_default() += sample.value;
    }
    let parked = samples(text, PARKED).iter().map(|sample| sample.value).sum();
    Counted { at: Instant::now(), requests, parked }
}

/// Requests per second, by their labels.
fn rates(before: &Counted, now: &Counted) -> BTreeMap<String, f64> {
    let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
    let rate = |(name, count): (&String, &f64)| {
        // A gateway that was started again counts from 0.
        let grown = count - before.requests.get(name).filter(|last| *last <= count).unwrap_or(&0.0);
        (name.clone(), if seconds > 0.0 { grown / seconds } else { 0.0 })
    };
    now.requests.iter().map(rate).collect()
}

async fn frame(connection: &Connection, before: &Mutex<Option<Counted>>) -> Result<Frame, Failure> {
    let (seen, now) = tokio::join!(look(connection), scrape(connection));
    let seen = seen?;
    let found = assess(&seen.topology, &seen.wishes);
    let parked = now.as_ref().map(|now| now.parked);
    let last = match now {
        Some(now) => before.lock().replace(now),
        None => None,
    };
    let rates = match (&last, &*before.lock()) {
        (Some(last), Some(now)) => rates(last, now),
        _ => BTreeMap::new(),
    };
    Ok(Frame {
        people: in_words(&seen, &found, &rates, parked),
        data: in_json(&seen, &found, &rates, parked),
    })
}

/// Replicas of a broker, and what the one of them that lacks most lacks.
fn of_broker(seen: &Seen, node: u64) -> (usize, u64) {
    let broker = seen.topology.brokers.iter().find(|broker| broker.node_id == node);
    let replicas = || broker.iter().flat_map(|broker| &broker.replicas);
    (replicas().count(), replicas().filter_map(|replica| replica.lag_bytes).max().unwrap_or(0))
}

fn state(seen: &Seen, node: u64) -> &'static str {
    let broker = seen.topology.brokers.iter().find(|broker| broker.node_id == node);
    match broker {
        None => "unknown",
        Some(broker) if !broker.reachable => "away",
        Some(broker) if broker.draining => "stopping",
        Some(_) if seen.wishes.drained.contains(&node) => "drained",
        Some(_) => "up",
    }
}

fn in_words(seen: &Seen, found: &Assessment, rates: &BTreeMap<String, f64>, parked: Option<f64>) -> String {
    let mut brokers = table(["broker", "state", "leads", "replicas", "lag bytes, most"]);
    for (node, led) in &found.leaders {
        let (replicas, lag) = of_broker(seen, *node);
        brokers.add_row([
            node.to_string(),
            state(seen, *node).to_owned(),
            led.to_string(),
            replicas.to_string(),
            lag.to_string(),
        ]);
    }
    right_align(&mut brokers, &[0, 2, 3, 4]);
    let mut text = format!("{}: {}\n{brokers}", found.state.name(), found.verdict);
    let busy: Vec<(&String, &f64)> = rates.iter().filter(|(_, rate)| **rate > 0.0).collect();
    if !busy.is_empty() {
        let mut requests = table(["requests at this gateway", "per second"]);
        for (name, rate) in busy {
            requests.add_row([name.clone(), format!("{rate:.1}")]);
        }
        right_align(&mut requests, &[1]);
        text.push_str(&format!("\n{requests}"));
    }
    if let Some(parked) = parked {
        text.push_str(&format!("\n{parked} requests wait for a leader"));
    }
    text
}

fn in_json(seen: &Seen, found: &Assessment, rates: &BTreeMap<String, f64>, parked: Option<f64>) -> Value {
    let brokers = found.leaders.iter().map(|(node, led)| {
        let (replicas, lag) = of_broker(seen, *node);
        json!({
            "node_id": node, "state": state(seen, *node), "leaders": led, "replicas": replicas, "lag_bytes_max": lag,
        })
    });
    json!({
        "state": found.state.name(),
        "verdict": found.verdict,
        "brokers": brokers.collect::<Vec<_>>(),
        "requests_per_second": rates,
        "parked_requests": parked,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64, began: Instant, text: &str) -> Counted {
        Counted { at: began + Duration::from_secs(seconds), ..counted(text) }
    }

    #[test]
    fn rates_are_what_grew_between_two_scrapes_and_survive_a_restart() {
        let began = Instant::now();
        let metric = |count: u32| format!("{REQUESTS}{{call=\"Put\",outcome=\"ok\"}} {count}\n{PARKED} 2\n");
        let (first, later) = (at(0, began, &metric(10)), at(2, began, &metric(30)));
        assert_eq!(rates(&first, &later), [("Put ok".to_owned(), 10.0)].into());
        assert_eq!(later.parked, 2.0);
        let restarted = at(4, began, &metric(4));
        assert_eq!(rates(&later, &restarted), [("Put ok".to_owned(), 2.0)].into());
    }
}
