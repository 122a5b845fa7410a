//! `evenkeel probe`: one question, for whoever has only this binary to ask it with: an image without a shell.

use clap::{Args, Subcommand};

use crate::connection::Connection;
use crate::outcome::{EXIT_UNHEALTHY, Failure, print};

/// Of a broker or gateway on this machine.
const READINESS_URL: &str = "http://127.0.0.1:9600/actuator/health/readiness";

#[derive(Args, Debug)]
pub struct ProbeArgs {
    #[command(subcommand)]
    what: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Get a URL, such as that of a readiness probe, and show the answer; anything but success is not well
    Http {
        /// For https give --ca
        #[arg(value_name = "URL", env = "EVENKEEL_PROBE_URL", default_value = READINESS_URL)]
        url: String,
    },
}

pub async fn run(args: ProbeArgs, connection: &Connection) -> Result<(), Failure> {
    match args.what {
        Probe::Http { url } => {
            let answer = connection.http()?.get(&url).await?;
            if !answer.status.is_success() {
                let told = format!("{url} answers {}: {}", answer.status, answer.text());
                return Err(Failure::new(EXIT_UNHEALTHY, told));
            }
            print(answer.text())
        }
    }
}
