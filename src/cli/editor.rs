//! The fields of an event in an editor, as JSON, until what is written there is right.

use std::fs::{OpenOptions, remove_file};
use std::io::{BufRead, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bson::oid::ObjectId;
use bson::{Bson, Document};

use super::output::print;
use crate::config::Sources;
use crate::document::json;
use crate::error::{Error, ErrorKind, Result};
use crate::printable::printable;

/// The editor of whoever has named none.
const FALLBACK: &str = "vi";

/// An editor, as the environment names it.
pub(super) struct Editor {
    command: String,
}

/// A file that is there for as long as the editor needs it: an event may hold confidential data.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_file(&self.0) {
            eprintln!("outboxd: remove {} yourself: {error}", self.0.display());
        }
    }
}

impl Editor {
    /// `$VISUAL` or `$EDITOR`.
    ///
    /// # Errors
    /// When neither is set and nobody sits at a terminal.
    pub(super) fn of(sources: &Sources) -> Result<Self> {
        let env = |wanted: &str| {
            let found = sources.env.iter().find(|(name, text)| name == wanted && !text.is_empty());
            found.map(|(_, text)| text.clone())
        };
        let fallback = std::io::stdin().is_terminal().then(|| FALLBACK.to_owned());
        let command = env("VISUAL").or_else(|| env("EDITOR")).or(fallback);
        let command = command.ok_or_else(|| {
            Error::new(ErrorKind::Usage, "set EDITOR, or give the change as --set subject=…")
        })?;
        Ok(Self { command })
    }

    /// Opens the fields and returns what `check` makes of what was written.
    ///
    /// # Errors
    /// When the editor fails, or the person gives up on a mistake that `check` has found.
    pub(super) fn edit<T>(
        &self,
        fields: &Document,
        check: impl Fn(&Document) -> Result<T, String>,
    ) -> Result<T> {
        let file = scratch(&json::for_people(&Bson::Document(fields.clone())))?;

        loop {
            self.open(&file.0)?;
            let written = std::fs::read_to_string(&file.0).map_err(cannot)?;
            let checked = read(&written, fields).and_then(|new| check(&new));
            let mistake = match checked {
                Ok(checked) => return Ok(checked),
                Err(mistake) => printable(&mistake),
            };

            if !std::io::stdin().is_terminal() || !ask(&mistake)? {
                let message =
                    format!("the event would break the contract: {mistake}; nothing is done");
                return Err(Error::new(ErrorKind::Usage, message));
            }
        }
    }

    /// The command may have arguments, as in `code --wait`.
    fn open(&self, path: &Path) -> Result<()> {
        let script = format!("{} \"$1\"", self.command);
        let status = Command::new("sh").args(["-c", &script, "outboxd"]).arg(path).status();
        match status.map_err(cannot)?.success() {
            true => Ok(()),
            false => {
                let message = format!("`{}` failed; nothing is done", self.command);
                Err(Error::new(ErrorKind::Interrupted, message))
            }
        }
    }
}

fn scratch(text: &str) -> Result<Scratch> {
    let path = std::env::temp_dir().join(format!("outboxd-{}.json", ObjectId::new()));
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    let (mut file, scratch) = (file.map_err(cannot)?, Scratch(path));
    writeln!(file, "{text}").map_err(cannot)?;
    Ok(scratch)
}

/// The fields in what was written. Fields that an event does not publish are none of them.
fn read(written: &str, old: &Document) -> Result<Document, String> {
    let new = match json::read(written) {
        Ok(Bson::Document(new)) => new,
        Ok(_) => return Err("it is not a JSON object".to_owned()),
        Err(error) => return Err(format!("it is not valid JSON: {error}")),
    };
    match new.keys().find(|name| !is_editable(name, old)) {
        Some(name) => Err(format!("`{name}` can't be edited")),
        None => Ok(new),
    }
}

fn is_editable(name: &str, old: &Document) -> bool {
    use outboxd_client::field::{HEADERS, KEY, PAYLOAD, SUBJECT};
    old.contains_key(name) || [SUBJECT, KEY, HEADERS, PAYLOAD].contains(&name)
}

fn ask(mistake: &str) -> Result<bool> {
    print(&format!("the event would break the contract: {mistake}\nedit it again? [Y/n] "))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(cannot)?;
    Ok(!["n", "no"].contains(&answer.trim().to_lowercase().as_str()))
}

fn cannot(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Os, "the event can't be edited", error)
}
