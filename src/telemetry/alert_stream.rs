//! An alert log that is no file: a pipe, a terminal or another device, such as the `/dev/stdout` of
//! a container.
//!
//! It is written and never read, locked or rotated. Writing never waits for a reader: a line that
//! can't be written within [`PATIENCE`] is an error.

use std::fs::{File, FileType, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a full pipe may take to be read.
const PATIENCE: Duration = Duration::from_secs(1);
/// The wait before another try.
const WAIT: Duration = Duration::from_millis(10);

/// Whether a path names something that can only be written. What doesn't exist will be a file.
///
/// # Errors
/// When it is nothing that alerts can be written to.
pub(super) fn is_stream(path: &Path) -> Result<bool> {
    let kind = match std::fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };

    // A file behind a name of the system's, such as a redirected `/dev/stdout`, is not ours to rename.
    let is_system = ["/dev", "/proc"].iter().any(|folder| path.starts_with(folder));
    match refusal(kind) {
        Some(what) => Err(Error::new(ErrorKind::InvalidInput, what)),
        None => Ok(kind.is_fifo() || kind.is_char_device() || is_system),
    }
}

/// What is neither a file nor a stream.
fn refusal(kind: FileType) -> Option<&'static str> {
    if kind.is_dir() {
        Some("it is a directory")
    } else if kind.is_socket() {
        Some("it is a socket, which can't be opened")
    } else if kind.is_block_device() {
        Some("it is a disk")
    } else {
        None
    }
}

/// Tries whether it can be written. A pipe may get its reader later.
///
/// # Errors
/// When it can't be.
pub(super) fn try_open(path: &Path) -> Result<()> {
    match open(path) {
        Err(error) if is_unread(&error) => Ok(()),
        opened => opened.map(drop),
    }
}

/// Writes lines, each of them whole.
///
/// # Errors
/// When nobody reads them in time.
pub(super) fn write(path: &Path, lines: &str) -> Result<()> {
    let unread = || Error::new(ErrorKind::TimedOut, "nobody reads it");
    let opened = open(path).map_err(|error| if is_unread(&error) { unread() } else { error });
    let (mut stream, until) = (opened?, Instant::now() + PATIENCE);

    // A pipe takes a line of up to 4 KiB whole or not at all. All lines have one deadline.
    for line in lines.split_inclusive('\n') {
        let mut rest = line.as_bytes();
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                    std::thread::sleep(WAIT);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(unread());
                }
                Err(error) => return Err(error),
            }
        }
    }

    Ok(())
}

/// Opens it without waiting for a reader.
fn open(path: &Path) -> Result<File> {
    OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

fn is_unread(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ENXIO)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn fifo(folder: &Path) -> std::path::PathBuf {
        let path = folder.join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        path
    }

    #[test]
    fn what_alerts_can_be_written_to_is_known_without_opening_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, fifo) = (folder.path().join("file"), fifo(folder.path()));
        assert!(!is_stream(&file).expect("what stands there can be told"), "it will be a file");
        std::fs::write(&file, "").expect("the file is written");
        assert!(!is_stream(&file).expect("what stands there can be told"));
        assert!(is_stream(&fifo).expect("what stands there can be told"));
        assert!(is_stream(Path::new("/dev/zero")).expect("what stands there can be told"));

        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let around = folder.path().join("around");
        std::os::unix::fs::symlink(&around, &around).expect("a link");
        for path in [folder.path(), &socket, &around] {
            assert!(is_stream(path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn a_pipe_gets_whole_lines_and_one_that_nobody_reads_delays_nobody_for_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = fifo(folder.path());
        try_open(&path).expect("it is opened");
        assert_eq!(write(&path, "lost\n").unwrap_err().kind(), ErrorKind::TimedOut);

        // A reader that does not wait for a writer.
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .expect("a reader");
        write(&path, "one\ntwo\n").expect("the lines are written");
        let mut read = [0; 64];
        let bytes = reader.read(&mut read).expect("the lines are read");
        assert_eq!(&read[..bytes], b"one\ntwo\n");

        let line = format!("{}\n", "x".repeat(1000));
        let refused = write(&path, &line.repeat(100)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
    }
}
