//! `peers-load`: the same writes to Evenkeel, etcd or NATS JetStream, and a table that compares them. `run` beside it
//! starts the clusters; this only loads them and looks at their processes.

mod answers;
mod clusters;
mod compare;
mod etcd;
mod evenkeel;
mod load;
mod nats;
mod processes;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Load a cluster and print one line of JSON
    Load(load::LoadArgs),
    /// Move the leaders of NATS streams away
    NatsStepDown(nats::StepDownArgs),
    /// Answer etcd's writes at once, and store nothing
    Answer { port: u16 },
    /// Print ports that nothing listens on
    FreePorts { count: usize },
    /// Print a fact of what `evenkeel dev --output json` printed
    OfDev { file: PathBuf, fact: clusters::Fact },
    /// Compare the lines of JSON in this file
    Compare {
        /// What `load` printed, line by line
        results: PathBuf,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().what {
        What::Load(args) => println!("{}", serde_json::to_string(&load::run(args).await?)?),
        What::NatsStepDown(args) => nats::step_down(args).await?,
        What::Answer { port } => answers::serve(port).await?,
        What::FreePorts { count } => {
            let ports = clusters::free_ports(count)?;
            println!("{}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" "));
        }
        What::OfDev { file, fact } => println!("{}", clusters::of_dev(&file, fact)?),
        What::Compare { results } => println!("{}", compare::table(&std::fs::read_to_string(results)?)?),
    }
    Ok(())
}
