//! One process of the binary under test.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::waiting::{PATIENCE, wait_until};

/// Lines of a log that a failed test prints.
const LOG_LINES_SHOWN: usize = 60;

/// The binary under test, without settings that this test's own environment may have.
fn command() -> Command {
    without_own_settings(Command::new(env!("CARGO_BIN_EXE_evenkeel")))
}

fn without_own_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("EVENKEEL_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs a command of the binary to its end.
pub async fn evenkeel<S: Into<OsString>>(args: impl IntoIterator<Item = S>) -> Output {
    evenkeel_with(&[], args).await
}

/// The same with these variables.
pub async fn evenkeel_with<S: Into<OsString>>(
    environment: &[(&str, String)],
    args: impl IntoIterator<Item = S>,
) -> Output {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let mut command = tokio::process::Command::from(command());
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.args(&args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await;
    output.unwrap_or_else(|_| panic!("{args:?} still runs after {PATIENCE:?}")).unwrap()
}

/// A process that can be started again after it ended. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    /// What stands before the binary: a program that becomes it, and that one's arguments.
    launcher: Vec<OsString>,
    args: Vec<OsString>,
    /// Variables that it gets when it is started again.
    pub environment: Vec<(String, OsString)>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub fn start<S: Into<OsString>>(
        name: impl Into<String>,
        args: impl IntoIterator<Item = S>,
        log: &Path,
    ) -> Self {
        Self::start_under(Vec::new(), name, args, log)
    }

    /// Starts it by another program, which must become it: the process id stays.
    pub fn start_under<S: Into<OsString>>(
        launcher: Vec<OsString>,
        name: impl Into<String>,
        args: impl IntoIterator<Item = S>,
        log: &Path,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        let environment = Vec::new();
        let mut process =
            Self { name: name.into(), launcher, args, environment, log: log.to_owned(), child: None };
        process.restart();
        process
    }

    /// Starts it (again) with the same arguments; its output goes on in the same log.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "{} still runs", self.name);
        let output = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let errors = output.try_clone().unwrap();
        let mut command = match self.launcher.split_first() {
            None => command(),
            Some((program, args)) => {
                let mut launcher = without_own_settings(Command::new(program));
                launcher.args(args).arg(env!("CARGO_BIN_EXE_evenkeel"));
                launcher
            }
        };
        command
            .envs(self.environment.iter().cloned())
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(errors);
        self.child = Some(command.spawn().unwrap());
    }

    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    /// kill -9; the process is gone on return.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// After a SIGSTOP: a thread that runs on another processor goes on for a moment.
    pub fn wait_until_stopped(&self) {
        let deadline = Instant::now() + PATIENCE;
        let id = self.child.as_ref().map_or(0, Child::id);
        let tasks = format!("/proc/{id}/task");
        let runs = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state follows the name in brackets; a thread that has ended has none.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['T', 't', 'Z', 'X']))
        };
        while std::fs::read_dir(&tasks).unwrap().any(|task| runs(task.unwrap())) {
            assert!(Instant::now() < deadline, "{} does not stop", self.name);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn signal(&mut self, signal: Signal) {
        // Not waited for yet, hence the id is still ours.
        assert!(self.is_running(), "{} does not run", self.name);
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Of the running process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)))
    }

    /// How the process ended, once it has.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let child = self.child.as_mut().unwrap();
        let status =
            wait_until(&what, async || child.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned()))
                .await;
        self.child = None;
        status
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    pub fn print_log(&self) {
        println!("--- {} (last lines)\n{}", self.name, self.log_tail());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
