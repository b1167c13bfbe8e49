//! `[stream]`: the JetStream stream that takes the events.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::setting::{millis, secs, to_usize};

/// `[stream]`
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Name of the stream. Every publish names it as the stream it expects.
    pub name: String,
    /// Subjects it is created with, and those that an existing stream should cover. Empty if they
    /// are not set.
    pub subjects: Vec<String>,
    /// How long the stream remembers message ids.
    pub duplicate_window: Duration,
    /// Copies of each message (1 to 5).
    pub replicas: usize,
    /// How long the stream keeps messages. Zero keeps them for ever.
    pub max_age: Duration,
    /// Most bytes it is created with; `None` for no limit.
    pub max_bytes: Option<u64>,
    /// Where it is created to keep messages.
    pub storage: Storage,
    /// How it is created to store them.
    pub compression: Compression,
    /// The cluster it is created in; `None` for that of the server.
    pub placement_cluster: Option<String>,
    /// Tags of the servers it is created on.
    pub placement_tags: Vec<String>,
}

/// `stream.storage`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory: a restart of its servers loses it.
    Memory,
}

/// `stream.compression`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As they are.
    None,
    /// Compressed with S2.
    S2,
}

impl StreamConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let stream = Self {
            name: name(reader),
            subjects: subjects(reader),
            duplicate_window: reader
                .setting(
                    "duplicate_window",
                    "How long the stream remembers message ids. Within this time the stream \
                     doesn't store a repeated publish again. The server's own default of two \
                     minutes is shorter than many outages. Every remembered id costs about 100 \
                     bytes of the server's memory.",
                )
                .within(secs(30 * 60), millis(100)..=secs(86_400)),
            replicas: to_usize(
                reader
                    .setting(
                        "replicas",
                        "Copies of each message. The default works on a single server; with 3 \
                         copies the stream survives the loss of a server.",
                    )
                    .within(1, 1..=5),
            ),
            max_age: reader
                .setting("max_age", "How long the stream keeps messages. 0s keeps them without a time limit.")
                .or(Duration::ZERO),
            max_bytes: max_bytes(reader),
            storage: reader
                .setting(
                    "storage",
                    "Where the stream keeps messages. \"memory\" is for accounts without storage on \
                     disk: a restart of its servers loses the stream and its events.",
                )
                .one_of(&[("file", Storage::File), ("memory", Storage::Memory)]),
            compression: reader
                .setting(
                    "compression",
                    "How the stream stores messages. \"s2\" takes less of the disk and more of the \
                     server's processor.",
                )
                .one_of(&[("none", Compression::None), ("s2", Compression::S2)]),
            placement_cluster: reader
                .setting(
                    "placement_cluster",
                    "Name of the cluster of servers that `outboxd migrate` creates the stream in. \
                     Without it, JetStream uses the cluster that outboxd connects to.",
                )
                .example("\"eu-west\"")
                .read(),
            placement_tags: reader
                .setting(
                    "placement_tags",
                    "Tags that a server must have to get a copy of the stream, such as `ssd`.",
                )
                .or(Vec::new()),
        };

        if !stream.max_age.is_zero() && stream.max_age < stream.duplicate_window {
            reader.mistake(
                "max_age",
                "is shorter than stream.duplicate_window; the server rejects that",
            );
        }

        stream
    }
}

fn subjects(reader: &mut Reader<'_>) -> Vec<String> {
    let subjects: Option<Vec<String>> = reader
        .setting(
            "subjects",
            "Subjects of the events. `outboxd migrate` creates the stream with them and needs them \
             for that; `outboxd privileges` permits them; `outboxd check` compares an existing \
             stream with them. There is no default, because a stream takes everything that anybody \
             in the account publishes to its subjects, and answers their requests.",
        )
        .example("[\"ticket.created\", \"ticket.updated\"]")
        .read();

    for subject in subjects.iter().flatten().filter(|subject| !is_subject(subject)) {
        let reason = format!(
            "{subject:?} is no subject: tokens between dots, without spaces, `*` for one token, \
             `>` for all that follow"
        );
        reader.mistake("subjects", reason);
    }
    if subjects.as_ref().is_some_and(Vec::is_empty) {
        reader.mistake("subjects", "is empty; give at least one subject");
    }

    subjects.unwrap_or_default()
}

/// Whether a stream can take it, as far as the words go.
fn is_subject(subject: &str) -> bool {
    let mut tokens = subject.split('.').peekable();
    while let Some(token) = tokens.next() {
        let is_wrong = token.is_empty() || token.contains(|c: char| c.is_whitespace());
        if is_wrong || token == ">" && tokens.peek().is_some() {
            return false;
        }
    }

    true
}

fn max_bytes(reader: &mut Reader<'_>) -> Option<u64> {
    /// More than any disk has.
    const MOST: u64 = 1 << 50;

    let bytes = reader
        .setting(
            "max_bytes",
            "Most bytes that the stream may have; 0 for no limit. Some accounts require one. A \
             stream that `outboxd migrate` created deletes nothing when it is full: it refuses \
             events, which wait in the outbox.",
        )
        .within(0, 0..=MOST);

    (bytes > 0).then_some(bytes)
}

fn name(reader: &mut Reader<'_>) -> String {
    /// The longest name that the server accepts.
    const MAX_NAME: usize = 255;

    let name: String = reader
        .setting(
            "name",
            "Name of the JetStream stream. Each publish names it, so an event never lands in \
             another stream.",
        )
        .variables(&["NATS_CLUSTER_ID", "NATS_STREAM"])
        .example("\"SHOP\"")
        .required("give the JetStream stream, or NATS_CLUSTER_ID or NATS_STREAM")
        .read()
        .unwrap_or_default();

    let is_wrong = |c: char| !c.is_ascii_graphic() || "*>./\\".contains(c);
    if name.len() > MAX_NAME || name.contains(is_wrong) {
        reader.mistake("name", "a stream's name has no spaces and none of `* > . / \\`");
    }

    name
}

#[cfg(test)]
mod tests {
    use super::is_subject;

    #[test]
    fn what_a_stream_can_take() {
        for subject in ["ticket.created", "ticket:created", "a.*.c", "a.>", ">", "*", "a>"] {
            assert!(is_subject(subject), "{subject}");
        }
        for subject in ["", "a b", "a..b", ".a", "a.", "a.>.b", "a\tb"] {
            assert!(!is_subject(subject), "{subject}");
        }
    }
}
