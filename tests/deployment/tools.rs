//! Programs that tests run, and what happens where they are missing.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const REQUIRE: &str = "EVENKEEL_REQUIRE_DEPLOYMENT";
const BINARY: &str = "EVENKEEL_STATIC_BINARY";
const BINARY_DEFAULT: &str = "target/x86_64-unknown-linux-gnu/release/evenkeel";

/// A path from the root of the repository.
pub fn at_root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Says that this test is skipped, past what captures output; or fails, where all of them are required.
pub fn skip(missing: &str, remedy: &str) {
    assert!(std::env::var_os(REQUIRE).is_none(), "{missing}, and {REQUIRE} is set: {remedy}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}: {missing}; {remedy}\n");
}

/// Whether the program can be run. If not, the test is to be skipped.
pub fn installed(program: &str, version: &[&str], remedy: &str) -> bool {
    let found = answers(program, version);
    if !found {
        skip(&format!("{program} is not installed"), remedy);
    }
    found
}

/// Whether a command succeeds.
pub fn answers(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    let command = command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The binary that image and package are made of, where there is one.
pub fn static_binary() -> Option<PathBuf> {
    let named = std::env::var_os(BINARY).map(PathBuf::from);
    let binary = named.unwrap_or_else(|| at_root(BINARY_DEFAULT));
    if binary.is_file() {
        return Some(binary.canonicalize().unwrap());
    }
    skip(&format!("there is no {}", binary.display()), "run deploy/static-binary.sh");
    None
}

/// Runs a command that must succeed, and answers what it wrote to standard output.
pub fn run(command: &mut Command) -> String {
    let output = output(command);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{told}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command to its end.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A command with its arguments.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}
