//! `evenkeel completion` and `evenkeel man`: what shells and `man` know of the command line, made from it.

use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output::outcome::{Failure, note, write_out};

#[derive(Args, Debug)]
pub struct CompletionArgs {
    /// For which shell, such as: source <(evenkeel completion bash)
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Args, Debug)]
pub struct ManArgs {
    /// Write the page of every command into this folder, instead of the first page to standard output
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub fn completion(args: &CompletionArgs, mut command: Command) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "evenkeel", &mut script);
    write_out(&script)
}

pub fn man(args: &ManArgs, command: Command) -> Result<(), Failure> {
    match &args.dir {
        Some(folder) => {
            let unwritable = |error| Failure::new(1, format!("--dir {}: {error}", folder.display()));
            std::fs::create_dir_all(folder).map_err(unwritable)?;
            clap_mangen::generate_to(command, folder).map_err(unwritable)?;
            note(format_args!("written; read them with: man -l {}", example(folder).display()));
            Ok(())
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            write_out(&page)
        }
    }
}

fn example(folder: &Path) -> PathBuf {
    folder.join("evenkeel.1")
}
