//! Reads the state database's files through, so that a damaged one is found at the start and not by a client.
//!
//! fjall checks a piece when something reads it; a replica could lead for weeks before it notices. A file of a table is an
//! archive of sections, all of blocks but two; one of large values has a section of blobs, and one of a magic and a block:
//!
//! ```text
//! block  = magic[4] type:u8 data_checksum:u128 data_length:u32 uncompressed_length:u32 header_checksum:u32 data
//! blob   = magic[4] checksum:u128 seqno:u64 key_length:u16 uncompressed_length:u32 value_length:u32 key value
//! ```
//!
//! A blob's checksum leaves its header out, but fjall notes one of the whole file as well.
//!
//! Cost: one sequential read of the database; about a second for each gigabyte that the page cache holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fjall::{AbstractTree, Keyspace};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

const BLOCK_MAGIC: [u8; 4] = *b"LSM\x03";
const BLOCK_HEADER_BYTES: usize = 33;
const BLOB_MAGIC: [u8; 4] = *b"BLOB";
const BLOB_HEADER_BYTES: usize = 38;
const BLOB_META_MAGIC: [u8; 4] = *b"META";
const READ_BYTES: usize = 1 << 20;

/// A place in a file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DamagedFile {
    pub path: PathBuf,
    pub offset: u64,
    pub what: String,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Table,
    Blobs,
}

/// Bytes of the piece that begins where the reader is and ends within the room given, or what is wrong with it.
type Check = fn(&mut BufReader<File>, u64) -> io::Result<Result<u64, &'static str>>;

impl Kind {
    fn of_folder(folder: &Path) -> Option<Self> {
        [Self::Table, Self::Blobs].into_iter().find(|kind| folder.ends_with(kind.folder()))
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Table => "tables",
            Self::Blobs => "blobs",
        }
    }

    /// How the pieces of a section are checked; `None` for one that has nothing to check.
    fn check_of(self, section: &[u8]) -> Option<Check> {
        match (self, section) {
            (Self::Table, b"table_version" | b"linked_blob_files") => None,
            (Self::Table, _) => Some(check_block),
            (Self::Blobs, b"data") => Some(check_blob),
            (Self::Blobs, b"meta") => Some(check_blob_meta),
            (Self::Blobs, _) => None,
        }
    }
}

/// The first damaged place in the files that the keyspace consists of, if there is one. Blocks.
pub(crate) fn find_damage(keyspace: &Keyspace) -> io::Result<Option<DamagedFile>> {
    let version = keyspace.tree.current_version();
    let folder = keyspace.path().join(Kind::Table.folder());
    for table in version.iter_tables() {
        let checked = check_file(&folder.join(table.id().to_string()), Kind::Table);
        if let Some(damage) = unless_gone(checked)? {
            return Ok(Some(damage));
        }
    }
    for blobs in version.blob_files.iter() {
        let checked = check_blobs(blobs.path(), blobs.checksum().into_u128());
        if let Some(damage) = unless_gone(checked)? {
            return Ok(Some(damage));
        }
    }
    Ok(None)
}

/// What is not there was compacted away meanwhile.
fn unless_gone(checked: io::Result<Option<DamagedFile>>) -> io::Result<Option<DamagedFile>> {
    match checked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        checked => checked,
    }
}

/// Like [`find_damage`], for a database that does not open: every file below `directory` is looked at.
pub(crate) fn find_damaged_file(directory: &Path) -> Option<DamagedFile> {
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Some(kind) = Kind::of_folder(&folder)
                && let Ok(Some(damage)) = check_file(&path, kind)
            {
                return Some(damage);
            }
        }
    }
    None
}

/// A file of blobs that was written with this checksum.
fn check_blobs(path: &Path, checksum: u128) -> io::Result<Option<DamagedFile>> {
    let mut reader = BufReader::with_capacity(READ_BYTES, File::open(path)?);
    let mut hasher = Xxh3Default::new();
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        let read = bytes.len();
        reader.consume(read);
    }
    if hasher.digest128() == checksum {
        return Ok(None);
    }
    let somewhere = || DamagedFile { path: path.to_owned(), offset: 0, what: "its checksum is wrong".into() };
    Ok(Some(check_file(path, Kind::Blobs)?.unwrap_or_else(somewhere)))
}

fn check_file(path: &Path, kind: Kind) -> io::Result<Option<DamagedFile>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let damage = |offset, what: String| Ok(Some(DamagedFile { path: path.to_owned(), offset, what }));
    let archive = match sfa::Reader::from_reader(&mut reader) {
        Ok(archive) => archive,
        Err(sfa::Error::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        Err(error) => return damage(length, format!("its table of contents cannot be read: {error:?}")),
    };
    for section in archive.toc().iter() {
        let Some(check) = kind.check_of(section.name()) else { continue };
        let Some(end) = section.pos().checked_add(section.len()).filter(|end| *end <= length) else {
            return damage(section.pos(), "a section reaches past the end of the file".into());
        };
        let mut offset = section.pos();
        reader.seek(SeekFrom::Start(offset))?;
        while offset < end {
            match check(&mut reader, end - offset)? {
                Ok(bytes) => offset += bytes,
                Err(what) => return damage(offset, what.into()),
            }
        }
    }
    Ok(None)
}

