//! The file of alerts: JSON lines, rotated by size.
//!
//! Several outboxes and several relays may share a file. A writer locks the file, appends whole
//! lines and unlocks it, so lines never mix. A file of 10 MiB is renamed to `<file>.1`, over the
//! one before; the other writers notice, because each batch opens the path again.
//!
//! A path that names a pipe or a device is only written; see `alert_stream`.

use std::borrow::Cow;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, ErrorKind, Read, Result, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tracing::{debug, info, warn};

use super::alert_stream;

/// Size from which the file is rotated.
const MAX_BYTES: u64 = 10 << 20;
/// Times a writer opens a file that other writers rotate under it. They rotate once per
/// [`MAX_BYTES`], so the second time nearly always succeeds.
const OPENINGS: usize = 4;
/// How long a writer waits for the lock. Another writer has it for the time of one batch.
const LOCK_TIME: Duration = Duration::from_secs(1);
/// The wait between two tries.
const LOCK_WAIT: Duration = Duration::from_millis(5);

/// The path of an alert log that can be written.
#[derive(Debug)]
pub(super) struct AlertFile {
    path: PathBuf,
    max_bytes: u64,
}

impl AlertFile {
    /// Creates the file if it does not exist.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = Self { path: path.to_owned(), max_bytes: MAX_BYTES };
        match alert_stream::is_stream(path)? {
            true => alert_stream::try_open(path)?,
            false => drop(file.locked()?),
        }
        Ok(file)
    }

    /// Appends whole lines; rotates the file first when it is full.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn append(&self, lines: &str) -> Result<()> {
        if alert_stream::is_stream(&self.path)? {
            return alert_stream::write(&self.path, lines);
        }

        let mut file = self.locked()?;

        if file.metadata()?.len() >= self.max_bytes {
            let shown = self.path.display();
            match std::fs::rename(&self.path, older(&self.path)) {
                Ok(()) => {
                    file = self.locked()?;
                    info!(file = %shown, "rotated the alert log");
                }
                // A file that is a mount of its own cannot be renamed; it keeps growing.
                Err(error) => warn!(%error, file = %shown, "cannot rotate the alert log"),
            }
        }

        end_last_line(&mut file)?;
        file.write_all(lines.as_bytes())
    }

    /// The file, locked against other writers until it is dropped.
    fn locked(&self) -> Result<File> {
        let mut openings = 0;
        loop {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .read(true)
                // Should it be a pipe by now.
                .custom_flags(libc::O_NONBLOCK)
                .open(&self.path)?;
            // Without locks lines still don't mix; only two rotations at once can lose lines.
            if let Err(error) = lock(&file) {
                debug!(%error, file = %self.path.display(), "cannot lock the alert log");
            }

            openings += 1;
            if openings == OPENINGS || self.is(&file)? {
                return Ok(file);
            }
        }
    }

    /// Whether the path still names this file: another writer may have rotated it.
    fn is(&self, file: &File) -> Result<bool> {
        let ours = file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Locks a file. Waits for another writer, but not for a program that keeps the lock.
fn lock(file: &File) -> std::result::Result<(), TryLockError> {
    let until = Instant::now() + LOCK_TIME;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_WAIT)
            }
            locked => return locked,
        }
    }
}

/// Ends a line that a crash cut off, so that it does not spoil the next one.
fn end_last_line(file: &mut File) -> Result<()> {
    if file.metadata()?.len() == 0 {
        return Ok(());
    }

    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;

    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

/// Where the file goes when it is full.
fn older(path: &Path) -> PathBuf {
    let mut older = path.to_owned().into_os_string();
    older.push(".1");
    older.into()
}

/// The newest of these kinds in the lines about an outbox.
///
/// # Errors
/// When a file exists and cannot be read.
pub(super) fn newest_kind(
    path: &Path,
    outbox: &str,
    kinds: &[&'static str],
) -> Result<Option<&'static str>> {
    #[derive(Deserialize)]
    struct Known<'a> {
        #[serde(borrow)]
        outbox: Cow<'a, str>,
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }

    let (older, mut newest) = (older(path), None);
    for path in [older.as_path(), path] {
        // A pipe or a device may have no end.
        if alert_stream::is_stream(path)? {
            continue;
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };

        // A file that could not be rotated may have grown.
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(bytes.saturating_sub(MAX_BYTES)))?;

        for line in BufReader::new(file.take(bytes.min(MAX_BYTES))).split(b'\n') {
            // Lines that a crash cut off, or that another program wrote, are skipped.
            let line = line?;
            let Ok(known) = serde_json::from_slice::<Known<'_>>(&line) else { continue };
            if known.outbox == outbox {
                newest = kinds.iter().copied().find(|kind| known.kind == *kind).or(newest);
            }
        }
    }

    Ok(newest)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const KINDS: [&str; 2] = ["stuck", "recovered"];

    fn line(outbox: &str, kind: &str) -> String {
        json!({ "outbox": outbox, "kind": kind }).to_string() + "\n"
    }

    #[test]
    fn the_file_is_rotated_and_remembers_the_newest_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("alerts.jsonl");
        let newest = |outbox| newest_kind(&path, outbox, &KINDS).expect("the file is read");

        assert_eq!(newest("shop.outbox"), None);

        let mut file = AlertFile::open(&path).expect("the file is opened");
        let stuck = line("shop.outbox", "stuck");
        file.append(&stuck).expect("the line is written");
        file.append(&line("shop.outbox", "dead")).expect("the line is written");
        file.append("{cut off").expect("the line is written");
        assert_eq!(newest("shop.outbox"), Some("stuck"));
        assert_eq!(newest("other.outbox"), None, "another outbox's line is not this one's");

        file.max_bytes = 10;
        let recovered = line("shop.outbox", "recovered");
        file.append(&recovered).expect("the line is written");
        assert_eq!(std::fs::read_to_string(&path).expect("the file is read"), recovered);
        assert!(
            std::fs::read_to_string(older(&path)).expect("the file is read").starts_with(&stuck)
        );
        assert_eq!(newest("shop.outbox"), Some("recovered"));
    }

    #[test]
    fn a_line_that_a_crash_cut_off_does_not_spoil_the_next() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("alerts.jsonl");
        std::fs::write(&path, "{\"outbox\":\"sh").expect("the file is written");
        AlertFile::open(&path)
            .expect("the file is opened")
            .append(&line("shop.outbox", "stuck"))
            .expect("the line is written");
        assert_eq!(
            newest_kind(&path, "shop.outbox", &KINDS).expect("the file is read"),
            Some("stuck")
        );
    }

    #[test]
    fn two_outboxes_share_a_file_and_its_rotation() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("alerts.jsonl");
        // Each half of the lines fits, so one rotation must keep all of them.
        let (lines, bytes) = (200, line("shop.outbox", "stuck").len() as u64);

        std::thread::scope(|scope| {
            for outbox in ["shop.outbox", "bank.outbox"] {
                let file = AlertFile { path: path.clone(), max_bytes: lines * bytes };
                scope.spawn(move || {
                    (0..lines).for_each(|_| {
                        file.append(&line(outbox, "stuck")).expect("the line is written")
                    });
                });
            }
        });

        let written = [older(&path), path]
            .map(|path| std::fs::read_to_string(path).expect("the file is read"));
        let kept: Vec<Value> = written
            .iter()
            .flat_map(|text| text.lines())
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();

        for outbox in ["shop.outbox", "bank.outbox"] {
            let of = kept.iter().filter(|line| line["outbox"] == outbox).count();
            assert_eq!(of as u64, lines, "{outbox}");
        }
    }
}
