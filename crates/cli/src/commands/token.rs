//! `evenkeel token`: a new bearer token. It goes into a file; the line for the servers, which holds its hash only, is the
//! output.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use evenkeel_security::{Tokens, hashed};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::commands::authority::write_new;
use crate::output::format::PrintArgs;
use crate::output::outcome::{Failure, note};

const TOKEN_BYTES: usize = 32;

#[derive(Args, Debug)]
pub struct TokenArgs {
    /// Whose token; the audit names it
    name: String,
    /// What its holder may do; whoever may write or operate may also read
    #[arg(long = "role", required = true, value_delimiter = ',', value_enum)]
    roles: Vec<TokenRole>,
    /// File for the token, readable by its owner only; must not exist yet
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    shown: PrintArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum TokenRole {
    /// Look at records, topology, runs and metrics
    Read,
    /// Change records
    Write,
    /// Rebalance, drain, pause, and see the audit
    Operate,
}

impl TokenRole {
    fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Operate => "operate",
        }
    }
}

pub fn run(args: &TokenArgs) -> Result<(), Failure> {
    let (token, line) = make(args)?;
    let file = args.out.display();
    if args.out.exists() {
        return Err(Failure::usage(format!("--out {file}: is there already; name another file")));
    }
    write_new(&args.out, &format!("{token}\n"), 0o600)
        .map_err(|error| Failure::usage(format!("--out {file}: {error}; name a file that can be written")))?;
    let roles: Vec<_> = args.roles.iter().map(|role| role.name()).collect();
    args.shown.output.show(
        || line.clone(),
        || json!({"name": args.name, "roles": roles, "line": line, "file": args.out}),
    )?;
    note(format_args!(
        "append this line to auth.tokens_file of every gateway and broker; use the token with --token-file {file}"
    ));
    Ok(())
}

/// A token, and what servers keep of it.
fn make(args: &TokenArgs) -> Result<(String, String), Failure> {
    let mut bytes = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Failure::new(1, "the system gives no random numbers"))?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let roles = args.roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(",");
    let line = format!("{} {roles} {}", args.name, hashed(&token));
    line.parse::<Tokens>().map_err(|_| {
        Failure::usage(format!("{:?}: not a name for a token; use a word of at most 64 bytes", args.name))
    })?;
    Ok((token, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_one_that_servers_read_and_holds_no_token() {
        let args = |name: &str| TokenArgs {
            name: name.to_owned(),
            roles: vec![TokenRole::Write, TokenRole::Operate],
            out: "x".into(),
            shown: PrintArgs::default(),
        };
        let (token, line) = make(&args("ops")).unwrap();
        assert!(line.starts_with("ops write,operate sha256:") && !line.contains(&token));
        let tokens: Tokens = line.parse().unwrap();
        assert_eq!(tokens.find(token.as_bytes()).unwrap().name, "ops");
        assert_ne!(make(&args("ops")).unwrap().0, token);
        for name in ["", "two words", "#comment", &"x".repeat(65)] {
            assert!(
                make(&args(name)).is_err()
                    || make(&args(name)).unwrap().1.parse::<Tokens>().unwrap().is_empty()
            );
        }
    }
}
