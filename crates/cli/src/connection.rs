//! Where the cluster is: the options that every command understands, before or after its name.

use clap::Args;
use evenkeel_client::{Client, Options};

use crate::outcome::Failure;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where the cluster is")]
pub struct Connection {
    /// Gateway's gRPC address, host:port; several, comma-separated, take turns and stand in for each other
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_GATEWAY",
        default_value = "127.0.0.1:26500",
        value_delimiter = ',',
        value_name = "HOST:PORT"
    )]
    pub gateway: Vec<String>,
    /// Gateway's HTTP API
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_API",
        default_value = "http://127.0.0.1:8080",
        value_name = "URL"
    )]
    pub api: String,
    /// Gateway's monitoring port
    #[arg(
        long,
        global = true,
        env = "EVENKEEL_MONITORING",
        default_value = "http://127.0.0.1:9600",
        value_name = "URL"
    )]
    pub monitoring: String,
}

impl Connection {
    /// A client, once a gateway answers.
    pub async fn client(&self) -> Result<Client, Failure> {
        Ok(Client::connect(self.gateway.clone()).await?)
    }

    /// A client for many concurrent calls: one HTTP/2 connection carries about 32 of them well.
    pub async fn client_for(&self, concurrency: usize) -> Result<Client, Failure> {
        let mut options = Options::new(self.gateway.clone());
        options.connections_per_gateway = concurrency.div_ceil(CALLS_PER_CONNECTION);
        Ok(Client::connect_with(options).await?)
    }
}

const CALLS_PER_CONNECTION: usize = 32;
