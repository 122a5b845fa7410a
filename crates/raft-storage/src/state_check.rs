//! Reads the state database's tables through, so that a damaged one is found at the start and not by a client.
//!
//! fjall checks a block when something reads it; a replica could lead for weeks before it notices. A table file is an
//! archive of sections, all of blocks but two; a block is a header with its own checksum and data with another:
//!
//! ```text
//! block  = magic[4] type:u8 data_checksum:u128 data_length:u32 uncompressed_length:u32 header_checksum:u32 data
//! ```
//!
//! Cost: one sequential read of the database; about a second for each gigabyte that the page cache holds.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fjall::{AbstractTree, Keyspace};
use xxhash_rust::xxh3::xxh3_128;

const MAGIC: [u8; 4] = *b"LSM\x03";
const BLOCK_HEADER_BYTES: usize = 33;
/// Sections that are not made of blocks.
const PLAIN_SECTIONS: [&[u8]; 2] = [b"table_version", b"linked_blob_files"];
const TABLES_FOLDER: &str = "tables";
const READ_BYTES: usize = 1 << 20;

/// A place in a table that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DamagedTable {
    pub path: PathBuf,
    pub offset: u64,
    pub what: String,
}

/// The first damaged place in the tables that the keyspace consists of, if there is one. Blocks.
pub(crate) fn find_damage(keyspace: &Keyspace) -> io::Result<Option<DamagedTable>> {
    let folder = keyspace.path().join(TABLES_FOLDER);
    for table in keyspace.tree.current_version().iter_tables() {
        let path = folder.join(table.id().to_string());
        match check_table(&path) {
            // Compacted away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            checked => {
                if let Some(damage) = checked? {
                    return Ok(Some(damage));
                }
            }
        }
    }
    Ok(None)
}

/// Like [`find_damage`], for a database that does not open: every table file below `directory` is looked at.
pub(crate) fn find_damaged_file(directory: &Path) -> Option<DamagedTable> {
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.ends_with(TABLES_FOLDER)
                && let Ok(Some(damage)) = check_table(&path)
            {
                return Some(damage);
            }
        }
    }
    None
}

fn check_table(path: &Path) -> io::Result<Option<DamagedTable>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    let damage = |offset, what: String| Ok(Some(DamagedTable { path: path.to_owned(), offset, what }));
    let archive = match sfa::Reader::from_reader(&mut reader) {
        Ok(archive) => archive,
        Err(sfa::Error::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        Err(error) => return damage(length, format!("its table of contents cannot be read: {error:?}")),
    };
    for section in archive.toc().iter().filter(|section| !PLAIN_SECTIONS.contains(&section.name())) {
        let Some(end) = section.pos().checked_add(section.len()).filter(|end| *end <= length) else {
            return damage(section.pos(), "a section reaches past the end of the file".into());
        };
        let mut offset = section.pos();
        reader.seek(SeekFrom::Start(offset))?;
        while offset < end {
            match check_block(&mut reader, end - offset)? {
                Ok(bytes) => offset += bytes,
                Err(what) => return damage(offset, what.into()),
            }
        }
    }
    Ok(None)
}

/// Bytes of the block that begins here and ends within `room`, or what is wrong with it.
fn check_block(reader: &mut impl Read, room: u64) -> io::Result<Result<u64, &'static str>> {
    let mut header = [0; BLOCK_HEADER_BYTES];
    if room < BLOCK_HEADER_BYTES as u64 {
        return Ok(Err("a section ends inside a block's header"));
    }
    reader.read_exact(&mut header)?;
    let (head, stored) = header.split_at(BLOCK_HEADER_BYTES - 4);
    if head[..4] != MAGIC || (xxh3_128(head) as u32).to_le_bytes() != stored {
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
