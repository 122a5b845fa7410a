//! The Rust client of an Evenkeel cluster.
//!
//! [`Client`] talks to one or more gateways and hides what a caller cannot act on: a gateway that went away, a
//! partition that changes its leader, a reply that got lost. Every write carries a request id and every retry
//! repeats it, so a write applies once however often it is sent (`lanes`). Waiting is bounded: each call has a
//! deadline, each retry backs off (`backoff`). What remains is a typed [`ClientError`] that says what failed and
//! what to do about it.
//!
//! ```no_run
//! # async fn example() -> Result<(), evenkeel_client::ClientError> {
//! use evenkeel_client::{Client, Condition};
//!
//! let client = Client::connect(["127.0.0.1:26500"]).await?;
//! let put = client.put("order-1", "paid", Some(Condition::MustNotExist)).await?;
//! println!("partition {}, version {}", put.partition_id, put.version);
//! # Ok(())
//! # }
//! ```

mod backoff;
mod call;
mod client;
mod credentials;
mod error;
mod gateways;
mod lanes;
mod pipeline;
mod resumption;
mod watch;
mod watch_topology;

pub use backoff::{BACKOFF_INITIAL, BACKOFF_MAX, Backoff};
pub use client::{Client, Condition, ListQuery, Options};
pub use credentials::{NotAToken, Token};
pub use error::{ClientError, Refusal};
pub use evenkeel_protocol::v1;
pub use evenkeel_security::{ClientTls, ClientTlsError};
pub use pipeline::{Pipeline, Submitted};
pub use watch::{Watch, WatchQuery};
pub use watch_topology::TopologyWatch;
