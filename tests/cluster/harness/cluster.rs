//! A cluster of real processes in a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use evenkeel_client::{Client, Options};
use evenkeel_protocol::internal::v1::StepDownRequest;
use evenkeel_protocol::internal::v1::broker_client::BrokerClient;
use evenkeel_protocol::v1::TopologyResponse;
use evenkeel_protocol::v1::records_client::RecordsClient;
use http::Method;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::transport::{Channel, Endpoint};

use super::config::{ClusterPorts, Spec};
use super::http::{Answer, http};
use super::metrics::{PARTITIONS, Scrape};
use super::ports::reserve_ports;
use super::process::Process;
use super::rebalance_api::RebalanceApi;
use super::secured::ADMIN;
use super::small_disk::SmallDisk;
use super::waiting::wait_until;

/// More clusters at once would only wait for each other on a machine with two cores.
const CLUSTERS_MAX: usize = 2;
static SLOTS: Semaphore = Semaphore::const_new(CLUSTERS_MAX);
/// Another program may take a port between finding it free and listening on it.
const START_ATTEMPTS_MAX: u32 = 3;

/// Running brokers and gateways. Dropping it kills them, and prints their logs when the test failed.
pub struct Cluster {
    pub spec: Spec,
    pub ports: ClusterPorts,
    pub brokers: Vec<Process>,
    pub gateways: Vec<Process>,
    /// By broker, where the spec asks for them. After the processes: these must be gone first.
    pub disks: Vec<SmallDisk>,
    folder: TempDir,
    _slot: SemaphorePermit<'static>,
}

impl Cluster {
    /// Starts every process and waits until every partition has a leader that the gateways know.
    pub async fn start(spec: Spec) -> Self {
        let slot = SLOTS.acquire().await.unwrap();
        let mut attempt = 1;
        let (folder, disks, ports, brokers, gateways) = loop {
            let (folder, disks, ports, mut brokers, mut gateways) = launch(&spec);
            if attempt == START_ATTEMPTS_MAX || !lost_a_port(&spec, &ports, &mut brokers, &mut gateways).await
            {
                break (folder, disks, ports, brokers, gateways);
            }
            attempt += 1;
        };
        let cluster = Self { spec, ports, brokers, gateways, disks, folder, _slot: slot };
        for gateway in 0..cluster.gateways.len() {
            cluster.wait_for_gateway(gateway, "all brokers and all leaders", all_led).await;
        }
        cluster
    }

    /// Starts it and sees to it that every primary leads: on a busy machine another replica may have stood first.
    pub async fn start_balanced(spec: Spec) -> Self {
        let cluster = Self::start(spec).await;
        for partition in &cluster.topology().await.partitions {
            cluster.give(partition.partition_id, partition.primary.unwrap()).await;
        }
        cluster.wait_until_balanced().await;
        cluster
    }

