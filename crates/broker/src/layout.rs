//! The layout that a data folder was founded with: which brokers there are and which of them hold which replica.
//!
//! Nothing moves replicas once there is data. A broker that came back with another layout would found partitions
//! anew that have their records elsewhere, or count votes of brokers that hold nothing. So the folder keeps its
//! layout in `layout.json`, and a configuration that differs is refused before anything is touched. Priorities are
//! no part of it: they only order who stands first, and may change.
//!
//! Each partition's own log says the same of its replica set; that is compared as well, and a folder without the
//! file gets it only once all of them agree.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use evenkeel_protocol::{NodeId, PartitionId};
use evenkeel_raft_storage::DataDirectory;
use serde::{Deserialize, Serialize};

use crate::options::{Options, Scheme, Validated};

const LAYOUT_FILE: &str = "layout.json";

/// Why a broker cannot run with the layout that it was given.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    #[error(
        "cluster.brokers = {given}: data folder {path} was founded with brokers {founded}; name exactly these, since \
         replicas do not move once there is data (addresses may change)"
    )]
    Brokers { path: PathBuf, given: String, founded: String },
    #[error(
        "cluster.replication_factor = {given}: data folder {path} was founded with {founded}; set \
         cluster.replication_factor = {founded}, since replicas do not move once there is data"
    )]
    ReplicationFactor { path: PathBuf, given: u32, founded: u32 },
    #[error(transparent)]
    ReplicaSet(#[from] Box<OtherReplicaSet>),
    #[error("data.directory = {path}: {LAYOUT_FILE} cannot be read ({source}); restore it from a copy")]
    Damaged { path: PathBuf, source: serde_json::Error },
    #[error("data.directory = {path}: {LAYOUT_FILE}: {source}; check that this user can read and write it")]
    Io { path: PathBuf, source: io::Error },
}

/// A partition whose replicas would be elsewhere.
#[derive(Debug, thiserror::Error)]
#[error(
    "{key}: puts {partition} on brokers {given}, but data folder {path} was founded with brokers {founded} for it; \
     {remedy}, since replicas do not move once there is data (priorities may change)"
)]
pub struct OtherReplicaSet {
    key: &'static str,
    partition: String,
    given: String,
    founded: String,
    path: PathBuf,
    remedy: &'static str,
}

/// Which brokers there are, and which of them hold which replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Node ids, ascending.
    brokers: Vec<NodeId>,
    replication_factor: u32,
    /// Node ids of each partition's replicas, ascending, from partition 1 on; as text, so that each takes one line.
    replica_sets: Vec<String>,
}

/// A layout as configured, with what a refusal has to name.
#[derive(Clone, Debug)]
pub struct ConfiguredLayout {
    layout: Layout,
    scheme: Scheme,
}

impl ConfiguredLayout {
    pub fn new(options: &Options, validated: &Validated) -> Self {
        let distribution = &validated.distribution;
        let set = |partition| nodes(distribution.replicas(partition).iter().map(|replica| replica.node));
        let layout = Layout {
            brokers: validated.brokers.keys().copied().collect(),
            replication_factor: options.cluster.replication_factor,
            replica_sets: distribution.partitions().map(set).collect(),
        };
        Self { layout, scheme: options.partitioning.scheme }
    }

