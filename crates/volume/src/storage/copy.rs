//! Copies of files: shared blocks where the file system can (copy on write), else only what is not a hole.

use super::{Files, GIB};
use rustix::fs::{SeekFrom, ioctl_ficlone, seek};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// Bytes copied at once.
const PIECE: usize = 1 << 20;
/// Bytes that are left out when they are zero.
const BLOCK: usize = 4096;

/// Copies a file to a place, with this size in the end. Nobody may write the file meanwhile.
pub fn copy(files: &Files, from: &Path, place: &Path, bytes: u64) -> io::Result<()> {
    let mut source = File::open(from)?;
    let staged = files.staging();
    let mut target = staged.create()?;
    // Refused by most file systems; then the data are copied.
    if ioctl_ficlone(&target, &source).is_err() {
        target.set_len(0)?;
        copy_data(&mut source, &mut target)?;
    }
    drop(target);
    staged.finish(place, bytes)
}

/// Copies only the data of a file, also where blocks could be shared: zeros that have blocks of their own lose them.
pub fn compact(files: &Files, from: &Path, place: &Path, bytes: u64) -> io::Result<()> {
    let mut source = File::open(from)?;
    let staged = files.staging();
    let mut target = staged.create()?;
    copy_data(&mut source, &mut target)?;
    drop(target);
    staged.finish(place, bytes)
}

fn copy_data(source: &mut File, target: &mut File) -> io::Result<()> {
    let length = source.metadata()?.len();
    let mut at = 0;
    let mut piece = vec![0; PIECE];
    while at < length {
        let data = match seek(&*source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = seek(&*source, SeekFrom::Hole(data))?;
        source.seek(io::SeekFrom::Start(data))?;
        let mut rest = hole - data;
        at = data;
        while rest > 0 {
            let want = usize::try_from(rest.min(PIECE as u64)).unwrap_or(PIECE);
            source.read_exact(&mut piece[..want])?;
            write_sparse(target, at, &piece[..want])?;
            at += want as u64;
            rest -= want as u64;
        }
    }
    Ok(())
}

/// Writes data at a place, without its zero blocks: the file there must be a hole.
pub fn write_sparse(target: &mut File, at: u64, data: &[u8]) -> io::Result<()> {
    let mut place = at;
    for block in data.chunks(BLOCK) {
        if block.iter().any(|byte| *byte != 0) {
            target.seek(io::SeekFrom::Start(place))?;
            target.write_all(block)?;
        }
        place += block.len() as u64;
    }
    Ok(())
}

/// The GiB that so many bytes need.
pub fn gib(bytes: u64) -> u64 {
    bytes.div_ceil(GIB)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    #[test]
    fn a_copy_is_the_same_and_as_sparse() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path()).unwrap();
        let (from, to) = (files.volume("a"), files.volume("b"));
        super::super::blank(&files, &from, 8 << 20).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&from).unwrap();
        file.write_all_at(b"begin", 0).unwrap();
        file.write_all_at(&[7; 5000], (3 << 20) + 123).unwrap();
        copy(&files, &from, &to, 16 << 20).unwrap();
        let (old, new) = (fs::read(&from).unwrap(), fs::read(&to).unwrap());
        assert_eq!(new.len(), 16 << 20);
        assert!(new[..old.len()] == old[..] && new[old.len()..].iter().all(|byte| *byte == 0));
        assert!(fs::metadata(&to).unwrap().blocks() < 200);
        assert_eq!(gib(1), 1);
        assert_eq!(gib(GIB), 1);
        assert_eq!(gib(GIB + 1), 2);
        assert_eq!(
            fs::read_dir(folder.path().join("staging")).unwrap().count(),
            0
        );
    }
}
