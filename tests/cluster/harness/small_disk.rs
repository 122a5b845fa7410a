//! A disk so small that a story can fill it: a tmpfs, which only root can mount.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const REQUIRE: &str = "EVENKEEL_REQUIRE_MOUNT";
const BALLAST_FILE: &str = "ballast-of-another-program";
const BLOCK_BYTES: usize = 64 << 10;

/// Unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// Whether one can be mounted here. Where not, the test is to be skipped, and says so past what captures output; with
    /// `EVENKEEL_REQUIRE_MOUNT` it fails.
    pub fn can_be_made() -> bool {
        let folder = tempfile::tempdir().unwrap();
        if mount(folder.path(), 1 << 20) {
            unmount(folder.path());
            return true;
        }
        assert!(
            std::env::var_os(REQUIRE).is_none(),
            "a tmpfs cannot be mounted, and {REQUIRE} is set: run as root"
        );
        let test = std::thread::current().name().unwrap_or("a test").to_owned();
        let _ =
            writeln!(std::io::stderr(), "\n!!! SKIPPED: {test}: a tmpfs cannot be mounted; run as root\n");
        false
    }

    pub fn make(folder: PathBuf, bytes: u64) -> Self {
        std::fs::create_dir_all(&folder).unwrap();
        assert!(mount(&folder, bytes), "a tmpfs on {}", folder.display());
        Self { folder }
    }

    pub fn free_bytes(&self) -> u64 {
        let disk = rustix::fs::statvfs(&self.folder).unwrap();
        disk.f_bavail * disk.f_frsize
    }

    /// Another program takes room until so much is left, or all of it with 0.
    pub fn fill(&self, left: u64) {
        let path = self.folder.join(BALLAST_FILE);
        let mut ballast = File::options().create(true).append(true).open(path).unwrap();
        while self.free_bytes() > left {
            let bytes = (self.free_bytes() - left).min(BLOCK_BYTES as u64);
            if ballast.write_all(&vec![0; usize::try_from(bytes).unwrap()]).is_err() {
                return;
            }
        }
    }

    /// It gives everything back.
    pub fn empty(&self) {
        std::fs::remove_file(self.folder.join(BALLAST_FILE)).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.folder);
    }
}

fn mount(folder: &Path, bytes: u64) -> bool {
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
        .arg(folder)
        .output();
    mount.is_ok_and(|output| output.status.success())
}

fn unmount(folder: &Path) {
    let _ = Command::new("umount").arg("-l").arg(folder).output();
}
