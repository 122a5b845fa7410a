//! `evenkeel dashboards|alerts|systemd print`: what an operator installs, as it belongs to this version of the program.

use clap::{Args, Subcommand, ValueEnum};

use crate::output::outcome::{Failure, write_out};

const DASHBOARD: &str = include_str!("../../../../dashboards/evenkeel.json");
const ALERTS: &str = include_str!("../../../../dashboards/rules/alerts.yml");
const RECORDING: &str = include_str!("../../../../dashboards/rules/recording.yml");
const BROKER_UNIT: &str = include_str!("../../../../deploy/evenkeel-broker.service");
const GATEWAY_UNIT: &str = include_str!("../../../../deploy/evenkeel-gateway.service");

#[derive(Args, Debug)]
pub struct DashboardsArgs {
    #[command(subcommand)]
    what: Dashboards,
}

#[derive(Debug, Subcommand)]
enum Dashboards {
    /// Print Grafana's dashboard (JSON)
    Print,
}

#[derive(Args, Debug)]
pub struct AlertsArgs {
    #[command(subcommand)]
    what: Alerts,
}

#[derive(Debug, Subcommand)]
enum Alerts {
    /// Print Prometheus' rules (YAML)
    Print {
        /// Which
        #[arg(value_enum, default_value_t)]
        rules: Rules,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Rules {
    /// Alerts
    #[default]
    Alerts,
    /// Recording rules, which the alerts ask
    Recording,
}

#[derive(Args, Debug)]
pub struct SystemdArgs {
    #[command(subcommand)]
    what: Systemd,
}

#[derive(Debug, Subcommand)]
enum Systemd {
    /// Print the unit file of a server
    Print {
        /// Which
        #[arg(value_enum)]
        unit: Unit,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Unit {
    /// evenkeel-broker.service
    Broker,
    /// evenkeel-gateway.service
    Gateway,
}

pub fn dashboards(args: &DashboardsArgs) -> Result<(), Failure> {
    match args.what {
        Dashboards::Print => write_out(DASHBOARD.as_bytes()),
    }
}

pub fn alerts(args: &AlertsArgs) -> Result<(), Failure> {
    let Alerts::Print { rules } = args.what;
    write_out(match rules {
        Rules::Alerts => ALERTS.as_bytes(),
        Rules::Recording => RECORDING.as_bytes(),
    })
}

pub fn systemd(args: &SystemdArgs) -> Result<(), Failure> {
    let Systemd::Print { unit } = args.what;
    write_out(match unit {
        Unit::Broker => BROKER_UNIT.as_bytes(),
        Unit::Gateway => GATEWAY_UNIT.as_bytes(),
    })
}
