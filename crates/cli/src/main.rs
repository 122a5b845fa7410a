//! `evenkeel`, the one binary: brokers and gateways, a development cluster, and the operator's commands.
//!
//! Data goes to standard output, everything else to standard error. How commands end: `output/outcome.rs`, which the help
//! shows too.

#[cfg(test)]
mod bad_configuration;
mod bench;
mod cluster;
mod commands;
mod flag_variables;
mod output;
mod processes;

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::cluster::connection::Connection;
use crate::commands::records::{delete, get, import, list, put, watch};
use crate::commands::{
    audit, check, configuration, context, doctor, drain, health, installed, ownership, partitions, pre_stop,
    probe, rebalance, shell, status, tls, token, top,
};
use crate::flag_variables::with_variables;
use crate::output::format::PrintArgs;
use crate::output::outcome::{EXIT_CODES, Failure, note};
use crate::processes::{demo, dev, serve};

/// Keyed records in partitions that stay evenly led.
#[derive(Debug, Parser)]
#[command(
    name = "evenkeel",
    version,
    max_term_width = 110,
    propagate_version = true,
    arg_required_else_help = true,
    after_long_help = HELP_END,
    after_help = "`evenkeel --help` lists exit codes and variables too."
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
    /// Tell whether the cluster is well; exits 10 when it is not
    Health(health::HealthArgs),
    /// Show the cluster at work: brokers, lag, requests a second
    Top(top::TopArgs),
    /// List and describe partitions, and give one to another broker
    Partitions(partitions::PartitionsArgs),
    /// Bring leaders back to their primaries; exits 6 when some transfers failed, 7 when one is under way
    Rebalance(rebalance::RebalanceArgs),
    /// Move every leadership away from a broker and keep it free of them; exits as rebalance does
    Drain(drain::DrainArgs),
    /// Let a drained broker lead again
    Undrain(drain::UndrainArgs),
    /// Move a broker's leaderships away before it is stopped and started again; never fails, see deploy/README.md
    PreStop(pre_stop::PreStopArgs),
    /// Ask whether a broker may be restarted now, or whether a process is well; exits 10 when not
    Probe(probe::ProbeArgs),
    /// Refuse every rebalance until resume
    Pause(PrintArgs),
    /// Allow rebalances again
    Resume(PrintArgs),
    /// Show what operators did: who, what, when, from where, and what came of it
    Audit(audit::AuditArgs),
    /// Check the cluster once, for a monitoring system
    Check(check::CheckArgs),
    /// Find out what is wrong, and pack what a bug report needs
    Doctor(doctor::DoctorArgs),
    /// Print and check the settings of brokers and gateways
    Config(Box<configuration::ConfigArgs>),
    /// Name clusters, and choose one
    Context(context::ContextArgs),
    /// Print the dashboard of this version
    Dashboards(installed::DashboardsArgs),
    /// Print the alerts and recording rules of this version
    Alerts(installed::AlertsArgs),
    /// Print the systemd units of this version
    Systemd(installed::SystemdArgs),
    /// Print completions for a shell
    Completion(shell::CompletionArgs),
    /// Print manual pages
    Man(shell::ManArgs),
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

/// After the long help.
const HELP_END: &str = concat!(
    "Every flag has a variable: EVENKEEL_OUTPUT for --output, those named with the options above, and for all others ",
    "EVENKEEL_CLI_<COMMAND>_<FLAG>, such as EVENKEEL_CLI_REBALANCE_POLICY. Settings of brokers and gateways have ",
    "EVENKEEL_<SECTION>_<KEY>.\nNO_COLOR leaves colours out."
);

