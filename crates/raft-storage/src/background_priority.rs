//! Lets fjall's threads yield to everything that somebody waits for.
//!
//! Writing a table takes its thread some hundred milliseconds of pure computation. Brokers of one cluster fill their
//! tables at the same pace, so on a small machine these threads come up together and would hold up every hop of every
//! write. The scheduler knows better what to prefer once it is told.

use std::path::Path;
use std::time::Duration;

use rustix::process::Pid;

/// Added to the nice value: about a tenth of the processor while others want it, all of it otherwise.
const NICENESS: i32 = 10;
/// The name that fjall gives its threads, as far as the kernel keeps it.
const THREAD_NAME: &str = "fjall:worker";

/// A thread names itself some time after it was started; it is waited for this long.
const NAMING_MS_MAX: u64 = 100;

/// Lowers the priority of this process's fjall threads, `count` of which have just been started. What cannot be
/// lowered stays: it is no more than a courtesy.
pub(crate) fn lower_fjall_threads(count: usize) {
    for _ in 0..NAMING_MS_MAX {
        match lower(Path::new("/proc/self/task")) {
            Ok(lowered) if lowered >= count => return,
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => return tracing::debug!(%error, "fjall's threads keep their priority"),
        }
    }
    tracing::debug!("fjall's threads were not found and keep their priority");
}

/// Lowers the priority of the thread that calls it.
pub(crate) fn lower_this_thread() {
    // Linux keeps nice values by thread, and `None` is the caller.
    let lowered = rustix::process::getpriority_process(None)
        .and_then(|nice| rustix::process::setpriority_process(None, nice + NICENESS));
    if let Err(error) = lowered {
        tracing::debug!(%error, "a background thread keeps its priority");
    }
}

/// How many it found.
fn lower(tasks: &Path) -> std::io::Result<usize> {
    let mut lowered = 0;
    for task in std::fs::read_dir(tasks)? {
        let task = task?;
        // A thread may have ended since the folder was read.
        let Ok(name) = std::fs::read_to_string(task.path().join("comm")) else { continue };
        let thread = task.file_name().to_str().and_then(|id| id.parse().ok()).and_then(Pid::from_raw);
        if let (true, Some(thread)) = (name.trim_end() == THREAD_NAME, thread) {
            let nice = rustix::process::getpriority_process(Some(thread))?;
            if nice < NICENESS {
                rustix::process::setpriority_process(Some(thread), nice + NICENESS)?;
            }
            lowered += 1;
        }
    }
    Ok(lowered)
}

#[cfg(test)]
mod tests {
    #[test]
    fn fjalls_threads_are_found_and_lowered() {
        let folder = tempfile::tempdir().unwrap();
        let _store = crate::StateStore::open(folder.path(), crate::StoreOptions::default()).unwrap();
        let nice_of = |task: std::fs::DirEntry| {
            let comm = std::fs::read_to_string(task.path().join("comm")).ok()?;
            let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
            // After the name in brackets, nice is the 17th field.
            let nice: i32 = stat.rsplit(") ").next()?.split(' ').nth(16)?.parse().ok()?;
            (comm.trim_end() == super::THREAD_NAME).then_some(nice)
        };
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let nices: Vec<i32> = tasks.filter_map(|task| nice_of(task.unwrap())).collect();
        assert!(!nices.is_empty(), "fjall names its threads otherwise");
        assert!(nices.iter().all(|nice| *nice >= super::NICENESS), "{nices:?}");
    }
}
