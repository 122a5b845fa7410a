//! The gateway of an Evenkeel cluster: stateless, in front of the brokers.
//!
//! It learns the topology by push ([`topology`]), sends each request to its partition's leader, parks and
//! replays writes while a partition changes leader, shows the cluster over gRPC and HTTP, and starts rebalances.
//! [`run`] is the whole process; [`Gateway`] splits it into binding and serving.

mod access;
mod audit;
mod audit_http;
mod automatic;
mod automatic_runner;
pub mod bad_input;
mod broker_link;
mod brokers_http;
mod byte_budget;
mod clock;
mod cluster;
mod cluster_json;
mod cluster_view;
mod console;
mod drain;
mod drain_keeper;
mod esc;
mod esc_http;
mod esc_runner;
mod esc_slot;
mod exporting_http;
mod gateway;
mod get_stream;
mod grpc_problem;
mod health_http;
mod http;
mod intake;
mod leaderships;
mod limits;
mod list;
mod metric_definitions;
mod openapi;
mod openapi_page;
mod options;
mod partitions_http;
pub mod planner;
mod reads;
mod rebalance;
mod rebalance_events;
mod rebalance_http;
mod rebalance_journal;
mod rebalance_record;
mod rebalance_request;
mod rebalance_runner;
mod rebalance_store;
mod rebalance_transfer;
mod records;
mod records_events;
mod records_http;
mod records_json;
mod refusals;
mod replay;
mod request_ids;
mod restart_risk;
mod streamed_writes;
mod system_gauges;
mod system_store;
pub mod tagged_stream;
mod told_status;
pub mod topology;
mod topology_events;
mod topology_feed;
mod topology_stream_http;
mod topology_views;
mod topology_watch;
mod trace_names;
mod watch;
mod watch_delivery;
mod watchers;
mod write_stream;
mod writes;

pub use gateway::{Addresses, Gateway, GatewayError, InProcess, run};
pub use metric_definitions::{RecorderError, install_recorder};
pub use options::{
    ClusterOptions, Contact, LimitOptions, Limits, NetworkOptions, Options, OptionsError, RoutingOptions,
};