    /// Refuses another layout than the folder's. Whether the folder has one.
    ///
    /// # Errors
    /// When they differ, and when the folder's cannot be read.
    pub fn check(&self, data: &DataDirectory) -> Result<bool, LayoutError> {
        let path = || data.path().to_path_buf();
        let founded: Layout = match std::fs::read(data.path().join(LAYOUT_FILE)) {
            Ok(json) => serde_json::from_slice(&json)
                .map_err(|source| LayoutError::Damaged { path: path(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(LayoutError::Io { path: path(), source }),
        };
        self.compare(&founded, &path)?;
        Ok(true)
    }

    /// Remembers this layout, durably, in the folder.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn remember(&self, data: &DataDirectory) -> Result<(), LayoutError> {
        let io = |source| LayoutError::Io { path: data.path().to_path_buf(), source };
        data.write_file(LAYOUT_FILE, &self.layout).map_err(io)
    }

    /// Refuses a replica set that is not the one which the partition's own log names.
    ///
    /// # Errors
    /// When they differ.
    pub fn check_voters(
        &self,
        data: &DataDirectory,
        partition: PartitionId,
        given: impl Iterator<Item = NodeId>,
        founded: impl Iterator<Item = NodeId>,
    ) -> Result<(), LayoutError> {
        let (given, founded) = (nodes(given), nodes(founded));
        if given == founded {
            return Ok(());
        }
        Err(self.other_set(partition, given, founded, data.path().to_path_buf()))
    }

    fn compare(&self, founded: &Layout, path: &dyn Fn() -> PathBuf) -> Result<(), LayoutError> {
        let given = &self.layout;
        if given.brokers != founded.brokers {
            let [given, founded] = [given, founded].map(|layout| nodes(layout.brokers.iter().copied()));
            return Err(LayoutError::Brokers { path: path(), given, founded });
        }
        if given.replication_factor != founded.replication_factor {
            return Err(LayoutError::ReplicationFactor {
                path: path(),
                given: given.replication_factor,
                founded: founded.replication_factor,
            });
        }
        let sets = given.replica_sets.iter().zip(&founded.replica_sets);
        match (1..).map(PartitionId).zip(sets).find(|(_, (given, founded))| given != founded) {
            Some((partition, (given, founded))) => {
                Err(self.other_set(partition, given.clone(), founded.clone(), path()))
            }
            None => Ok(()),
        }
    }

    fn other_set(
        &self,
        partition: PartitionId,
        given: String,
        founded: String,
        path: PathBuf,
    ) -> LayoutError {
        let (key, remedy) = match self.scheme {
            Scheme::Fixed => ("partitioning.fixed", "list those in [[partitioning.fixed]]"),
            Scheme::RoundRobin => (
                "partitioning.scheme = \"round-robin\"",
                "set it to \"fixed\" and list those in [[partitioning.fixed]]",
            ),
        };
        let partition = match partition {
            evenkeel_protocol::SYSTEM_GROUP => "the system group".to_owned(),
            partition => format!("partition {partition}"),
        };
        Box::new(OtherReplicaSet { key, partition, given, founded, path, remedy }).into()
    }
}

/// `0, 1, 2`.
fn nodes(nodes: impl Iterator<Item = NodeId>) -> String {
    let mut nodes: Vec<NodeId> = nodes.collect();
    nodes.sort_unstable();
    let mut text = String::new();
    for (i, node) in nodes.iter().enumerate() {
        let _ = write!(text, "{}{node}", if i == 0 { "" } else { ", " });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{FixedPartitionOptions, PartitioningOptions};

    fn options(brokers: u64, replication_factor: u32) -> Options {
        let mut options = Options::default();
        options.cluster.brokers = (0..brokers).map(|node| format!("{node}=b{node}:1")).collect();
        options.cluster.partitions = 2;
        options.cluster.replication_factor = replication_factor;
        options
    }

    fn fixed(sets: [&[&str]; 2]) -> Options {
        let mut options = options(3, 2);
        let entry = |(nodes, partition_id): (&&[&str], u32)| FixedPartitionOptions {
            partition_id,
            nodes: nodes.iter().map(ToString::to_string).collect(),
        };
        options.partitioning =
            PartitioningOptions { scheme: Scheme::Fixed, fixed: sets.iter().zip(1..).map(entry).collect() };
        options
    }

    fn layout(options: &Options) -> ConfiguredLayout {
        ConfiguredLayout::new(options, &options.validate().unwrap())
    }

    #[test]
    fn another_layout_is_refused_by_key_value_and_remedy_and_priorities_may_change() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path(), "c", 0, 2).unwrap();
        let founded = layout(&options(3, 2));
        assert!(!founded.check(&data).unwrap(), "nothing is known yet");
        founded.remember(&data).unwrap();
        assert!(founded.check(&data).unwrap());
        // Round-robin gives 0, 1 and 1, 2.
        assert!(layout(&fixed([&["0=1", "1=2"], &["2=9", "1=3"]])).check(&data).unwrap(), "only priorities");
        let mut elsewhere = options(3, 2);
        elsewhere.cluster.brokers[2] = "2=moved:7".into();
        assert!(layout(&elsewhere).check(&data).unwrap(), "only an address");

        let path = folder.path().display().to_string();
        let table = [
            (
                options(4, 2),
                "cluster.brokers = 0, 1, 2, 3: data folder ",
                "founded with brokers 0, 1, 2; name",
            ),
            (
                options(3, 3),
                "cluster.replication_factor = 3: data folder ",
                "founded with 2; set cluster.replication_factor = 2",
            ),
            (
                fixed([&["0=2", "1=1"], &["0=2", "2=1"]]),
                "partitioning.fixed: puts partition 2 on brokers 0, 2, but data folder ",
                "founded with brokers 1, 2 for it; list those",
            ),
        ];
        for (options, begins, says) in table {
            let text = layout(&options).check(&data).unwrap_err().to_string();
            assert!(text.starts_with(begins) && text.contains(says) && text.contains(&path), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
        founded.check(&data).unwrap();
    }

    #[test]
    fn a_round_robin_that_puts_replicas_elsewhere_than_the_folder_names_the_scheme() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path(), "c", 0, 2).unwrap();
        layout(&fixed([&["0=2", "1=1"], &["0=2", "2=1"]])).remember(&data).unwrap();
        let text = layout(&options(3, 2)).check(&data).unwrap_err().to_string();
        assert!(
            text.starts_with("partitioning.scheme = \"round-robin\": puts partition 2 on brokers 1, 2"),
            "{text}"
        );
        assert!(text.contains("set it to \"fixed\""), "{text}");
    }

    #[test]
    fn a_log_that_names_other_voters_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path(), "c", 0, 2).unwrap();
        let layout = layout(&options(3, 2));
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>().into_iter();
        let check = |given: &[u64], founded: &[u64]| {
            layout.check_voters(&data, PartitionId(2), ids(given), ids(founded))
        };
        assert!(check(&[2, 1], &[1, 2]).is_ok(), "their order is that of priorities");
        let text = check(&[1, 2], &[0, 2]).unwrap_err().to_string();
        assert!(text.contains("partition 2 on brokers 1, 2, but data folder"), "{text}");
    }

    #[test]
    fn a_damaged_layout_is_refused_and_not_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDirectory::open(folder.path(), "c", 0, 2).unwrap();
        std::fs::write(folder.path().join(LAYOUT_FILE), "{").unwrap();
        let error = layout(&options(3, 2)).check(&data).unwrap_err();
        assert!(matches!(error, LayoutError::Damaged { .. }), "{error}");
    }
}
