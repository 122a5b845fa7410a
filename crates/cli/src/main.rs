//! `evenkeel`, the one binary: brokers and gateways, a development cluster, and the operator's commands.
//!
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrong usage or
//! configuration, 3 the cluster cannot be reached or refused, 4 credentials or certificates are not accepted; `rebalance`
//! and `drain` add 6, some partitions are not led as wanted afterwards, and 7, a run was under way already; `tls inspect`
//! and `probe` add 10, what was looked at is not well.

mod ack_gap;
mod actuator;
mod audit;
mod authority;
mod bench;
mod bench_failover;
mod bench_overload;
mod bench_rebalance;
mod bench_rebalance_report;
mod child_process;
mod cluster_api;
mod connection;
mod delete;
mod demo;
mod demo_input;
mod dev;
mod drain;
#[cfg(test)]
mod fake_gateway;
mod file_limit;
mod free_ports;
mod get;
mod http;
mod import;
mod json_lines;
mod list;
mod load;
mod local_cluster;
mod metrics_text;
mod outcome;
mod ownership;
mod pacing;
mod pid_file;
mod pre_stop;
mod probe;
mod put;
mod rebalance;
mod rebalance_follow;
mod rebalance_report;
mod rebuild;
mod record_output;
mod serve;
mod server_events;
mod signals;
mod spread;
mod status;
mod tables;
mod tls;
mod token;
mod verdict;
mod watch;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::connection::Connection;
use crate::outcome::{Failure, note};

/// Keyed records in partitions that stay evenly led.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    max_term_width = 110,
    propagate_version = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster on this machine until Ctrl-C
    Dev(dev::DevArgs),
    /// Start a cluster, kill a broker under load, rebalance, and check that nothing was lost
    Demo(demo::DemoArgs),
    /// Run a broker; `broker rebuild` has damaged replicas of a stopped one fetched from their peers
    Broker(serve::BrokerArgs),
    /// Run a gateway
    Gateway(serve::ServeArgs<evenkeel_gateway::Options>),
    /// Show who leads each partition, who should, and who lags
    Status(status::StatusArgs),
    /// Bring leaders back to their primaries; exits 6 when some transfers failed, 7 when one is under way
    Rebalance(rebalance::RebalanceArgs),
    /// Move every leadership away from a broker and keep it free of them; exits as rebalance does
    Drain(drain::DrainArgs),
    /// Let a drained broker lead again
    Undrain(drain::UndrainArgs),
    /// Move a broker's leaderships away before it is stopped and started again; never fails, see deploy/README.md
    PreStop(pre_stop::PreStopArgs),
    /// Ask whether something is well, for health checks; exits 10 when it is not
    Probe(probe::ProbeArgs),
    /// Refuse every rebalance until resume
    Pause,
    /// Allow rebalances again
    Resume,
    /// Show what operators did: who, what, when, from where, and what came of it
    Audit(audit::AuditArgs),
    /// Make and look at certificates
    Tls(tls::TlsArgs),
    /// Make a bearer token
    Token(token::TokenArgs),
    /// Write a record
    Put(put::PutArgs),
    /// Read a record
    Get(get::GetArgs),
    /// Delete a record
    Delete(delete::DeleteArgs),
    /// List records in key order
    List(list::ListArgs),
    /// Print changes as they happen
    Watch(watch::WatchArgs),
    /// Write the lines of a JSON Lines file as records; run it again to go on where it was stopped
    Import(import::ImportArgs),
    /// Measure writes: how many, how fast, and the longest time without any; `bench rebalance` measures rebalances
    Bench(bench::BenchArgs),
}

/// See the workspace's Cargo.toml for why.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(1, format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(run(cli)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note(format_args!("error: {failure}"));
            ExitCode::from(failure.code)
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let connection = &cli.connection;
    match cli.command {
        Command::Dev(args) => dev::run(args).await,
        Command::Demo(args) => demo::run(args).await,
        Command::Broker(args) => serve::broker(args).await,
        Command::Gateway(args) => serve::gateway(args).await,
        Command::Put(args) => put::run(args, connection).await,
        Command::Get(args) => get::run(args, connection).await,
        Command::Delete(args) => delete::run(args, connection).await,
        Command::List(args) => list::run(args, connection).await,
        Command::Watch(args) => watch::run(args, connection).await,
        Command::Status(args) => status::run(args, connection).await,
        Command::Rebalance(args) => rebalance::run(args, connection).await,
        Command::Drain(args) => drain::drain(args, connection).await,
        Command::Undrain(args) => drain::undrain(args, connection).await,
        Command::PreStop(args) => pre_stop::run(args, connection).await,
        Command::Probe(args) => probe::run(args, connection).await,
        Command::Pause => ownership::pause(connection).await,
        Command::Resume => ownership::resume(connection).await,
        Command::Audit(args) => audit::run(args, connection).await,
        Command::Tls(args) => tls::run(args, connection).await,
        Command::Token(args) => token::run(&args),
        Command::Import(args) => import::run(args, connection).await,
        Command::Bench(args) => bench::run(args, connection).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bench_measures_writes_unless_told_otherwise() {
        for words in [
            &["evenkeel", "bench", "--seconds", "4", "--gateway", "a:1"][..],
            &["evenkeel", "bench", "rebalance", "--rounds", "3", "--gateway", "a:1"],
            &["evenkeel", "--gateway", "a:1", "bench", "rebalance"],
        ] {
            assert_eq!(Cli::try_parse_from(words).unwrap().connection.gateway, ["a:1"]);
        }
        assert!(Cli::try_parse_from(["evenkeel", "bench", "--seconds", "4", "rebalance"]).is_err());
    }

    #[test]
    fn where_the_cluster_is_can_be_said_before_or_after_the_command() {
        for words in
            [["evenkeel", "--gateway", "a:1", "get", "k"], ["evenkeel", "get", "k", "--gateway", "a:1"]]
        {
            assert_eq!(Cli::parse_from(words).connection.gateway, ["a:1"]);
        }
    }
}
