//! `evenkeel check`: one look, in the shape that a monitoring system takes.

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::cluster::connection::Connection;
use crate::commands::assessment::{Assessment, State, assess};
use crate::commands::status::look;
use crate::output::outcome::{EXIT_UNBALANCED, EXIT_UNHEALTHY, Failure, print};

/// A Nagios plugin's exit codes.
const NAGIOS_WARNING: u8 = 1;
const NAGIOS_CRITICAL: u8 = 2;
const NAGIOS_UNKNOWN: u8 = 3;

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// For whom
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line with performance data, and a plugin's exit codes: 0 ok, 1 warning, 2 critical, 3 unknown
    #[default]
    Nagios,
    /// Gauges for the node exporter's textfile collector; exits 10 when unhealthy, 11 when unbalanced
    Prometheus,
    /// One JSON object; exits as prometheus does
    Json,
}

pub async fn run(args: CheckArgs, connection: &Connection) -> Result<(), Failure> {
    let seen = look(connection).await.map(|seen| assess(&seen.topology, &seen.wishes));
    match args.format {
        Format::Nagios => {
            let (line, code) = nagios(seen.as_ref());
            print(line)?;
            if code == 0 { Ok(()) } else { Err(Failure::told(code)) }
        }
        Format::Prometheus => {
            print(prometheus(seen.as_ref()).trim_end())?;
            judged(&seen?)
        }
        Format::Json => {
            let found = seen?;
            print(found.to_json())?;
            judged(&found)
        }
    }
}

fn judged(found: &Assessment) -> Result<(), Failure> {
    match found.state {
        State::Healthy if found.is_balanced() => Ok(()),
        State::Healthy => Err(Failure::new(EXIT_UNBALANCED, format!("not balanced: {}", found.verdict))),
        state => Err(Failure::new(EXIT_UNHEALTHY, format!("{}: {}", state.name(), found.verdict))),
    }
}

/// The line, and the plugin's exit code.
fn nagios(seen: Result<&Assessment, &Failure>) -> (String, u8) {
    let found = match seen {
        Ok(found) => found,
        Err(failure) => {
            return (format!("EVENKEEL UNKNOWN - {}", one_line(&failure.message)), NAGIOS_UNKNOWN);
        }
    };
    let (word, code) = match found.state {
        State::Healthy if found.is_balanced() => ("OK", 0),
        State::Healthy | State::Degraded => ("WARNING", NAGIOS_WARNING),
        State::Unhealthy => ("CRITICAL", NAGIOS_CRITICAL),
    };
    let problems: Vec<&str> = found.problems.iter().map(|problem| problem.what.as_str()).collect();
    let said = if problems.is_empty() { found.verdict.clone() } else { problems.join("; ") };
    let line = format!(
        "EVENKEEL {word} - {} | brokers_reachable={};;;0;{} partitions_leaderless={};;0;0;{} \
         partitions_misplaced={};0;;0;{} quorum_margin_min={} lag_max={}B",
        one_line(&said),
        found.brokers_reachable,
        found.brokers,
        found.leaderless,
        found.partitions,
        found.misplaced,
        found.partitions,
        found.quorum_margin_min,
        found.lag_bytes_max
    );
    (line, code)
}

/// A bar ends the text of a plugin.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "/")
}

fn prometheus(seen: Result<&Assessment, &Failure>) -> String {
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, value: f64| {
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"));
    };
    gauge("evenkeel_check_up", "Whether a gateway answered the check", f64::from(u8::from(seen.is_ok())));
    let Ok(found) = seen else { return text };
    let number = |yes: bool| f64::from(u8::from(yes));
    gauge(
        "evenkeel_check_healthy",
        "Whether everything works on every broker",
        number(found.state == State::Healthy),
    );
    gauge(
        "evenkeel_check_serving",
        "Whether everything can be read and written",
        number(found.state != State::Unhealthy),
    );
    gauge(
        "evenkeel_check_balanced",
        "Whether every partition is led by its primary",
        number(found.is_balanced()),
    );
    gauge("evenkeel_check_brokers", "Brokers that there should be", found.brokers as f64);
    gauge("evenkeel_check_brokers_reachable", "Brokers that answer", found.brokers_reachable as f64);
    gauge("evenkeel_check_partitions", "Partitions", found.partitions as f64);
    gauge("evenkeel_check_partitions_leaderless", "Partitions that nobody leads", found.leaderless as f64);
    gauge(
        "evenkeel_check_partitions_misplaced",
        "Partitions that another than their primary leads",
        found.misplaced as f64,
    );
    gauge(
        "evenkeel_check_quorum_margin_min",
        "Replicas that the worst partition can lose",
        found.quorum_margin_min as f64,
    );
    gauge("evenkeel_check_lag_bytes_max", "Bytes that the last follower lacks", found.lag_bytes_max as f64);
    let name = "evenkeel_check_leaders";
    text.push_str(&format!("# HELP {name} Partitions that a broker leads\n# TYPE {name} gauge\n"));
    for (node, led) in &found.leaders {
        text.push_str(&format!("{name}{{broker={}}} {led}\n", json!(node.to_string())));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::status::tests::topology;
    use crate::output::verdict::Wishes;

    fn found(leaders: &[Option<u64>]) -> Assessment {
        assess(&topology(leaders), &Wishes::default())
    }

    #[test]
    fn a_plugin_says_it_in_a_line_and_by_its_exit_code() {
        let even = found(&[Some(0), Some(1), Some(2)]);
        assert_eq!(
            nagios(Ok(&even)),
            (
                "EVENKEEL OK - balanced: 1/1/1 leaders per broker | brokers_reachable=3;;;0;3 \
                 partitions_leaderless=0;;0;0;3 partitions_misplaced=0;0;;0;3 quorum_margin_min=1 lag_max=2000B"
                    .to_owned(),
                0
            )
        );
        assert_eq!(nagios(Ok(&found(&[Some(0), Some(0), Some(2)]))).1, NAGIOS_WARNING);
        let (line, code) = nagios(Ok(&found(&[Some(0), None, Some(2)])));
        assert!(line.starts_with("EVENKEEL CRITICAL - 1 partition(s) (2) without leader | "), "{line}");
        assert_eq!(code, NAGIOS_CRITICAL);
        let (line, code) = nagios(Err(&Failure::unreachable("a | b\nc")));
        assert_eq!((line.as_str(), code), ("EVENKEEL UNKNOWN - a / b c", NAGIOS_UNKNOWN));
    }

    #[test]
    fn gauges_are_there_even_when_nobody_answers() {
        let text = prometheus(Ok(&found(&[Some(0), Some(0), Some(2)])));
        for line in
            ["evenkeel_check_up 1", "evenkeel_check_balanced 0", "evenkeel_check_leaders{broker=\"0\"} 2"]
        {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let text = prometheus(Err(&Failure::unreachable("away")));
        assert_eq!(text.lines().last(), Some("evenkeel_check_up 0"));
    }

    #[test]
    fn exit_codes_tell_unhealthy_from_unbalanced() {
        let code = |leaders: &[Option<u64>]| judged(&found(leaders)).map_err(|failure| failure.code);
        assert_eq!(code(&[Some(0), Some(1), Some(2)]).ok(), Some(()));
        assert_eq!(code(&[Some(0), Some(0), Some(2)]).err(), Some(EXIT_UNBALANCED));
        assert_eq!(code(&[Some(0), None, Some(2)]).err(), Some(EXIT_UNHEALTHY));
    }
}
