//! One process that this one started, and its end.
//!
//! A task owns the process, passes signals on and waits for its end, so that a signal never goes to a process id
//! that was given to somebody else meanwhile. The child reads our end of a pipe as its standard input: when we
//! die, however suddenly, it sees the end of file and stops by itself.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, watch};

/// Signals that wait to be passed on.
const SIGNALS_MAX: usize = 8;
/// How long a process may take to stop when asked to, before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(25);
/// A killed process is gone at once, unless the kernel holds it in I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// What to start.
#[derive(Clone, Debug)]
pub struct CommandLine {
    pub program: PathBuf,
    pub args: Vec<String>,
}

impl CommandLine {
    /// As a person types it into a shell.
    pub fn shell(&self) -> String {
        let program = self.program.display().to_string();
        std::iter::once(&program).chain(&self.args).map(|word| shell_word(word)).collect::<Vec<_>>().join(" ")
    }
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A process under way, or how it ended. Dropping it kills the process.
#[derive(Debug)]
pub struct ChildProcess {
    pid: u32,
    signals: mpsc::Sender<Signal>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl ChildProcess {
    /// Starts it with its output appended to `log`. `stop_flag` is added to the arguments: it tells the child to
    /// end with its standard input.
    pub fn start(command: &CommandLine, stop_flag: &str, log: &Path) -> anyhow::Result<Self> {
        let open = OpenOptions::new().create(true).append(true).open(log);
        let output = open.with_context(|| format!("log file {}", log.display()))?;
        let errors = output.try_clone().with_context(|| format!("log file {}", log.display()))?;
        let mut process = Command::new(&command.program);
        process.args(&command.args).arg(stop_flag);
        process.stdin(Stdio::piped()).stdout(output).stderr(errors).kill_on_drop(true);
        // Ctrl-C in the terminal is for us: we stop the children, in order.
        process.process_group(0);
        // The configuration file says who the child is; a variable meant for another process must not.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if ["EVENKEEL_CLUSTER_", "EVENKEEL_NETWORK_", "EVENKEEL_DATA_"]
                .iter()
                .any(|p| name_text.starts_with(p))
            {
                process.env_remove(&name);
            }
        }
        let mut child = process.spawn().with_context(|| format!("cannot start {}", command.shell()))?;
        let pid = child.id().ok_or_else(|| anyhow!("{} ended at once", command.shell()))?;
        let stdin = child.stdin.take();
        let (signals, received) = mpsc::channel(SIGNALS_MAX);
        let (tell_end, ended) = watch::channel(None);
        tokio::spawn(own(child, stdin, received, tell_end));
        Ok(Self { pid, signals, ended })
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended; `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.ended.borrow()
    }

    /// Resolves when the process has ended.
    pub fn ended(&self) -> impl Future<Output = Option<ExitStatus>> + Send + 'static {
        let mut ended = self.ended.clone();
        async move { ended.wait_for(Option::is_some).await.ok().and_then(|status| *status) }
    }

    async fn signal(&self, signal: Signal, patience: Duration) -> bool {
        if self.exit_status().is_some() {
            return true;
        }
        // The owning task takes signals until the process has ended.
        let _ = self.signals.send(signal).await;
        tokio::time::timeout(patience, self.ended()).await.is_ok()
    }

    /// As `kill -9`; returns once the process is gone.
    pub async fn kill(&self) -> anyhow::Result<()> {
        match self.signal(Signal::KILL, KILL_TIMEOUT).await {
            true => Ok(()),
            false => Err(anyhow!("process {} did not end {KILL_TIMEOUT:?} after SIGKILL", self.pid)),
        }
    }

    /// Asks it to stop, and kills it when it does not in [`STOP_TIMEOUT`].
    pub async fn stop(&self) -> anyhow::Result<()> {
        if !self.signal(Signal::TERM, STOP_TIMEOUT).await {
            self.kill().await?;
        }
        Ok(())
    }
}

async fn own(
    mut child: Child,
    stdin: Option<ChildStdin>,
    mut signals: mpsc::Receiver<Signal>,
    tell_end: watch::Sender<Option<ExitStatus>>,
) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.ok(),
            signal = signals.recv() => match (signal, child.id()) {
                // Not waited for yet, hence still ours.
                (Some(signal), Some(id)) => {
                    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
                        let _ = kill_process(pid, signal);
                    }
                }
                // The handle was dropped: nobody is left to stop the process later.
                (None, _) => { let _ = child.start_kill(); break child.wait().await.ok(); }
                (Some(_), None) => {}
            },
        }
    };
    drop(stdin);
    tell_end.send_replace(status.or(Some(ExitStatus::default())));
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn shell(script: &str) -> CommandLine {
        CommandLine { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()] }
    }

    #[test]
    fn a_printed_command_survives_the_shell() {
        let command = CommandLine {
            program: "/opt/even keel/evenkeel".into(),
            args: vec!["broker".into(), "--config".into(), "/tmp/it's/b.toml".into()],
        };
        assert_eq!(command.shell(), r"'/opt/even keel/evenkeel' broker --config '/tmp/it'\''s/b.toml'");
    }

    #[tokio::test]
    async fn a_stubborn_process_can_be_killed_and_its_end_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let child =
            ChildProcess::start(&shell("trap '' TERM; echo up; read line; read line"), "-", &log).unwrap();
        assert_eq!(child.exit_status(), None);
        child.kill().await.unwrap();
        assert_eq!(child.exit_status().unwrap().signal(), Some(9));
    }

    #[tokio::test]
    async fn a_child_sees_the_end_of_its_parent_as_end_of_file() {
        let folder = tempfile::tempdir().unwrap();
        let (log, gone) = (folder.path().join("log"), folder.path().join("gone"));
        let script = format!("read line; echo stopped > {}", gone.display());
        let mut process = Command::new("/bin/sh");
        process.args(["-c", &script]).stdin(Stdio::piped());
        let mut child = process.spawn().unwrap();
        drop(child.stdin.take());
        child.wait().await.unwrap();
        assert_eq!(std::fs::read_to_string(gone).unwrap(), "stopped\n");
        let quick = ChildProcess::start(&shell("exit 3"), "-", &log).unwrap();
        assert_eq!(quick.ended().await.unwrap().code(), Some(3));
    }
}
