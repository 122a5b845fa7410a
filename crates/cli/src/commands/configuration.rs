//! `evenkeel config`: which settings a broker or gateway would start with, and whether they can work.

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use evenkeel_settings::{Settings, SettingsArgs, environment, render};
use serde_json::json;

use crate::output::format::Output;
use crate::output::outcome::Failure;

#[derive(Args, Debug)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print the settings that follow from file, variables and flags, each with its explanation, as a file to start from
    Print(OfArgs),
    /// Check the same settings, as the server would at its start; exits 2 and says what to change when they cannot work
    Validate(OfArgs),
}

#[derive(Args, Debug)]
struct OfArgs {
    #[command(subcommand)]
    of: Of,
}

#[derive(Debug, Subcommand)]
enum Of {
    /// A broker's
    Broker(Sources<evenkeel_broker::Options>),
    /// A gateway's
    Gateway(Sources<evenkeel_gateway::Options>),
}

#[derive(Args, Debug)]
struct Sources<T: Settings> {
    /// TOML file with the settings below; variables override it, flags override both
    #[arg(long, value_name = "FILE", env = "EVENKEEL_CONFIG")]
    config: Option<PathBuf>,
    /// How to print it: table and wide are the file to start from
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    settings: SettingsArgs<T>,
}

impl<T: Settings> Sources<T> {
    fn load(&self) -> Result<T, Failure> {
        let loaded = self.settings.load(self.config.as_deref(), environment());
        loaded.map_err(|error| Failure::usage(error.to_string()))
    }
}

pub fn run(args: &ConfigArgs) -> Result<(), Failure> {
    match &args.what {
        What::Print(OfArgs { of: Of::Broker(sources) }) => rendered(&sources.load()?, sources.output),
        What::Print(OfArgs { of: Of::Gateway(sources) }) => rendered(&sources.load()?, sources.output),
        What::Validate(OfArgs { of: Of::Broker(sources) }) => {
            judged("broker", sources.load()?.validate().map(drop), sources.output)
        }
        What::Validate(OfArgs { of: Of::Gateway(sources) }) => {
            judged("gateway", sources.load()?.validate(), sources.output)
        }
    }
}

fn rendered<T: Settings>(settings: &T, output: Output) -> Result<(), Failure> {
    let broken = |error: &dyn Display| Failure::new(1, error.to_string());
    let text = render(settings).map_err(|error| broken(&error))?;
    let data = serde_json::to_value(settings).map_err(|error| broken(&error))?;
    output.show(|| text.trim_end().to_owned(), || data)
}

fn judged(whose: &str, verdict: Result<(), impl Display>, output: Output) -> Result<(), Failure> {
    verdict.map_err(|error| Failure::usage(error.to_string()))?;
    output.show(
        || {
            format!(
                "these settings can work; `evenkeel {whose}` with the same file, variables and flags uses them"
            )
        },
        || json!({"valid": true}),
    )
}
