//! The clusters that stories ask for, and the configuration files of their processes.

use std::path::Path;

use toml::{Table, Value};

use super::secured::Secured;

/// `raft.stagger` for stories about who succeeds a dead leader: priorities are only a head start, which a machine with
/// more to do than cores takes away.
pub const PATIENT_STAGGER: &str = "500ms";

/// `raft.lease` for stories that count changes of leadership: on such a machine a leader may be silent for longer than
/// the usual lease.
pub const PATIENT_LEASE: &str = "2s";

/// A cluster to start.
#[derive(Clone, Debug)]
pub struct Spec {
    pub brokers: u64,
    pub partitions: u32,
    pub replication_factor: u32,
    pub gateways: usize,
    /// Each broker's data folder lies on a disk of its own of this size.
    pub disk_bytes: Option<u64>,
    broker_settings: Vec<(String, Value)>,
    gateway_settings: Vec<(String, Value)>,
    pub secured: Option<Secured>,
}

impl Spec {
    /// One gateway and as many replicas as brokers, up to three.
    pub fn new(brokers: u64, partitions: u32) -> Self {
        Self {
            brokers,
            partitions,
            replication_factor: brokers.min(3) as u32,
            gateways: 1,
            disk_bytes: None,
            broker_settings: Vec::new(),
            gateway_settings: Vec::new(),
            secured: None,
        }
    }

    pub fn gateways(mut self, gateways: usize) -> Self {
        self.gateways = gateways;
        self
    }

    /// Only where [`super::SmallDisk::can_be_made`].
    pub fn disks_of(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// Encrypted everywhere, and asking who calls.
    pub fn secured(mut self, secured: &Secured) -> Self {
        for (process, settings) in
            [("broker-0", &mut self.broker_settings), ("gateway-0", &mut self.gateway_settings)]
        {
            let files = [
                ("tls.certificate_file", format!("{process}.crt")),
                ("tls.key_file", format!("{process}.key")),
                ("tls.ca_file", "ca.crt".to_owned()),
                ("auth.tokens_file", "tokens".to_owned()),
            ];
            settings.extend(files.map(|(key, file)| (key.to_owned(), secured.path(&file).into())));
        }
        self.secured = Some(secured.clone());
        self
    }

    /// A setting of every broker, by its dotted path.
    pub fn broker(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.broker_settings.push((key.to_owned(), value.into()));
        self
    }

    /// A setting of every gateway, by its dotted path.
    pub fn gateway(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.gateway_settings.push((key.to_owned(), value.into()));
        self
    }

    /// The replicas as listed, the nodes of each partition.
    pub fn fixed(self, layout: &[&[&str]]) -> Self {
        let fixed = self
            .broker("partitioning.scheme", "fixed")
            .broker("partitioning.fixed", fixed_partitions(layout));
        Self { replication_factor: layout[0].len() as u32, ..fixed }
    }

    pub fn broker_config(&self, node: u64, ports: &ClusterPorts, data: &Path) -> Table {
        let (grpc, monitoring) = ports.brokers[usize::try_from(node).unwrap()];
        let mut config = Table::new();
        set(&mut config, "cluster.id", "story");
        set(&mut config, "cluster.node_id", i64::try_from(node).unwrap());
        set(&mut config, "cluster.brokers", ports.contact_points());
        set(&mut config, "cluster.partitions", i64::from(self.partitions));
        set(&mut config, "cluster.replication_factor", i64::from(self.replication_factor));
        set(&mut config, "network.port", i64::from(grpc));
        set(&mut config, "network.monitoring_port", i64::from(monitoring));
        set(&mut config, "data.directory", data.display().to_string());
        for (key, value) in &self.broker_settings {
            set(&mut config, key, value.clone());
        }
        config
    }

    pub fn gateway_config(&self, index: usize, ports: &ClusterPorts) -> Table {
        let [grpc, api, monitoring] = ports.gateways[index];
        let mut config = Table::new();
        set(&mut config, "cluster.brokers", ports.contact_points());
        set(&mut config, "network.port", i64::from(grpc));
        set(&mut config, "network.api_port", i64::from(api));
        set(&mut config, "network.monitoring_port", i64::from(monitoring));
        for (key, value) in &self.gateway_settings {
            set(&mut config, key, value.clone());
        }
        config
    }
}

/// `[[partitioning.fixed]]`: the nodes of each partition, from partition 1 on.
pub fn fixed_partitions(layout: &[&[&str]]) -> Value {
    let entry = |(index, nodes): (usize, &&[&str])| {
        let mut entry = Table::new();
        set(&mut entry, "partition_id", index as i64 + 1);
        set(&mut entry, "nodes", nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>());
        Value::Table(entry)
    };
    Value::Array(layout.iter().enumerate().map(entry).collect())
}

/// Where each process listens.
#[derive(Clone, Debug)]
pub struct ClusterPorts {
    /// gRPC and monitoring.
    pub brokers: Vec<(u16, u16)>,
    /// gRPC, API and monitoring.
    pub gateways: Vec<[u16; 3]>,
}

impl ClusterPorts {
    fn contact_points(&self) -> Vec<String> {
        let brokers = self.brokers.iter().enumerate();
        brokers.map(|(node, (grpc, _))| format!("{node}=127.0.0.1:{grpc}")).collect()
    }
}

/// Sets `a.b.c` in a table of tables.
pub fn set(table: &mut Table, path: &str, value: impl Into<Value>) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value.into());
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
            set(inner.as_table_mut().unwrap(), rest, value);
        }
    }
}