    pub fn data_directory(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("broker-{node}"))
    }

    pub fn config_file(&self, node: usize) -> PathBuf {
        self.folder.path().join(format!("broker-{node}.toml"))
    }

    // ---- ways in

    /// A client of every gateway.
    pub fn client(&self) -> Client {
        let gateways = self.ports.gateways.iter().map(|[grpc, ..]| format!("127.0.0.1:{grpc}"));
        self.client_with(Options::new(gateways))
    }

    /// A client of one gateway, with its retries.
    pub fn client_of(&self, gateway: usize) -> Client {
        self.client_with(Options::new([format!("127.0.0.1:{}", self.ports.gateways[gateway][0])]))
    }

    fn client_with(&self, mut options: Options) -> Client {
        if let Some(secured) = &self.spec.secured {
            options.tls = Some(secured.tls(None));
            options.token = Some(secured.token(ADMIN));
        }
        Client::new(options).unwrap()
    }

    fn scheme(&self) -> &'static str {
        if self.spec.secured.is_some() { "https" } else { "http" }
    }

    pub fn channel(&self, gateway: usize) -> Channel {
        Endpoint::from_shared(format!("http://127.0.0.1:{}", self.ports.gateways[gateway][0]))
            .unwrap()
            .connect_lazy()
    }

    /// The bare service: every answer is the gateway's own.
    pub fn records(&self) -> RecordsClient<Channel> {
        RecordsClient::new(self.channel(0))
    }

    /// A broker's own service, past the gateway.
    pub fn broker_service(&self, node: usize) -> BrokerClient<Channel> {
        let url = format!("http://127.0.0.1:{}", self.ports.brokers[node].0);
        BrokerClient::new(Endpoint::from_shared(url).unwrap().connect_lazy())
    }

    pub fn api(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme(), self.ports.gateways[0][1])
    }

    pub fn monitoring(&self, path: &str) -> String {
        format!("{}://127.0.0.1:{}{path}", self.scheme(), self.ports.gateways[0][2])
    }

    /// The rebalance API of one gateway.
    pub fn rebalance_api(&self, gateway: usize) -> RebalanceApi {
        RebalanceApi { base: format!("http://127.0.0.1:{}", self.ports.gateways[gateway][1]) }
    }

    pub async fn rebalance(&self) -> Answer {
        http(Method::POST, &self.monitoring("/actuator/rebalance")).await.unwrap()
    }

    // ---- looking

    pub async fn scrape_broker(&self, node: usize) -> Result<Scrape, String> {
        scrape(&self.spec, self.ports.brokers[node].1).await
    }

    pub async fn scrape_gateway(&self, gateway: usize) -> Result<Scrape, String> {
        scrape(&self.spec, self.ports.gateways[gateway][2]).await
    }

    pub async fn topology(&self) -> TopologyResponse {
        self.client_of(0).topology().await.unwrap()
    }

    /// Waits until the first gateway sees this.
    pub async fn wait_for(&self, what: &str, holds: impl Fn(&TopologyResponse) -> bool) -> TopologyResponse {
        self.wait_for_gateway(0, what, holds).await
    }

    /// Waits until this gateway sees this.
    pub async fn wait_for_gateway(
        &self,
        gateway: usize,
        what: &str,
        holds: impl Fn(&TopologyResponse) -> bool,
    ) -> TopologyResponse {
        let client = self.client_of(gateway);
        wait_until(what, async || {
            let topology = client.topology().await.map_err(|error| error.to_string())?;
            if holds(&topology) { Ok(topology) } else { Err(in_words(&topology)) }
        })
        .await
    }

    /// Waits until every primary leads, and every follower has heard it: a replica that never heard a leader waits
    /// longer for one than others do.
    pub async fn wait_until_balanced(&self) -> TopologyResponse {
        let topology = self.wait_for("every leader on its primary", |topology| {
            all_led(topology) && topology.partitions.iter().all(|p| p.leader == p.primary)
        });
        let topology = topology.await;
        for broker in &topology.brokers {
            let node = usize::try_from(broker.node_id).unwrap();
            wait_until(&format!("broker {node} to hear all of its leaders"), async || {
                let committed =
                    self.scrape_broker(node).await?.values("atomix_partition_raft_commit_index", &PARTITIONS);
                let heard = committed.iter().filter(|index| **index >= 1.0).count();
                if heard == broker.replicas.len() { Ok(()) } else { Err(format!("{committed:?}")) }
            })
            .await;
        }
        topology
    }

    /// Waits until all partitions are led, none of them by this broker, which is known to be away.
    pub async fn wait_until_abandoned(&self, node: u64) -> TopologyResponse {
        self.wait_for(&format!("leaders elsewhere than on broker {node}"), |topology| {
            let led_elsewhere = |leader: Option<u64>| leader.is_some_and(|leader| leader != node);
            let away = topology.brokers.iter().any(|b| b.node_id == node && !b.reachable);
            away && topology.partitions_count > 0
                && topology.partitions.iter().all(|p| led_elsewhere(p.leader))
        })
        .await
    }

    /// Largest `atomix_non_replicated_entries` that any reachable broker reports for this follower.
    pub async fn lag_of(&self, follower: usize) -> Result<f64, String> {
        let mut lag: f64 = 0.0;
        for node in (0..self.brokers.len()).filter(|node| *node != follower) {
            let scrape = self.scrape_broker(node).await?;
            let labels = [("follower", &*follower.to_string())];
            lag = scrape.values("atomix_non_replicated_entries", &labels).into_iter().fold(lag, f64::max);
        }
        Ok(lag)
    }

    pub async fn wait_until_caught_up(&self, follower: usize) {
        let node = follower as u64;
        self.wait_for(&format!("broker {follower} to be back"), |topology| {
            topology.brokers.iter().any(|b| b.node_id == node && b.reachable)
        })
        .await;
        wait_until(&format!("broker {follower} to have every entry"), async || {
            match self.lag_of(follower).await? {
                0.0 => Ok(()),
                lag => Err(format!("it lacks {lag}")),
            }
        })
        .await;
    }

    // ---- hurting

    pub fn kill(&mut self, node: usize) {
        self.brokers[node].kill();
    }

    pub fn restart(&mut self, node: usize) {
        self.brokers[node].restart();
    }

    /// Kills a broker and brings it back: everything it led is led elsewhere then.
    pub async fn lose_and_return(&mut self, node: usize) {
        self.kill(node);
        self.wait_until_abandoned(node as u64).await;
        self.restart(node);
        self.wait_until_caught_up(node).await;
    }

    /// Has a partition's leader hand over to this broker, which may be no primary, and waits until all gateways see it.
    pub async fn give(&self, partition: u32, to: u64) {
        wait_until(&format!("broker {to} to lead partition {partition}"), async || {
            let led = leaders(&self.topology().await).get(&partition).copied();
            let leader = led.ok_or("it has no leader")?;
            if leader == to {
                return Ok(());
            }
            let ask = StepDownRequest { partition_id: partition, candidates: vec![to], ..Default::default() };
            let mut service = self.broker_service(usize::try_from(leader).unwrap());
            let answer = service.step_down(ask).await.map_err(|status| status.to_string())?;
            Err(answer.into_inner().detail)
        })
        .await;
        for gateway in 0..self.gateways.len() {
            self.wait_for_gateway(
                gateway,
                &format!("broker {to} leading partition {partition}"),
                |topology| leaders(topology).get(&partition) == Some(&to),
            )
            .await;
        }
    }

    /// Stops a broker where it stands; it does nothing any more when this returns.
    pub fn pause(&mut self, node: usize) {
        self.brokers[node].signal(Signal::STOP);
        self.brokers[node].wait_until_stopped();
    }

    pub fn resume(&mut self, node: usize) {
        self.brokers[node].signal(Signal::CONT);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.brokers.iter().chain(&self.gateways) {
                process.print_log();
            }
        }
    }
}

