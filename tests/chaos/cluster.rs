//! Three brokers and two gateways, each on a host of its own, each broker on a small disk of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use evenkeel_client::{Client, Options};
use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::internal::v1::{BrokerListRequest, broker_list_response};
use evenkeel_protocol::v1::{Record, TopologyResponse};
use http::Method;
use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Process, Scrape, http, set, wait_until};
use crate::network::{End, Network};

pub const BROKERS: usize = 3;
pub const GATEWAYS: usize = 2;
pub const PARTITIONS: u32 = 6;

const BROKER_PORT: u16 = 26501;
const GATEWAY_PORT: u16 = 26500;
const API_PORT: u16 = 8080;
const MONITORING_PORT: u16 = 9600;
/// Small enough to be filled at once, large enough for a round.
const DISK_MIB: u64 = 512;
/// Left free of a disk that is filled: nothing.
const BALLAST: &str = "ballast";
/// Small, so that there are sealed ones.
const SEGMENT_BYTES_MAX: i64 = 1 << 20;
const SNAPSHOT_AFTER_ENTRIES: i64 = 1_500;
const LOG_ENTRIES_KEPT: i64 = 300;
/// A process may take this long to do what it has to at its end.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(2);

/// Dropping it kills the processes and removes network and disks; logs of a failed test stay.
pub struct Cluster {
    pub brokers: Vec<Process>,
    pub gateways: Vec<Process>,
    pub network: Network,
    disks: Vec<Disk>,
    folder: Option<TempDir>,
}

pub fn broker_host(broker: usize) -> usize {
    broker
}

pub fn gateway_host(gateway: usize) -> usize {
    BROKERS + gateway
}

