//! What processes have used, as the kernel counts it.

use std::time::Duration;

use anyhow::Context;

/// The kernel counts CPU time in hundredths of a second for everybody, whatever its own clock does.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu: Duration,
    /// To the disk, as far as these processes caused it.
    pub written_bytes: u64,
}

impl Usage {
    /// Of all of these together since they began.
    pub fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for pid in pids {
            let read = |name: &str| {
                let path = format!("/proc/{pid}/{name}");
                std::fs::read_to_string(&path)
                    .with_context(|| format!("{path}: is this server still running?"))
            };
            all.cpu += cpu(&read("stat")?).context("unknown form of /proc/PID/stat")?;
            all.written_bytes += written(&read("io")?).context("unknown form of /proc/PID/io")?;
        }
        Ok(all)
    }

    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// User and system time; the name before may hold anything, so fields are counted after its closing bracket.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND))
}

fn written(io: &str) -> Option<u64> {
    io.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_process_is_called() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 (a"), None);
        assert_eq!(written("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 3\n"), Some(4096));
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = Usage::of(&[std::process::id()]).unwrap();
        assert_eq!(usage.since(&usage), Usage::default());
        assert!(Usage::of(&[u32::MAX]).is_err());
    }
}
