//! `evenkeel context`: names clusters, and chooses one.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cluster::connection::Connection;
use crate::cluster::contexts::{Context, Contexts, file};
use crate::output::format::{Output, PrintArgs};
use crate::output::outcome::Failure;
use crate::output::tables::table;

#[derive(Args, Debug)]
pub struct ContextArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Name a cluster: remember the addresses and files of the options given, such as --gateway and --ca
    Add(AddArgs),
    /// Use this cluster from now on, unless --context names another
    Use(NamedArgs),
    /// List the clusters that have names
    List(ListArgs),
    /// Forget a cluster's name
    Remove(NamedArgs),
}

#[derive(Args, Debug)]
struct NamedArgs {
    /// Context's name
    name: String,
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Args, Debug)]
struct AddArgs {
    /// Context's name
    name: String,
    /// Use it from now on
    #[arg(long = "use")]
    chosen: bool,
    /// Replace one that has this name
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Args, Debug)]
struct ListArgs {
    /// How to print them
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

pub fn run(args: &ContextArgs, connection: &Connection) -> Result<(), Failure> {
    let path = file()?;
    let mut contexts = Contexts::read(&path)?;
    match &args.what {
        What::Add(args) => {
            if contexts.contexts.contains_key(&args.name) && !args.replace {
                return Err(Failure::usage(format!(
                    "there is a context {:?} already; overwrite it with --replace",
                    args.name
                )));
            }
            contexts.contexts.insert(args.name.clone(), remembered(connection)?);
            // The only one is the one.
            if args.chosen || contexts.contexts.len() == 1 {
                contexts.current = Some(args.name.clone());
            }
            contexts.write(&path)?;
            let used = contexts.current.as_ref() == Some(&args.name);
            let then = if used {
                "commands ask it from now on".to_owned()
            } else {
                format!("use it with `evenkeel context use {}`", args.name)
            };
            args.shown.output.show(
                || format!("context {} is in {}; {then}", args.name, path.display()),
                || json!({"name": args.name, "used": used}),
            )
        }
        What::Use(NamedArgs { name, shown }) => {
            contexts.find(name)?;
            contexts.current = Some(name.clone());
            contexts.write(&path)?;
            shown.output.show(
                || format!("commands ask {name} from now on; see `evenkeel status`"),
                || json!({"name": name, "used": true}),
            )
        }
        What::List(args) => args.output.show(|| listed(&contexts), || to_json(&contexts)),
        What::Remove(NamedArgs { name, shown }) => {
            contexts.find(name)?;
            contexts.contexts.remove(name);
            contexts.current = contexts.current.filter(|current| current != name);
            contexts.write(&path)?;
            shown.output.show(
                || format!("context {name} is forgotten; `evenkeel context list` shows the others"),
                || json!({"name": name, "removed": true}),
            )
        }
    }
}

/// Files by their absolute paths: commands run in other folders too.
fn remembered(connection: &Connection) -> Result<Context, Failure> {
    let absolute = |path: &Option<PathBuf>| -> Result<Option<PathBuf>, Failure> {
        let whole = path.as_ref().map(std::path::absolute).transpose();
        whole.map_err(|error| Failure::usage(format!("{path:?}: {error}")))
    };
    Ok(Context {
        gateway: connection.gateway.clone(),
        api: Some(connection.api.clone()),
        monitoring: Some(connection.monitoring.clone()),
        ca: absolute(&connection.ca)?,
        cert: absolute(&connection.cert)?,
        cert_key: absolute(&connection.key)?,
        token_file: absolute(&connection.token_file)?,
    })
}

fn listed(contexts: &Contexts) -> String {
    if contexts.contexts.is_empty() {
        return "no cluster has a name yet; give one with `evenkeel context add NAME --gateway HOST:PORT`"
            .to_owned();
    }
    let mut rows = table(["used", "name", "gateway", "api", "monitoring", "encrypted"]);
    for (name, context) in &contexts.contexts {
        rows.add_row([
            if contexts.current.as_ref() == Some(name) { "*" } else { "" }.to_owned(),
            name.clone(),
            context.gateway.join(","),
            context.api.clone().unwrap_or_default(),
            context.monitoring.clone().unwrap_or_default(),
            if context.ca.is_some() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    rows.to_string()
}

fn to_json(contexts: &Contexts) -> Value {
    let one = |(name, context): (&String, &Context)| {
        json!({
            "name": name,
            "used": contexts.current.as_ref() == Some(name),
            "gateway": context.gateway,
            "api": context.api,
            "monitoring": context.monitoring,
            "ca": context.ca,
            "cert": context.cert,
            "cert_key": context.cert_key,
            "token_file": context.token_file,
        })
    };
    contexts.contexts.iter().map(one).collect()
}