/// Leader by partition.
pub fn leaders(topology: &TopologyResponse) -> BTreeMap<u32, u64> {
    topology.partitions.iter().filter_map(|p| Some((p.partition_id, p.leader?))).collect()
}

/// Who leads each partition and in which term: the same again only if no leadership changed in between.
pub fn terms(topology: &TopologyResponse) -> BTreeMap<u32, (Option<u64>, u64)> {
    topology.partitions.iter().map(|p| (p.partition_id, (p.leader, p.term))).collect()
}

/// How many partitions each broker leads, by node id.
pub fn leads_per_broker(topology: &TopologyResponse) -> Vec<usize> {
    let led = |node| topology.partitions.iter().filter(|p| p.leader == Some(node)).count();
    topology.brokers.iter().map(|broker| led(broker.node_id)).collect()
}

/// Whether all brokers are there and all partitions led.
pub fn all_led(topology: &TopologyResponse) -> bool {
    topology.partitions_count > 0
        && topology.partitions.len() == topology.partitions_count as usize
        && topology.brokers.len() == topology.cluster_size as usize
        && topology.brokers.iter().all(|broker| broker.reachable)
        && topology.partitions.iter().all(|partition| partition.leader.is_some())
}

fn in_words(topology: &TopologyResponse) -> String {
    let brokers = topology.brokers.iter().map(|b| (b.node_id, b.reachable)).collect::<Vec<_>>();
    let partitions = topology.partitions.iter().map(|p| (p.partition_id, p.leader, p.primary, p.term));
    format!(
        "{} of {} partitions; brokers and whether reachable {brokers:?}; (partition, leader, primary, term) {:?}",
        topology.partitions.len(),
        topology.partitions_count,
        partitions.collect::<Vec<_>>()
    )
}

