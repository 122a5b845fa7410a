//! `evenkeel dev`: a cluster on this machine, for as long as the command runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::output::format::Output;
use crate::output::outcome::{Failure, note, print};
use crate::processes::free_ports::{free_ports, is_free};
use crate::processes::local_cluster::{LocalCluster, Member, Plan, Ports, all_led};
use crate::processes::signals::stop_requested;

/// More would not fit into the default port ranges, nor a machine.
const BROKERS_MAX: u32 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PortChoice {
    /// The ports of the options below
    Fixed,
    /// Any free ports, so that several clusters can run beside each other
    Auto,
}

#[derive(Args, Clone, Debug)]
pub struct DevArgs {
    /// Brokers to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(BROKERS_MAX)))]
    pub brokers: u32,
    /// Partitions of the cluster
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    pub partitions: u32,
    /// Brokers that hold each partition
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub replication_factor: u32,
    /// Folder for data, configuration and logs; used again when it has a cluster [default: a new temporary one]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where the processes listen
    #[arg(long, value_enum, default_value = "fixed")]
    pub ports: PortChoice,
    /// Gateway's gRPC port
    #[arg(long, default_value_t = 26500, value_name = "PORT")]
    pub gateway_port: u16,
    /// Gateway's HTTP API port
    #[arg(long, default_value_t = 8080, value_name = "PORT")]
    pub api_port: u16,
    /// Gateway's monitoring port
    #[arg(long, default_value_t = 9600, value_name = "PORT")]
    pub monitoring_port: u16,
    /// Broker 0's gRPC port; broker N has the Nth after it
    #[arg(long, default_value_t = 26510, value_name = "PORT")]
    pub broker_port: u16,
    /// Broker 0's monitoring port; broker N has the Nth after it
    #[arg(long, default_value_t = 9610, value_name = "PORT")]
    pub broker_monitoring_port: u16,
    /// table tells a person, json prints one object when the cluster is ready
    #[arg(long, value_enum, default_value_t)]
    pub output: Output,
}

pub async fn run(args: DevArgs) -> Result<(), Failure> {
    let stop = stop_requested()?;
    tokio::pin!(stop);
    let plan = plan(&args)?;
    let cluster = LocalCluster::start(plan).map_err(|error| Failure::usage(format!("{error:#}")))?;
    let client = cluster.client(1)?;
    let ready = cluster.wait_for(&client, "leaders of all partitions", |_| true, all_led);
    let result = tokio::select! {
        ready = ready => ready,
        signal = &mut stop => {
            note(format_args!("{signal}: stopping"));
            return Ok(cluster.stop().await?);
        }
    };
    let took = match result {
        Ok((_, took)) => took,
        Err(error) => {
            let code = configuration_exit_code(&cluster);
            cluster.stop().await?;
            return Err(Failure::new(code, format!("{error:#}")));
        }
    };
    match args.output {
        Output::Table | Output::Wide => print(announcement(&cluster, took))?,
        data => data.print(announcement_json(&cluster))?,
    }
    let mut ends: FuturesUnordered<_> =
        cluster.members().map(|member| async move { (member, member.process.ended().await) }).collect();
    loop {
        tokio::select! {
            signal = &mut stop => {
                note(format_args!("{signal}: stopping what was started here"));
                break;
            }
            Some((member, status)) = ends.next() => {
                let how = status.map_or_else(|| "ended".to_owned(), |status| format!("ended ({status})"));
                let (name, pid, command) = (&member.name, member.process.pid(), member.command.shell());
                note(format_args!("{name} (pid {pid}) {how}; it stays down until you start it again:\n  {command}"));
            }
        }
    }
    drop(ends);
    let again = stop_requested()?;
    tokio::select! {
        stopped = cluster.stop() => stopped?,
        // What still runs is killed when the cluster is dropped.
        signal = again => return Err(Failure::new(1, format!("{signal} again: killed what was started here"))),
    }
    note(format_args!("stopped; the data stays in {}", cluster.plan.data_dir.display()));
    Ok(())
}

/// 2 when a process refused its configuration: it says so by the same code.
fn configuration_exit_code(cluster: &LocalCluster) -> u8 {
    let codes = cluster.members().filter_map(|member| member.process.exit_status()?.code());
    if codes.into_iter().any(|code| code == i32::from(crate::output::outcome::EXIT_USAGE)) { 2 } else { 1 }
}

/// What to start, once it is certain that it can start.
pub fn plan(args: &DevArgs) -> Result<Plan, Failure> {
    if args.replication_factor > args.brokers {
        return Err(Failure::usage(format!(
            "--replication-factor {}: there are only {} brokers; lower it or raise --brokers",
            args.replication_factor, args.brokers
        )));
    }
    let ports = match args.ports {
        PortChoice::Fixed => fixed_ports(args)?,
        PortChoice::Auto => automatic_ports(args.brokers)?,
    };
    let data_dir = match &args.data_dir {
        Some(folder) => create_folder(folder)?,
        None => {
            let folder = tempfile::Builder::new().prefix("evenkeel-dev-").tempdir();
            folder
                .map_err(|error| {
                    Failure::new(1, format!("temporary folder: {error}; give one with --data-dir"))
                })?
                .keep()
        }
    };
    Ok(Plan { partitions: args.partitions, replication_factor: args.replication_factor, data_dir, ports })
}

fn create_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let created = std::fs::create_dir_all(folder).and_then(|()| folder.canonicalize());
    created.map_err(|error| {
        Failure::usage(format!("--data-dir {}: {error}; choose another folder", folder.display()))
    })
}

