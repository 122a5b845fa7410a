//! `evenkeel broker rebuild`: makes replicas of a stopped broker forget, so that it fetches them from its peers.

use std::path::PathBuf;

use clap::Args;
use evenkeel_broker::{Affected, Options};
use evenkeel_settings::{SettingsArgs, environment};

use crate::output::outcome::{EXIT_USAGE, Failure, note};

/// Which replicas, of which broker.
#[derive(Args, Debug)]
pub struct RebuildArgs {
    /// TOML file with the broker's settings
    #[arg(long, value_name = "FILE", env = "EVENKEEL_CONFIG")]
    config: Option<PathBuf>,
    /// A partition whose replica is to be fetched from its peers, 0 for the system group; may be repeated. With neither
    /// this nor --all: those that are damaged
    #[arg(long, value_name = "N")]
    partition: Vec<u32>,
    /// Every replica of this broker
    #[arg(long, conflicts_with = "partition")]
    all: bool,
    #[command(flatten)]
    settings: SettingsArgs<Options>,
}

pub async fn run(args: RebuildArgs) -> Result<(), Failure> {
    let options: Options = args
        .settings
        .load(args.config.as_deref(), environment())
        .map_err(|error| Failure::usage(error.to_string()))?;
    let named = if args.all { Affected::All } else { Affected::Groups(args.partition.into_iter().collect()) };
    let forgotten = evenkeel_broker::rebuild(options, named).await.map_err(|error| {
        Failure::new(if error.is_configuration() { EXIT_USAGE } else { 1 }, error.to_string())
    })?;
    let groups: Vec<String> = forgotten.groups.iter().map(ToString::to_string).collect();
    let (done, then) = match groups.is_empty() {
        true => ("no replica lost anything; the log was written anew".to_owned(), "start the broker"),
        false => (
            format!("forgot the replicas of partitions {}; 0 is the system group", groups.join(", ")),
            "start the broker: it fetches them from its peers and has no vote in them until then",
        ),
    };
    note(done);
    for folder in forgotten.kept {
        note(format_args!("what was there before is in {}; delete it when all is well", folder.display()));
    }
    note(then);
    Ok(())
}
