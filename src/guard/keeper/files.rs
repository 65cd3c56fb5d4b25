//! Reading and replacing a small file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::forecast::state::MOST_BYTES;

/// The file itself, however it was named: a link is followed, so that it stays one.
pub(super) fn resolve(path: &Path) -> PathBuf {
    if let Ok(resolved) = fs::canonicalize(path) {
        return resolved;
    }
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    match (fs::canonicalize(directory), path.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        // It will be said that there is no such directory.
        _ => path.to_owned(),
    }
}

/// What is in the file; `None` if there is none.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // That nothing can be kept there is said elsewhere; and a pipe would block.
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        other => other?,
    };
    let mut text = Vec::new();
    File::open(path)?
        .take(MOST_BYTES as u64 + 1)
        .read_to_end(&mut text)?;
    if text.len() > MOST_BYTES {
        let message = format!("it is larger than {MOST_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(Some(text))
}

/// Replaces the file as a whole: whoever reads it finds what was, or what is.
///
/// Nothing is synchronised with the disk. A kill of the process does not need it, since the
/// kernel has the bytes; after a crash of the machine the file may be torn, which its
/// last line shows.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let written = write_new(&beside, text).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    // Left by a process of the same number that was killed; or a link to anywhere.
    let _ = fs::remove_file(path);
    create(path, text)
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// A file that was not there, and is not without its text for a moment; where a file cannot have
/// two names it may be.
pub(super) fn create_whole(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let linked = write_new(&beside, text).and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => create(path, text),
        linked => linked,
    }
}

fn beside(path: &Path) -> PathBuf {
    with_suffix(path, &format!(".tmp-{}", std::process::id()))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
