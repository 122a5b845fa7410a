//! A variable for every flag: what has none of its own gets `EVENKEEL_CLI_<COMMAND>_<FLAG>`, and `--output` of every command
//! `EVENKEEL_OUTPUT`.
//!
//! The settings of brokers and gateways are left alone: theirs come from the same keys as their files, and their reader
//! says where a value came from. The prefix keeps these names apart from those keys' names.

use clap::{Arg, ArgAction, Command};

const PREFIX: &str = "EVENKEEL_CLI";
const OUTPUT: &str = "EVENKEEL_OUTPUT";

/// The command line with a variable for every flag.
pub fn with_variables(command: Command) -> Command {
    named(command, PREFIX)
}

fn named(command: Command, prefix: &str) -> Command {
    let for_flags = prefix.to_owned();
    let command = command.mut_args(move |arg| with_variable(arg, &for_flags));
    let names: Vec<String> = command.get_subcommands().map(|part| part.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let prefix = format!("{prefix}_{}", shouted(&name));
        command.mut_subcommand(name, |part| named(part, &prefix))
    })
}

fn with_variable(arg: Arg, prefix: &str) -> Arg {
    let is_setting = arg.get_id().as_str().contains('.');
    let shows = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    match arg.get_long().map(str::to_owned) {
        Some(_) if is_setting || shows || arg.get_env().is_some() => arg,
        Some(flag) if flag == "output" => arg.env(OUTPUT),
        Some(flag) => arg.env(format!("{prefix}_{}", shouted(&flag))).hide_env(true),
        None => arg,
    }
}

fn shouted(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}
