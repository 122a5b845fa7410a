//! A file that names the process that runs, for who wants to signal it.

use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use crate::output::outcome::Failure;

/// Exists as long as the process does; a process that is killed leaves it behind.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    pub fn write(path: &Path) -> Result<Self, Failure> {
        let written = std::fs::write(path, format!("{}\n", std::process::id()));
        written.map_err(|error| {
            Failure::usage(format!("--pid-file {}: {error}; choose a writable place", path.display()))
        })?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // Another process may have replaced it.
        let own = std::process::id().to_string();
        if std::fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == own) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Kills the process that the file names, when it is the one meant: its command line must hold `mark`, for a
/// number may have been given to somebody else since.
pub fn kill_9(path: &Path, mark: &str) -> Result<u32, Failure> {
    let refuse = |what: String| Failure::new(1, format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|error| refuse(format!("{error}; is this the folder of a running `evenkeel dev`?")))?;
    let id: u32 =
        text.trim().parse().map_err(|_| refuse(format!("{:?} is not a process id", text.trim())))?;
    if let Ok(command_line) = std::fs::read(format!("/proc/{id}/cmdline"))
        && !String::from_utf8_lossy(&command_line).contains(mark)
    {
        return Err(refuse(format!("process {id} is not the broker any more")));
    }
    let pid = i32::try_from(id)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| refuse(format!("bad process id {id}")))?;
    kill_process(pid, Signal::KILL).map_err(|error| refuse(format!("process {id}: {error}")))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_lives_as_long_as_the_process_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker-0.pid");
        let file = PidFile::write(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().trim(), std::process::id().to_string());
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_else_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker-0.pid");
        assert!(kill_9(&path, "broker-0.toml").is_err(), "no file");
        std::fs::write(&path, std::process::id().to_string()).unwrap();
        let failure = kill_9(&path, "a mark that this process does not have").unwrap_err();
        assert!(failure.message.contains("is not the broker any more"), "{failure}");
        std::fs::write(&path, "0").unwrap();
        assert!(kill_9(&path, "x").is_err());
    }
}