/// The ports of the options, when all are free.
fn fixed_ports(args: &DevArgs) -> Result<Ports, Failure> {
    let shifted = |base: u16, option: &str| -> Result<Vec<u16>, Failure> {
        let ports =
            (0..args.brokers).map(|node| u16::try_from(node).ok().and_then(|node| base.checked_add(node)));
        ports.collect::<Option<_>>().ok_or_else(|| {
            Failure::usage(format!(
                "{option} {base}: {} brokers need ports beyond 65535; lower it",
                args.brokers
            ))
        })
    };
    let grpc = shifted(args.broker_port, "--broker-port")?;
    let monitoring = shifted(args.broker_monitoring_port, "--broker-monitoring-port")?;
    let ports = Ports {
        gateway: args.gateway_port,
        api: args.api_port,
        monitoring: args.monitoring_port,
        brokers: grpc.into_iter().zip(monitoring).collect(),
    };
    let all = ports.all();
    for (i, (port, whose)) in all.iter().enumerate() {
        if *port == 0 {
            return Err(Failure::usage(format!("port 0 for {whose}; use --ports auto for any free ports")));
        }
        if let Some((_, other)) = all[..i].iter().find(|(earlier, _)| earlier == port) {
            return Err(Failure::usage(format!(
                "port {port} is both {other} and {whose}; give each its own"
            )));
        }
        if !is_free(*port) {
            return Err(Failure::usage(format!(
                "port {port} ({whose}) is taken; stop what listens there, or run `evenkeel dev --ports auto`"
            )));
        }
    }
    Ok(ports)
}

pub fn automatic_ports(brokers: u32) -> anyhow::Result<Ports> {
    let mut free = free_ports(3 + 2 * brokers as usize).context("choosing ports")?.into_iter();
    let mut next = || free.next().context("choosing ports");
    let (gateway, api, monitoring) = (next()?, next()?, next()?);
    let brokers = (0..brokers).map(|_| Ok((next()?, next()?))).collect::<anyhow::Result<_>>()?;
    Ok(Ports { gateway, api, monitoring, brokers })
}

fn announcement(cluster: &LocalCluster, took: Duration) -> String {
    let plan = &cluster.plan;
    let mut lines = vec![
        format!(
            "evenkeel dev: {} brokers, {} partitions, replication factor {}",
            plan.ports.brokers.len(),
            plan.partitions,
            plan.replication_factor
        ),
        format!("data folder {}", plan.data_dir.display()),
        String::new(),
    ];
    for member in cluster.members() {
        let listens =
            member.listens.iter().map(|(what, where_)| format!("{what} {where_}")).collect::<Vec<_>>();
        lines.push(format!("  {:<10} pid {:<8} {}", member.name, member.process.pid(), listens.join("   ")));
    }
    lines.push(String::new());
    lines.push("A process that is killed stays down until you start it again:".into());
    for member in cluster.members() {
        lines.push(format!("  {:<10} {}", member.name, member.command.shell()));
    }
    lines.push(String::new());
    if plan.ports.gateway != 26500 || plan.ports.api != 8080 || plan.ports.monitoring != 9600 {
        lines.push("The other commands find this cluster with:".into());
        lines.push(format!(
            "  export EVENKEEL_GATEWAY={} EVENKEEL_API={} EVENKEEL_MONITORING={}",
            cluster.gateway_address(),
            cluster.api_url(),
            cluster.monitoring_url()
        ));
        lines.push(String::new());
    }
    lines.push(format!(
        "ready after {:.1} s: all {} partitions have a leader; Ctrl-C stops what was started here",
        took.as_secs_f64(),
        plan.partitions
    ));
    lines.join("\n")
}

fn announcement_json(cluster: &LocalCluster) -> Value {
    let member = |member: &Member| {
        let mut object = json!({
            "pid": member.process.pid(),
            "log": member.log,
            "command": std::iter::once(member.command.program.display().to_string())
                .chain(member.command.args.iter().cloned())
                .collect::<Vec<_>>(),
        });
        for (what, where_) in &member.listens {
            object[what.to_lowercase()] = json!(where_);
        }
        object
    };
    let brokers = cluster.brokers.iter().enumerate().map(|(node, broker)| {
        let mut object = member(broker);
        object["node_id"] = json!(node);
        object
    });
    json!({
        "data_dir": cluster.plan.data_dir,
        "gateway": member(&cluster.gateway),
        "brokers": brokers.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn args(words: &[&str]) -> DevArgs {
        Cli::parse_from(std::iter::once("dev").chain(words.iter().copied())).dev
    }

    #[test]
    fn impossible_clusters_are_refused_with_the_remedy() {
        let table: [(&[&str], &str); 4] = [
            (&["--replication-factor", "4"], "--replication-factor 4: there are only 3 brokers; lower it"),
            (&["--broker-port", "65534"], "--broker-port 65534: 3 brokers need ports beyond 65535"),
            (
                &["--api-port", "9600"],
                "port 9600 is both the gateway's API port and the gateway's monitoring port",
            ),
            (&["--gateway-port", "0"], "port 0 for the gateway's gRPC port; use --ports auto"),
        ];
        for (words, expected) in table {
            let failure = plan(&args(words)).unwrap_err();
            assert_eq!(failure.code, 2);
            // Another cluster may hold a default port on this machine: then that is said first.
            assert!(
                failure.message.starts_with(expected) || failure.message.contains("is taken"),
                "{failure}"
            );
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let failure = plan(&args(&["--gateway-port", &port])).unwrap_err();
        assert!(failure.message.contains("(the gateway's gRPC port) is taken"), "{failure}");
    }

    #[test]
    fn automatic_ports_do_not_collide() {
        let ports = automatic_ports(5).unwrap().all();
        let distinct: std::collections::BTreeSet<u16> = ports.iter().map(|(port, _)| *port).collect();
        assert_eq!(distinct.len(), 13);
    }
}
