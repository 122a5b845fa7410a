//! `evenkeel broker` and `evenkeel gateway`: the servers, from their settings to an orderly end.

use std::fmt::Display;
use std::future::Future;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use evenkeel_broker::BrokerError;
use evenkeel_gateway::GatewayError;
use evenkeel_settings::{Settings, SettingsArgs, environment};
use evenkeel_supervision::{Progress, Systemd};
use futures::FutureExt;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;

use crate::output::outcome::{EXIT_USAGE, Failure, note};
use crate::processes::file_limit;
use crate::processes::pid_file::PidFile;
use crate::processes::rebuild::{self, RebuildArgs};
use crate::processes::signals::stop_requested;

/// What is logged unless `EVENKEEL_LOG` says otherwise.
const LOG_DEFAULT: &str = "info,openraft=error,openraft::raft=off,h2=warn,hyper=warn";
/// Servers bound every step of their own shutdown; this is for one that does not come to its end.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

#[derive(Args, Debug)]
pub struct ServeArgs<T: Settings> {
    /// TOML file with the settings below; variables override it, flags override both
    #[arg(long, value_name = "FILE", env = "EVENKEEL_CONFIG")]
    config: Option<PathBuf>,
    /// File that holds the process id while this runs
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Stop when standard input ends: for a parent that must not leave this behind
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    settings: SettingsArgs<T>,
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BrokerArgs {
    #[command(subcommand)]
    instead: Option<Instead>,
    #[command(flatten)]
    serve: ServeArgs<evenkeel_broker::Options>,
}

/// What to do with a broker instead of running it.
#[derive(Debug, Subcommand)]
enum Instead {
    /// Make replicas of a stopped broker forget everything, damaged or not; it fetches them from its peers when it starts
    Rebuild(Box<RebuildArgs>),
}

pub async fn broker(args: BrokerArgs) -> Result<(), Failure> {
    match args.instead {
        Some(Instead::Rebuild(rebuild)) => rebuild::run(*rebuild).await,
        None => serve(args.serve, evenkeel_broker::run, BrokerError::is_configuration).await,
    }
}

pub async fn gateway(args: ServeArgs<evenkeel_gateway::Options>) -> Result<(), Failure> {
    let is_configuration =
        |error: &GatewayError| matches!(error, GatewayError::Options(_) | GatewayError::Bind { .. });
    serve(args, evenkeel_gateway::run, is_configuration).await
}

async fn serve<T: Settings, S: Future<Output = Result<(), E>>, E: Display>(
    args: ServeArgs<T>,
    run: impl FnOnce(T, Progress, Shutdown) -> S,
    is_configuration: impl Fn(&E) -> bool,
) -> Result<(), Failure> {
    let options: T = args
        .settings
        .load(args.config.as_deref(), environment())
        .map_err(|error| Failure::usage(error.to_string()))?;
    start_logging()?;
    match file_limit::raise() {
        Some(files) => tracing::debug!("may have {files} files and connections open"),
        None => tracing::debug!("may have any number of files and connections open"),
    }
    let _pid_file = args.pid_file.as_deref().map(PidFile::write).transpose()?;
    let signal = stop_requested()?;
    let parent = if args.stop_with_stdin { stdin_ended().boxed() } else { std::future::pending().boxed() };
    let (ask_to_stop, stop) = oneshot::channel();
    let shutdown: Shutdown = stop.map(|_| ()).boxed();
    let progress = Progress::new();
    let systemd = Systemd::from_environment();
    if let Some(systemd) = &systemd {
        // Until the process ends: a server that hangs while it stops is noticed, too.
        tokio::spawn(systemd.clone().report(progress.clone()));
    }
    // Large; and nothing else of this command lives on the stack beside it.
    let server = Box::pin(run(options, progress, shutdown));
    tokio::pin!(signal, server);
    let ended = tokio::select! {
        ended = &mut server => Some(ended),
        name = &mut signal => { tracing::info!("{name}: stopping"); None }
        () = parent => { tracing::info!("the parent process is gone: stopping"); None }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            if let Some(systemd) = &systemd {
                systemd.stopping();
            }
            let _ = ask_to_stop.send(());
            let again = stop_requested()?;
            tokio::select! {
                ended = tokio::time::timeout(SHUTDOWN_MAX, server) => ended.map_err(|_| {
                    Failure::new(1, format!("did not stop within {SHUTDOWN_MAX:?}: ended as it was"))
                })?,
                name = again => {
                    note(format_args!("{name} again: ended at once"));
                    return Err(Failure::new(1, "ended before everything was handed over"));
                }
            }
        }
    };
    ended.map_err(|error| {
        Failure::new(if is_configuration(&error) { EXIT_USAGE } else { 1 }, error.to_string())
    })
}

/// Resolves when the server has to stop.
pub type Shutdown = futures::future::BoxFuture<'static, ()>;

/// Resolves when standard input ends. A thread waits for it, so that it never keeps the process from ending.
fn stdin_ended() -> impl Future<Output = ()> + Send + 'static {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut sink = [0; 256];
        let mut stdin = std::io::stdin().lock();
        while stdin.read(&mut sink).is_ok_and(|count| count > 0) {}
        let _ = tell.send(());
    });
    told.map(|_| ())
}

fn start_logging() -> Result<(), Failure> {
    let filter = match std::env::var("EVENKEEL_LOG") {
        Ok(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::usage(format!(
                "environment variable EVENKEEL_LOG = {text:?}: {error}; write for example info"
            ))
        })?,
        Err(_) => EnvFilter::new(LOG_DEFAULT),
    };
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    Ok(())
}