/// A file system in memory, of fixed size; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: PathBuf) -> Result<Self, String> {
        std::fs::create_dir_all(&path).map_err(|error| error.to_string())?;
        let options = format!("size={DISK_MIB}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "evenkeel-chaos"]).arg(&path);
        let output = mount.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(Self(path)),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

impl Cluster {
    /// Starts everything. An error says why this machine cannot have such a cluster.
    pub fn start() -> Result<Self, String> {
        let folder =
            tempfile::Builder::new().prefix("evenkeel-chaos-").tempdir().map_err(|e| e.to_string())?;
        let network = Network::make(BROKERS + GATEWAYS)?;
        let mut disks = Vec::new();
        for broker in 0..BROKERS {
            disks.push(Disk::mount(folder.path().join(format!("disk-{broker}")))?);
        }
        let brokers = (0..BROKERS).map(|broker| {
            let config = broker_config(&network, broker, &disks[broker].0);
            launch(
                &network,
                broker_host(broker),
                "broker",
                &format!("broker-{broker}"),
                &config,
                folder.path(),
            )
        });
        let brokers = brokers.collect();
        let gateways = (0..GATEWAYS).map(|gateway| {
            let config = gateway_config(&network, gateway);
            let name = format!("gateway-{gateway}");
            launch(&network, gateway_host(gateway), "gateway", &name, &config, folder.path())
        });
        let gateways = gateways.collect();
        Ok(Self { brokers, gateways, network, disks, folder: Some(folder) })
    }

    // ---- ways in

    fn gateway_address(&self, gateway: usize) -> String {
        format!("{}:{GATEWAY_PORT}", self.network.address(End::Host(gateway_host(gateway))))
    }

    /// A client of both gateways, with connections of its own.
    pub fn client(&self) -> Client {
        Client::new(Options::new((0..GATEWAYS).map(|gateway| self.gateway_address(gateway)))).unwrap()
    }

    /// A client of one gateway.
    pub fn client_of(&self, gateway: usize) -> Client {
        let mut options = Options::new([self.gateway_address(gateway)]);
        options.call_timeout = ANSWER_WAIT_MAX;
        Client::new(options).unwrap()
    }

    /// The URL of a gateway's HTTP API.
    pub fn api(&self, gateway: usize) -> String {
        format!("http://{}:{API_PORT}", self.network.address(End::Host(gateway_host(gateway))))
    }

    /// A broker's own service.
    fn broker_service(&self, broker: usize) -> BrokerClient<Channel> {
        let url = format!("http://{}:{BROKER_PORT}", self.network.address(End::Host(broker_host(broker))));
        BrokerClient::new(Endpoint::from_shared(url).unwrap().connect_lazy())
    }

    // ---- looking

    /// Waits until every process runs and every gateway knows all brokers and a leader of every partition.
    pub async fn wait_until_healthy(&mut self) {
        for process in self.brokers.iter_mut().chain(&mut self.gateways) {
            assert!(process.is_running(), "{} has ended:\n{}", process.name, process.log_tail());
        }
        for gateway in 0..GATEWAYS {
            let client = self.client_of(gateway);
            wait_until(&format!("all brokers and leaders at gateway {gateway}"), async || {
                let topology = client.topology().await.map_err(|error| error.to_string())?;
                let led = topology.partitions.iter().filter(|p| p.leader.is_some()).count();
                let reachable = topology.brokers.iter().filter(|b| b.reachable).count();
                match (led, reachable) == (PARTITIONS as usize, BROKERS) {
                    true => Ok(()),
                    false => Err(format!("{led} partitions led, {reachable} brokers reachable")),
                }
            })
            .await;
        }
    }

    /// Waits until no follower lacks an entry that it had to have a moment ago, nor fetches what it has forgotten.
    pub async fn wait_until_caught_up(&self) {
        const LAG_ENTRIES_MAX: u64 = 100;
        for broker in 0..BROKERS {
            let address = self.network.address(End::Host(broker_host(broker)));
            let url = format!("http://{address}:{MONITORING_PORT}/actuator/prometheus");
            wait_until(&format!("broker {broker} to have rebuilt its replicas"), async || {
                let scrape = Scrape::parse(&http(Method::GET, &url).await?.text());
                match scrape.sum("evenkeel_replica_rebuilding", &[]) {
                    0.0 => Ok(()),
                    left => Err(format!("{left} are not")),
                }
            })
            .await;
        }
        let client = self.client();
        wait_until("every follower to catch up", async || {
            let topology = client.topology().await.map_err(|error| error.to_string())?;
            let lags: Vec<_> = topology
                .brokers
                .iter()
                .flat_map(|b| &b.replicas)
                .map(|replica| replica.lag_entries)
                .collect();
            match lags.iter().all(|lag| lag.is_some_and(|lag| lag <= LAG_ENTRIES_MAX)) {
                true if !lags.is_empty() => Ok(()),
                _ => Err(format!("lags {lags:?}")),
            }
        })
        .await;
    }

    /// Whether a broker says that replicas of its own have stopped, or says nothing.
    pub async fn has_dead_replicas(&self, broker: usize) -> bool {
        let address = self.network.address(End::Host(broker_host(broker)));
        let health = http(Method::GET, &format!("http://{address}:{MONITORING_PORT}/actuator/health")).await;
        !health.is_ok_and(|answer| answer.status.is_success())
    }

    pub async fn topology(&self) -> Result<TopologyResponse, String> {
        self.client().topology().await.map_err(|error| error.to_string())
    }

    /// What each broker has of a partition, in order of key.
    pub async fn replicas(&self, partition_id: u32) -> Result<Vec<Vec<Record>>, String> {
        let mut replicas = Vec::new();
        for broker in 0..BROKERS {
            let mut service = self.broker_service(broker).max_decoding_message_size(64 << 20);
            let mut records: Vec<Record> = Vec::new();
            loop {
                let after_key = records.last().map(|record| record.key.clone()).unwrap_or_default();
                let request = BrokerListRequest {
                    partition_id,
                    after_key,
                    limit: 1_000,
                    bytes_max: 4 << 20,
                    stale: true,
                    ..Default::default()
                };
                let page =
                    service.list(request).await.map_err(|status| status.to_string())?.into_inner().result;
                let Some(broker_list_response::Result::Page(page)) = page else {
                    return Err(format!("broker {broker}: {page:?}"));
                };
                records.extend(page.records);
                if !page.more {
                    break;
                }
            }
            replicas.push(records);
        }
        Ok(replicas)
    }

    // ---- hurting

    pub fn restart_broker(&mut self, broker: usize) {
        if !self.brokers[broker].is_running() {
            self.brokers[broker].restart();
        }
    }

    pub async fn stop(process: &mut Process) {
        process.signal(Signal::TERM);
        process.ended().await;
    }

    /// Leaves nothing free on a broker's disk.
    pub fn fill_disk(&self, broker: usize) {
        use std::io::Write as _;
        let mut ballast = std::fs::File::create(self.disks[broker].0.join(BALLAST)).unwrap();
        let mut chunk = vec![0xee; 1 << 20];
        while !chunk.is_empty() {
            if ballast.write_all(&chunk).is_err() {
                chunk.truncate(chunk.len() / 2);
            }
        }
    }

    pub fn free_disk(&self, broker: usize) {
        let _ = std::fs::remove_file(self.disks[broker].0.join(BALLAST));
    }

    pub fn config_file(&self, broker: usize) -> PathBuf {
        let folder = self.folder.as_ref().map_or(Path::new("."), TempDir::path);
        folder.join(format!("broker-{broker}.toml"))
    }

    pub fn data_directory(&self, broker: usize) -> PathBuf {
        self.disks[broker].0.join("data")
    }

    /// Keeps logs and configurations of a failed round; where.
    pub fn keep_logs(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.brokers.iter().chain(&self.gateways) {
                process.print_log();
            }
            if let Some(folder) = self.keep_logs() {
                println!("the logs are in {}", folder.display());
            }
        }
    }
}

