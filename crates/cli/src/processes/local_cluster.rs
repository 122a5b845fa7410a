//! A whole cluster as child processes of this one: `dev` keeps it for a person, `demo` for its story.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use evenkeel_client::{Client, Options};
use evenkeel_protocol::v1::TopologyResponse;

use crate::processes::child_process::{ChildProcess, CommandLine};

/// How often the topology is asked for while waiting.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time for a cluster to elect leaders, to which each partition adds a little.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT_PER_PARTITION: Duration = Duration::from_millis(50);
/// Last lines of a log that explain why a process ended.
const LOG_LINES_SHOWN: usize = 3;
/// Tells a child to end with its standard input.
const STOP_FLAG: &str = "--stop-with-stdin";
const HOST: &str = "127.0.0.1";

/// Where a cluster's processes listen, all on the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    pub gateway: u16,
    pub api: u16,
    pub monitoring: u16,
    /// gRPC and monitoring port of each broker.
    pub brokers: Vec<(u16, u16)>,
}

impl Ports {
    /// Every port with whose it is.
    pub fn all(&self) -> Vec<(u16, String)> {
        let gateway = [(self.gateway, "gRPC"), (self.api, "API"), (self.monitoring, "monitoring")];
        let gateway = gateway.into_iter().map(|(port, what)| (port, format!("the gateway's {what} port")));
        let brokers = self.brokers.iter().enumerate().flat_map(|(node, (grpc, monitoring))| {
            [
                (*grpc, format!("broker {node}'s gRPC port")),
                (*monitoring, format!("broker {node}'s monitoring port")),
            ]
        });
        gateway.chain(brokers).collect()
    }
}

/// The cluster to start.
#[derive(Clone, Debug)]
pub struct Plan {
    pub partitions: u32,
    pub replication_factor: u32,
    pub data_dir: PathBuf,
    pub ports: Ports,
}

/// One process of the cluster.
#[derive(Debug)]
pub struct Member {
    /// `gateway`, or `broker 1`.
    pub name: String,
    /// gRPC first, then HTTP, with what each is.
    pub listens: Vec<(&'static str, String)>,
    /// Starts it again.
    pub command: CommandLine,
    pub log: PathBuf,
    pub process: ChildProcess,
}

/// Every process of a cluster; dropping it kills them.
#[derive(Debug)]
pub struct LocalCluster {
    pub gateway: Member,
    /// By node id.
    pub brokers: Vec<Member>,
    pub plan: Plan,
}

impl LocalCluster {
    /// Writes the configuration files and starts every process. `data_dir` must exist.
    pub fn start(plan: Plan) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("path of this program")?;
        let cluster_id = cluster_id(&plan)?;
        let mut brokers = Vec::new();
        for (node, &(grpc, monitoring)) in plan.ports.brokers.iter().enumerate() {
            let file = format!("broker-{node}");
            let config = broker_config(&plan, &cluster_id, node);
            let listens = vec![("gRPC", address(grpc)), ("monitoring", url(monitoring))];
            brokers.push(start_member(
                &plan,
                &program,
                "broker",
                format!("broker {node}"),
                &file,
                &config,
                listens,
            )?);
        }
        let listens = vec![
            ("gRPC", address(plan.ports.gateway)),
            ("API", url(plan.ports.api)),
            ("monitoring", url(plan.ports.monitoring)),
        ];
        let config = gateway_config(&plan);
        let gateway =
            start_member(&plan, &program, "gateway", "gateway".into(), "gateway", &config, listens)?;
        Ok(Self { gateway, brokers, plan })
    }

    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.gateway).chain(&self.brokers)
    }

    /// Where the gateway serves gRPC.
    pub fn gateway_address(&self) -> String {
        address(self.plan.ports.gateway)
    }

    pub fn api_url(&self) -> String {
        url(self.plan.ports.api)
    }

    pub fn monitoring_url(&self) -> String {
        url(self.plan.ports.monitoring)
    }

    /// A client of this cluster, which may still be starting.
    pub fn client(&self, connections: usize) -> anyhow::Result<Client> {
        let mut options = Options::new([self.gateway_address()]);
        options.connections_per_gateway = connections;
        Ok(Client::new(options)?)
    }

    /// Waits until `holds` of the topology, and says how long that took. Fails when a process that should run
    /// has ended, or when time runs out; `what` is what was waited for.
    pub async fn wait_for(
        &self,
        client: &Client,
        what: &str,
        must_run: impl Fn(&Member) -> bool,
        holds: impl Fn(&TopologyResponse) -> bool,
    ) -> anyhow::Result<(TopologyResponse, Duration)> {
        let began = Instant::now();
        let timeout = READY_TIMEOUT + READY_TIMEOUT_PER_PARTITION * self.plan.partitions;
        let mut last = String::from("no answer from the gateway");
        while began.elapsed() < timeout {
            for member in self.members().filter(|member| must_run(member)) {
                if let Some(status) = member.process.exit_status() {
                    let tail = log_tail(&member.log);
                    bail!("{} ended ({status}) while waiting for {what}: {tail}", member.name);
                }
            }
            match tokio::time::timeout(Duration::from_secs(2), client.topology()).await {
                Ok(Ok(topology)) if holds(&topology) => return Ok((topology, began.elapsed())),
                Ok(Ok(topology)) => last = leaders_in_words(&topology),
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => {}
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let logs = self.plan.data_dir.display();
        Err(anyhow!("waited {timeout:?} for {what}, in vain ({last}); the logs are in {logs}"))
    }

    /// Starts a broker again that has ended.
    pub fn restart_broker(&mut self, node: usize) -> anyhow::Result<()> {
        let member = self.brokers.get_mut(node).ok_or_else(|| anyhow!("there is no broker {node}"))?;
        member.process = ChildProcess::start(&member.command, STOP_FLAG, &member.log)?;
        Ok(())
    }

    /// Stops what was started here and still runs: first the gateway, so that no request meets a broker that is
    /// going away.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.gateway.process.stop().await?;
        for result in futures::future::join_all(self.brokers.iter().map(|broker| broker.process.stop())).await
        {
            result?;
        }
        Ok(())
    }
}