fn check_blob_meta(reader: &mut BufReader<File>, room: u64) -> io::Result<Result<u64, &'static str>> {
    let mut magic = BLOB_META_MAGIC;
    let Some(room) = room.checked_sub(magic.len() as u64) else {
        return Ok(Err("the description of a file of large values is cut off"));
    };
    reader.read_exact(&mut magic)?;
    if magic != BLOB_META_MAGIC {
        return Ok(Err("the description of a file of large values does not begin as such"));
    }
    Ok(check_block(reader, room)?.map(|bytes| bytes + magic.len() as u64))
}

fn check_blob(reader: &mut BufReader<File>, room: u64) -> io::Result<Result<u64, &'static str>> {
    let mut header = [0; BLOB_HEADER_BYTES];
    if room < BLOB_HEADER_BYTES as u64 {
        return Ok(Err("a section ends inside a large value's header"));
    }
    reader.read_exact(&mut header)?;
    let [key_low, key_high, _, _, _, _, value_length @ ..] = &header[28..] else {
        return Ok(Err("a large value's header is cut off"));
    };
    let key_length = u16::from_le_bytes([*key_low, *key_high]);
    let value_length = value_length.iter().rev().fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte));
    let length = u64::from(key_length) + value_length;
    let bytes = BLOB_HEADER_BYTES as u64 + length;
    if header[..4] != BLOB_MAGIC {
        return Ok(Err("a large value's header does not begin as such"));
    }
    if bytes > room {
        return Ok(Err("a large value reaches past its section"));
    }
    // Bounded by the file's length.
    let mut data = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    reader.read_exact(&mut data)?;
    let checks = xxh3_128(&data).to_le_bytes() == header[4..20];
    Ok(if checks { Ok(bytes) } else { Err("a large value's checksum is wrong") })
}

fn check_block(reader: &mut BufReader<File>, room: u64) -> io::Result<Result<u64, &'static str>> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    if room < BLOCK_HEADER_BYTES as u64 {
        return Ok(Err("a section ends inside a block's header"));
    }
    reader.read_exact(&mut header)?;
    let (head, stored) = header.split_at(BLOCK_HEADER_BYTES - 4);
    if head[..4] != BLOCK_MAGIC || (xxh3_128(head) as u32).to_le_bytes() != stored {
        return Ok(Err("a block's header does not check"));
    }
    let mut length = [0; 4];
    length.copy_from_slice(&head[21..25]);
    let length = u32::from_le_bytes(length);
    let bytes = BLOCK_HEADER_BYTES as u64 + u64::from(length);
    if bytes > room {
        return Ok(Err("a block reaches past its section"));
    }
    let mut data = vec![0; length as usize];
    reader.read_exact(&mut data)?;
    let checks = xxh3_128(&data).to_le_bytes() == head[5..21];
    Ok(if checks { Ok(bytes) } else { Err("a block's checksum is wrong") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_database::{FjallDatabase, Rows, StateDatabase};
    use crate::state_store::StoreOptions;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let files = std::fs::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    #[test]
    fn a_flipped_bit_in_a_table_or_in_a_file_of_large_values_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let database = FjallDatabase::open(folder.path(), &StoreOptions::default()).unwrap();
        for number in 0..60u32 {
            let mut rows = Rows::default();
            rows.insert(number.to_be_bytes(), vec![number as u8; if number % 2 == 0 { 100 } else { 5_000 }]);
            database.commit(rows, false).unwrap();
        }
        let keyspace = database.keyspace();
        keyspace.rotate_memtable_and_wait().unwrap();
        assert_eq!(find_damage(keyspace).unwrap(), None);
        assert_eq!(find_damaged_file(folder.path()), None);

        for kind in [Kind::Table, Kind::Blobs] {
            let files = files(&keyspace.path().join(kind.folder()));
            assert!(!files.is_empty(), "no file of {kind:?}");
            for path in files {
                let (whole, mut missed) = (std::fs::read(&path).unwrap(), 0);
                for flipped in (0..whole.len()).step_by(whole.len() / 97) {
                    let mut bytes = whole.clone();
                    bytes[flipped] ^= 1;
                    std::fs::write(&path, &bytes).unwrap();
                    let found = find_damage(keyspace).unwrap();
                    // A table has two sections of a few bytes that nothing checks.
                    let is_found = found.is_some_and(|damage| damage.path == path);
                    missed += usize::from(!is_found);
                    assert!(is_found || matches!(kind, Kind::Table), "{kind:?} at {flipped}");
                }
                std::fs::write(&path, &whole).unwrap();
                assert!(missed < 10, "{missed} in a file of {kind:?}");
            }
        }
        let blobs = files(&keyspace.path().join(Kind::Blobs.folder())).pop().unwrap();
        let mut bytes = std::fs::read(&blobs).unwrap();
        bytes[BLOB_HEADER_BYTES + 1_000] ^= 1;
        std::fs::write(&blobs, &bytes).unwrap();
        let damage = find_damage(keyspace).unwrap().unwrap();
        assert_eq!((damage.path, damage.offset), (blobs, 0));
        assert_eq!(damage.what, "a large value's checksum is wrong");
        assert_eq!(find_damaged_file(folder.path()).unwrap().what, damage.what);
    }
}
