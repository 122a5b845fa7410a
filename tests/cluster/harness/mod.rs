//! What every story needs: clusters of real processes, and ways to look at them and to hurt them.

mod cluster;
mod config;
mod held_run;
mod http;
mod load;
mod metrics;
mod ports;
mod process;
pub mod raw_http2;
mod rebalance_api;
mod secured;
mod small_disk;
mod waiting;

pub use cluster::{Cluster, all_led, leaders, leads_per_broker, terms};
pub use config::{ClusterPorts, PATIENT_LEASE, PATIENT_STAGGER, Spec, fixed_partitions, set};
pub use held_run::{HELD, HeldRun, pending, transferring};
pub use http::{Answer, http, send};
pub use load::Load;
pub use metrics::{PARTITIONS, Scrape};
pub use ports::reserve_ports;
pub use process::{Process, evenkeel, evenkeel_with};
pub use rebalance_api::{RebalanceApi, partition_of, partitions_where, run_of};
pub use secured::{ADMIN, READER, Secured, WRITER};
pub use small_disk::SmallDisk;
pub use waiting::{PATIENCE, wait_until};