fn launch(
    network: &Network,
    host: usize,
    command: &str,
    name: &str,
    config: &toml::Table,
    folder: &Path,
) -> Process {
    let file = folder.join(format!("{name}.toml"));
    std::fs::write(&file, config.to_string()).unwrap();
    let args = [command.as_ref(), "--config".as_ref(), file.as_os_str(), "--stop-with-stdin".as_ref()];
    Process::start_under(network.on_host(host), name, args, &folder.join(format!("{name}.log")))
}

fn contact_points(network: &Network) -> Vec<String> {
    let contact =
        |broker| format!("{broker}={}:{BROKER_PORT}", network.address(End::Host(broker_host(broker))));
    (0..BROKERS).map(contact).collect()
}

fn broker_config(network: &Network, broker: usize, disk: &Path) -> toml::Table {
    let mut config = toml::Table::new();
    set(&mut config, "cluster.id", "chaos");
    set(&mut config, "cluster.node_id", i64::try_from(broker).unwrap());
    set(&mut config, "cluster.brokers", contact_points(network));
    set(&mut config, "cluster.partitions", i64::from(PARTITIONS));
    set(&mut config, "cluster.replication_factor", i64::try_from(BROKERS).unwrap());
    set(&mut config, "network.host", network.address(End::Host(broker_host(broker))).to_string());
    // The network is the test's own.
    set(&mut config, "network.insecure", true);
    set(&mut config, "network.port", i64::from(BROKER_PORT));
    set(&mut config, "network.monitoring_port", i64::from(MONITORING_PORT));
    set(&mut config, "data.directory", disk.join("data").display().to_string());
    set(&mut config, "data.segment_bytes_max", SEGMENT_BYTES_MAX);
    set(&mut config, "raft.snapshot_after_entries", SNAPSHOT_AFTER_ENTRIES);
    set(&mut config, "raft.log_entries_kept", LOG_ENTRIES_KEPT);
    config
}

fn gateway_config(network: &Network, gateway: usize) -> toml::Table {
    let mut config = toml::Table::new();
    set(&mut config, "cluster.brokers", contact_points(network));
    set(&mut config, "network.host", network.address(End::Host(gateway_host(gateway))).to_string());
    // The network is the test's own.
    set(&mut config, "network.insecure", true);
    set(&mut config, "network.port", i64::from(GATEWAY_PORT));
    set(&mut config, "network.api_port", i64::from(API_PORT));
    set(&mut config, "network.monitoring_port", i64::from(MONITORING_PORT));
    config
}