/// Whether every partition has a leader.
pub fn all_led(topology: &TopologyResponse) -> bool {
    let led = topology.partitions.iter().filter(|partition| partition.leader.is_some()).count();
    topology.partitions_count > 0 && led == topology.partitions_count as usize
}

fn leaders_in_words(topology: &TopologyResponse) -> String {
    let led = topology.partitions.iter().filter(|partition| partition.leader.is_some()).count();
    format!("{led} of {} partitions have a leader", topology.partitions_count)
}

fn address(port: u16) -> String {
    format!("{HOST}:{port}")
}

fn url(port: u16) -> String {
    format!("http://{HOST}:{port}")
}

fn start_member(
    plan: &Plan,
    program: &Path,
    subcommand: &str,
    name: String,
    file: &str,
    config: &str,
    listens: Vec<(&'static str, String)>,
) -> anyhow::Result<Member> {
    let path = |extension: &str| plan.data_dir.join(format!("{file}.{extension}"));
    let config_file = path("toml");
    std::fs::write(&config_file, config)
        .with_context(|| format!("cannot write {}", config_file.display()))?;
    let text = |path: PathBuf| path.display().to_string();
    let args =
        [subcommand.into(), "--config".into(), text(config_file), "--pid-file".into(), text(path("pid"))];
    let command = CommandLine { program: program.to_owned(), args: args.into() };
    let log = path("log");
    let process = ChildProcess::start(&command, STOP_FLAG, &log)?;
    Ok(Member { name, listens, command, log, process })
}

fn broker_list(ports: &Ports) -> toml::Value {
    let brokers = ports.brokers.iter().enumerate();
    brokers.map(|(node, (grpc, _))| format!("{node}={HOST}:{grpc}")).collect::<Vec<_>>().into()
}

fn quoted(text: impl Into<String>) -> toml::Value {
    toml::Value::String(text.into())
}

fn broker_config(plan: &Plan, cluster_id: &str, node: usize) -> String {
    let (grpc, monitoring) = plan.ports.brokers[node];
    let mut text = format!("# Broker {node} of a cluster started by `evenkeel dev`.\n");
    let _ = writeln!(text, "[cluster]\nid = {}\nnode_id = {node}", quoted(cluster_id));
    let _ = writeln!(text, "brokers = {}", broker_list(&plan.ports));
    let _ =
        writeln!(text, "partitions = {}\nreplication_factor = {}", plan.partitions, plan.replication_factor);
    let _ =
        writeln!(text, "\n[network]\nhost = {}\nport = {grpc}\nmonitoring_port = {monitoring}", quoted(HOST));
    let directory = plan.data_dir.join(format!("broker-{node}"));
    let _ = writeln!(text, "\n[data]\ndirectory = {}", quoted(directory.display().to_string()));
    text
}

fn gateway_config(plan: &Plan) -> String {
    let ports = &plan.ports;
    let mut text = String::from("# Gateway of a cluster started by `evenkeel dev`.\n");
    let _ = writeln!(text, "[cluster]\nbrokers = {}", broker_list(ports));
    let _ = writeln!(text, "\n[network]\nhost = {}\nport = {}", quoted(HOST), ports.gateway);
    let _ = writeln!(text, "api_port = {}\nmonitoring_port = {}", ports.api, ports.monitoring);
    text
}

/// A data folder's cluster keeps its id when it is started again: brokers refuse a folder of another cluster. It
/// also keeps its shape: with another number of partitions, records would not be found where they are.
fn cluster_id(plan: &Plan) -> anyhow::Result<String> {
    let file = plan.data_dir.join("broker-0.toml");
    let Ok(text) = std::fs::read_to_string(&file) else {
        return Ok(format!("dev-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]));
    };
    let config: toml::Table = toml::from_str(&text).with_context(|| file.display().to_string())?;
    let section = config.get("cluster").and_then(toml::Value::as_table);
    let Some(section) = section else {
        bail!("{}: there is no [cluster]; restore it, or choose an empty --data-dir", file.display());
    };
    let number = |key| section.get(key).and_then(toml::Value::as_integer);
    let brokers = section.get("brokers").and_then(toml::Value::as_array).map(|list| list.len() as i64);
    let shape = [
        ("--brokers", plan.ports.brokers.len() as i64, brokers),
        ("--partitions", i64::from(plan.partitions), number("partitions")),
        ("--replication-factor", i64::from(plan.replication_factor), number("replication_factor")),
    ];
    for (option, wanted, has) in shape {
        if let Some(has) = has.filter(|has| *has != wanted) {
            let folder = plan.data_dir.display();
            bail!(
                "{option} {wanted}: the cluster in {folder} has {has}; give {option} {has}, or an empty --data-dir"
            );
        }
    }
    let id = section.get("id").and_then(toml::Value::as_str);
    id.map(str::to_owned).ok_or_else(|| {
        anyhow!("{}: cluster.id is missing; restore it, or choose an empty --data-dir", file.display())
    })
}

/// The last lines of a log, which usually name the cause.
pub fn log_tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    match lines.len() {
        0 => format!("its log {} is empty", log.display()),
        count => lines[count.saturating_sub(LOG_LINES_SHOWN)..].join("\n  "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(data_dir: &Path) -> Plan {
        let ports = Ports { gateway: 1, api: 2, monitoring: 3, brokers: vec![(10, 20), (11, 21)] };
        Plan { partitions: 6, replication_factor: 2, data_dir: data_dir.to_owned(), ports }
    }

    #[test]
    fn the_written_files_are_what_the_processes_read() {
        let expected = "# Broker 1 of a cluster started by `evenkeel dev`.\n[cluster]\nid = \"dev-1\"\nnode_id = 1\n\
            brokers = [\"0=127.0.0.1:10\", \"1=127.0.0.1:11\"]\npartitions = 6\nreplication_factor = 2\n\n\
            [network]\nhost = \"127.0.0.1\"\nport = 11\nmonitoring_port = 21\n\n\
            [data]\ndirectory = \"/data/broker-1\"\n";
        assert_eq!(broker_config(&plan(Path::new("/data")), "dev-1", 1), expected);
        let expected = "# Gateway of a cluster started by `evenkeel dev`.\n[cluster]\n\
            brokers = [\"0=127.0.0.1:10\", \"1=127.0.0.1:11\"]\n\n\
            [network]\nhost = \"127.0.0.1\"\nport = 1\napi_port = 2\nmonitoring_port = 3\n";
        assert_eq!(gateway_config(&plan(Path::new("/data"))), expected);
    }

    #[test]
    fn a_data_folder_keeps_its_clusters_id_and_shape() {
        let folder = tempfile::tempdir().unwrap();
        let mut plan = plan(folder.path());
        let first = cluster_id(&plan).unwrap();
        assert_ne!(cluster_id(&plan).unwrap(), first, "an empty folder has none yet");
        std::fs::write(folder.path().join("broker-0.toml"), broker_config(&plan, &first, 0)).unwrap();
        assert_eq!(cluster_id(&plan).unwrap(), first);
        plan.partitions = 7;
        let error = cluster_id(&plan).unwrap_err().to_string();
        assert!(
            error.starts_with("--partitions 7: the cluster in ") && error.contains(" has 6; give"),
            "{error}"
        );
    }
}
