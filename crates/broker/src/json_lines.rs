//! Exports to files: JSON Lines below `DIRECTORY/broker-NODE/partition-ID/`, each named for the first position in it.
//!
//! A batch is synced before its position counts as exported. A crash may leave the beginning of a line; it is cut off before
//! anything is added, and the batch comes again. A file that is full is followed by another, and beyond `files_max` the
//! oldest is removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use evenkeel_protocol::{NodeId, PartitionId};

use crate::export_lines::Batch;
use crate::exporters::ExporterOptions;

const EXTENSION: &str = "jsonl";
/// How much of a file's end is looked at for the last line feed at a time.
const TAIL_BYTES: u64 = 64 << 10;

/// The files of one partition.
#[derive(Debug)]
pub struct JsonLines {
    folder: PathBuf,
    file_bytes_max: u64,
    files_max: usize,
    /// The newest file, and its size.
    current: Option<(File, u64)>,
}

impl JsonLines {
    /// Goes on with the newest file, if there is one that is not full.
    pub fn open(options: &ExporterOptions, node: NodeId, partition: PartitionId) -> io::Result<Self> {
        let folder = Path::new(&options.directory)
            .join(format!("broker-{node}"))
            .join(format!("partition-{partition}"));
        std::fs::create_dir_all(&folder)?;
        let files_max = usize::try_from(options.files_max).unwrap_or(usize::MAX);
        let file_bytes_max = options.file_bytes_max;
        let mut this = Self { folder, file_bytes_max, files_max, current: None };
        if let Some(newest) = this.files()?.pop() {
            let mut file = OpenOptions::new().read(true).write(true).open(newest)?;
            let whole = end_of_last_line(&mut file)?;
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            this.current = Some((file, whole));
        }
        Ok(this)
    }

    /// Adds a batch, durably.
    pub fn add(&mut self, batch: &Batch) -> io::Result<()> {
        if self.current.as_ref().is_none_or(|(_, bytes)| *bytes >= self.file_bytes_max) {
            self.begin_file(batch)?;
        }
        let Some((file, bytes)) = &mut self.current else {
            return Err(io::Error::other("no file was begun"));
        };
        file.write_all(&batch.lines)?;
        file.sync_data()?;
        *bytes += batch.lines.len() as u64;
        Ok(())
    }

    fn begin_file(&mut self, batch: &Batch) -> io::Result<()> {
        let path = self.folder.join(format!("{:020}.{EXTENSION}", batch.first.0));
        // After a jump back to an older position it may be there already, and is added to.
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path)?;
        let bytes = file.seek(SeekFrom::End(0))?;
        File::open(&self.folder)?.sync_all()?;
        self.current = Some((file, bytes));
        let files = self.files()?;
        let surplus = if self.files_max == 0 { 0 } else { files.len().saturating_sub(self.files_max) };
        for oldest in &files[..surplus] {
            std::fs::remove_file(oldest)?;
        }
        Ok(())
    }

    /// Oldest first.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

/// Where the last whole line ends.
fn end_of_last_line(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut tail = Vec::new();
    while end > 0 {
        let from = end.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        tail.clear();
        Read::by_ref(file).take(end - from).read_to_end(&mut tail)?;
        if let Some(at) = tail.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use evenkeel_protocol::Position;

    use super::*;

    fn options(folder: &Path, file_bytes_max: u64, files_max: u32) -> ExporterOptions {
        let text = format!(
            "name = \"a\"\nkind = \"json-lines\"\ndirectory = {:?}\nfile_bytes_max = {file_bytes_max}\nfiles_max = {files_max}",
            folder.display().to_string()
        );
        toml::from_str(&text).unwrap()
    }

    fn batch(position: u64) -> Batch {
        let lines = Bytes::from(format!("{{\"position\":{position}}}\n"));
        Batch {
            partition: PartitionId(1),
            first: Position(position),
            up_to: Position(position),
            lines,
            count: 1,
        }
    }

    fn read(folder: &Path) -> Vec<String> {
        let mut files: Vec<_> = std::fs::read_dir(folder.join("broker-0/partition-1"))
            .unwrap()
            .map(|e| e.unwrap().path())
            .collect();
        files.sort();
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
    }

    #[test]
    fn files_are_rotated_by_size_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let line = batch(10).lines.len() as u64;
        let mut files =
            JsonLines::open(&options(folder.path(), 2 * line, 2), NodeId(0), PartitionId(1)).unwrap();
        for position in 10..16 {
            files.add(&batch(position)).unwrap();
        }
        let kept = read(folder.path());
        assert_eq!(kept.len(), 2);
        assert_eq!(kept.concat(), (12..16).map(|p| format!("{{\"position\":{p}}}\n")).collect::<String>());
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_cut_off_before_anything_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let options = options(folder.path(), 1 << 20, 0);
        JsonLines::open(&options, NodeId(0), PartitionId(1)).unwrap().add(&batch(10)).unwrap();
        let file = folder.path().join("broker-0/partition-1/00000000000000000010.jsonl");
        OpenOptions::new().append(true).open(&file).unwrap().write_all(b"{\"posi").unwrap();
        JsonLines::open(&options, NodeId(0), PartitionId(1)).unwrap().add(&batch(11)).unwrap();
        assert_eq!(read(folder.path()), ["{\"position\":10}\n{\"position\":11}\n"]);
    }
}