/// The whole command line.
fn command_line() -> clap::Command {
    let help_end = format!("{HELP_END}\n\n{EXIT_CODES}");
    with_variables(Cli::command().after_long_help(help_end))
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let serves = matches!(cli.command, Command::Broker(_) | Command::Gateway(_));
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(1, format!("cannot start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(run(cli, &matches)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                note(format_args!("error: {failure}"));
            }
            // Servers end with what their logs and settings say.
            if let Some(next) = failure.next_command().filter(|_| !serves) {
                note(format_args!("next: `{next}`"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Commands that ask a cluster take what they are not told from a context.
fn asks_a_cluster(command: &Command) -> bool {
    !matches!(
        command,
        Command::Dev(_)
            | Command::Demo(_)
            | Command::Broker(_)
            | Command::Gateway(_)
            | Command::Config(_)
            | Command::Context(_)
            | Command::Dashboards(_)
            | Command::Alerts(_)
            | Command::Systemd(_)
            | Command::Completion(_)
            | Command::Man(_)
            | Command::Token(_)
    )
}

async fn run(cli: Cli, matches: &ArgMatches) -> Result<(), Failure> {
    if !asks_a_cluster(&cli.command) {
        return run_command(cli.command, &cli.connection).await;
    }
    let connection = cli.connection.with_context(matches)?;
    connection.carry_out(run_command(cli.command, &connection)).await
}

async fn run_command(command: Command, connection: &Connection) -> Result<(), Failure> {
    match command {
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
        Command::Health(args) => health::run(args, connection).await,
        Command::Top(args) => top::run(args, connection).await,
        Command::Partitions(args) => partitions::run(args, connection).await,
        Command::Rebalance(args) => rebalance::run(args, connection).await,
        Command::Drain(args) => drain::drain(args, connection).await,
        Command::Undrain(args) => drain::undrain(args, connection).await,
        Command::PreStop(args) => pre_stop::run(args, connection).await,
        Command::Probe(args) => probe::run(args, connection).await,
        Command::Pause(shown) => ownership::pause(shown, connection).await,
        Command::Resume(shown) => ownership::resume(shown, connection).await,
        Command::Audit(args) => audit::run(args, connection).await,
        Command::Check(args) => check::run(args, connection).await,
        Command::Doctor(args) => doctor::run(args, connection).await,
        Command::Config(args) => configuration::run(&args),
        Command::Context(args) => context::run(&args, connection),
        Command::Dashboards(args) => installed::dashboards(&args),
        Command::Alerts(args) => installed::alerts(&args),
        Command::Systemd(args) => installed::systemd(&args),
        Command::Completion(args) => shell::completion(&args, command_line()),
        Command::Man(args) => shell::man(&args, command_line()),
        Command::Tls(args) => tls::run(args, connection).await,
        Command::Token(args) => token::run(&args),
        Command::Import(args) => import::run(args, connection).await,
        Command::Bench(args) => bench::run(args, connection).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command_line().debug_assert();
    }

    /// Every command with its path.
    fn commands(command: &clap::Command, path: &str) -> Vec<(String, clap::Command)> {
        let parts =
            command.get_subcommands().flat_map(|part| commands(part, &format!("{path} {}", part.get_name())));
        std::iter::once((path.to_owned(), command.clone())).chain(parts).collect()
    }

    #[test]
    fn every_flag_has_a_variable_of_its_own() {
        let mut named = std::collections::BTreeMap::new();
        for (path, command) in commands(&command_line(), "evenkeel") {
            for arg in command.get_arguments().filter(|arg| arg.get_long().is_some()) {
                let id = arg.get_id().as_str();
                if id.contains('.') || matches!(id, "help" | "version") {
                    continue;
                }
                let variable = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
                assert!(variable.starts_with("EVENKEEL_"), "{path} --{id}: {variable:?}");
                let shared = matches!(variable.as_str(), "EVENKEEL_OUTPUT" | "EVENKEEL_CONFIG");
                let before = named.insert(variable.clone(), format!("{path} --{id}"));
                assert!(shared || before.is_none(), "{variable}: {path} --{id} and {before:?}");
            }
        }
        assert!(named.contains_key("EVENKEEL_CLI_REBALANCE_POLICY"), "{named:?}");
    }

    #[test]
    fn every_command_that_tells_something_can_tell_it_as_data() {
        // Files, answers of others, formats of their own, processes, and what speaks to standard error alone.
        let exempt = [
            "dev",
            "demo",
            "broker",
            "gateway",
            "pre-stop",
            "check",
            "dashboards",
            "alerts",
            "systemd",
            "completion",
            "man",
            "http",
            "help",
        ];
        for (path, command) in commands(&command_line(), "evenkeel") {
            if command.has_subcommands() || path.split(' ').any(|word| exempt.contains(&word)) {
                continue;
            }
            let output = command.get_arguments().find(|arg| arg.get_long() == Some("output"));
            assert!(output.is_some(), "{path} has no --output");
        }
    }

    #[test]
    fn no_variable_of_a_flag_is_taken_for_a_setting() {
        use evenkeel_settings::Settings;
        for (key, _) in evenkeel_broker::Options::DOCS.iter().chain(evenkeel_gateway::Options::DOCS) {
            assert!(!key.starts_with("cli."), "{key}: its variable would be one of the command line's");
        }
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
