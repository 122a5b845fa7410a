//! Files that hold keys, certificates and tokens: read with care, and looked at for changes.

use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Far more than certificates of a whole company or ten thousand tokens take.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Read permission for everybody.
const READABLE_BY_ALL: u32 = 0o004;

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct UnreadableFile {
    /// Which.
    pub path: PathBuf,
    /// Why; never holds anything of what is in the file.
    pub problem: String,
}

fn read_checked(
    path: &Path,
    check: impl Fn(&Metadata) -> Result<(), String>,
) -> Result<Vec<u8>, UnreadableFile> {
    let unreadable = |problem: String| UnreadableFile { path: path.to_owned(), problem };
    let file = std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let metadata = file.metadata().map_err(|error| unreadable(error.to_string()))?;
    check(&metadata).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(error.to_string()))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unreadable(format!("is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// Reads a file that everybody may know.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, UnreadableFile> {
    read_checked(path, |_| Ok(()))
}

/// Reads a file that holds a key or a token; one that everybody on the machine can read is refused.
///
/// # Errors
/// When it cannot be read, or can be read by everybody.
pub fn read_secret(path: &Path) -> Result<Vec<u8>, UnreadableFile> {
    read_checked(path, |metadata| {
        let mode = metadata.permissions().mode();
        if mode & READABLE_BY_ALL == 0 {
            return Ok(());
        }
        Err(format!("everybody can read it (mode {:o}); chmod 600 it", mode & 0o777))
    })
}

/// Tells whether files have changed since: modification time, size and inode of each, links followed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<(i64, i64, u64, u64)>>);

impl Stamp {
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.mtime(), metadata.mtime_nsec(), metadata.len(), metadata.ino()))
        };
        Self(paths.into_iter().map(stamp).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_everybody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, "secret").unwrap();
        for (mode, fine) in [(0o600, true), (0o640, true), (0o400, true), (0o644, false), (0o604, false)] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), fine, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().contains("chmod 600") && !error.to_string().contains("secret"));
            }
        }
        assert!(read_secret(&folder.path().join("none")).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn a_file_that_is_replaced_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("a"), folder.path().join("b"));
        let stamp = || Stamp::of([path.as_path()]);
        let absent = stamp();
        std::fs::write(&path, "1").unwrap();
        let first = stamp();
        assert_eq!(first, stamp());
        std::fs::write(&other, "2").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(absent != first && first != stamp());
    }
}
