//! Reads a table for itself: what it has is told apart from what the rest of the configuration has.

use super::{Read, Reader};
use crate::config::named_file::NamedFile;

/// The settings of one table, by their names in the table, and the files that they name.
#[derive(Debug, Default)]
pub(in crate::config) struct Apart {
    pub(in crate::config) settings: Vec<Read>,
    pub(in crate::config) files: Vec<NamedFile>,
}

impl Reader<'_> {
    /// How many tables `[[name]]` there are.
    pub(in crate::config) fn count(&self, name: &str) -> usize {
        self.values.tables(&format!("{}{name}", self.at))
    }

    /// Reads this table, and returns what it has.
    pub(in crate::config) fn apart<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> (T, Apart) {
        let begin = self.reading.settings.len();
        let others = std::mem::take(&mut self.reading.files);
        let done = read(self);

        let files = std::mem::replace(&mut self.reading.files, others);
        for file in &files {
            if !self.reading.files.contains(file) {
                self.reading.files.push(file.clone());
            }
        }

        let in_table = |read: &Read| {
            let mut read = read.clone();
            read.is_own =
                read.found.as_ref().is_some_and(|origin| origin.key.starts_with(&self.at));
            read.info.key = read.info.key[self.at.len()..].to_owned();
            read
        };
        let settings = self.reading.settings[begin..].iter().map(in_table).collect();
        (done, Apart { settings, files })
    }

    /// Reads this table without the setting of this name, which is still to be found.
    pub(in crate::config) fn lacking<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Reader<'_>) -> T,
    ) -> T {
        let before = self.reading.missing.len();
        let done = read(self);

        let line = format!("{name}: ");
        let lines = self.reading.missing.split_off(before);
        let others = lines.into_iter().filter(|missing| !missing.starts_with(&line));
        self.reading.missing.extend(others);
        done
    }

    /// Reads this table only to know what it may hold. Each table of a list that takes its values
    /// from there reports what is wrong with them.
    pub(in crate::config) fn known<T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let before = [
            self.reading.mistakes.len(),
            self.reading.warnings.len(),
            self.reading.missing.len(),
            self.reading.files.len(),
        ];
        let done = read(self);

        let [mistakes, warnings, missing, files] = before;
        self.reading.mistakes.truncate(mistakes);
        self.reading.warnings.truncate(warnings);
        self.reading.missing.truncate(missing);
        self.reading.files.truncate(files);
        done
    }
}