fn launch(spec: &Spec) -> (TempDir, Vec<SmallDisk>, ClusterPorts, Vec<Process>, Vec<Process>) {
    let folder = tempfile::Builder::new().prefix("evenkeel-story-").tempdir().unwrap();
    let disks = match spec.disk_bytes {
        Some(bytes) => {
            let folders = (0..spec.brokers).map(|node| folder.path().join(format!("broker-{node}")));
            folders.map(|folder| SmallDisk::make(folder, bytes)).collect()
        }
        None => Vec::new(),
    };
    let ports = ClusterPorts {
        brokers: (0..spec.brokers).map(|_| reserve_ports().into()).collect(),
        gateways: (0..spec.gateways).map(|_| reserve_ports()).collect(),
    };
    let start = |command: &str, name: String, config: toml::Table| {
        let file = folder.path().join(format!("{name}.toml"));
        std::fs::write(&file, config.to_string()).unwrap();
        let args = [command.as_ref(), "--config".as_ref(), file.as_os_str(), "--stop-with-stdin".as_ref()];
        let log = folder.path().join(format!("{name}.log"));
        Process::start(name, args, &log)
    };
    let brokers = (0..spec.brokers).map(|node| {
        let data = folder.path().join(format!("broker-{node}"));
        start("broker", format!("broker-{node}"), spec.broker_config(node, &ports, &data))
    });
    let brokers = brokers.collect();
    let gateways = (0..spec.gateways)
        .map(|index| start("gateway", format!("gateway-{index}"), spec.gateway_config(index, &ports)))
        .collect();
    (folder, disks, ports, brokers, gateways)
}

/// Waits until every process listens; whether one of them lost its port to another program.
async fn lost_a_port(
    spec: &Spec,
    ports: &ClusterPorts,
    brokers: &mut [Process],
    gateways: &mut [Process],
) -> bool {
    let monitoring =
        ports.brokers.iter().map(|(_, port)| port).chain(ports.gateways.iter().map(|[.., port]| port));
    for (process, port) in brokers.iter_mut().chain(gateways).zip(monitoring) {
        let what = format!("{} to listen", process.name);
        let lost = wait_until(&what, async || {
            if !process.is_running() {
                return Ok(process.log().contains("_port ="));
            }
            let answer = look(spec, *port, "/actuator/health/startup").await?;
            match answer.status.is_success() {
                true => Ok(false),
                false => Err(answer.text()),
            }
        })
        .await;
        if lost {
            return true;
        }
    }
    false
}

async fn look(spec: &Spec, port: u16, path: &str) -> Result<Answer, String> {
    match &spec.secured {
        None => http(Method::GET, &format!("http://127.0.0.1:{port}{path}")).await,
        Some(secured) => {
            secured.http_as(ADMIN, Method::GET, &format!("https://127.0.0.1:{port}{path}")).await
        }
    }
}

async fn scrape(spec: &Spec, port: u16) -> Result<Scrape, String> {
    let answer = look(spec, port, "/actuator/prometheus").await?;
    if !answer.status.is_success() {
        return Err(format!("scraping answers {}", answer.status));
    }
    Ok(Scrape::parse(&answer.text()))
}
