//! `[stream]`: the JetStream stream that takes the events.

use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::setting::{Given, millis, secs, to_usize};

/// `[stream]`
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Name of the stream. Every publish names it as the stream it expects.
    pub name: String,
    /// Subjects it is created with. If they are set, an existing stream must cover them.
    pub subjects: Given<Vec<String>>,
    /// How long the stream remembers message ids.
    pub duplicate_window: Duration,
    /// Copies of each message (1 to 5).
    pub replicas: usize,
    /// How long the stream keeps messages. Zero keeps them for ever.
    pub max_age: Duration,
}

impl StreamConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>) -> Self {
        let stream = Self {
            name: name(reader),
            subjects: reader
                .setting(
                    "subjects",
                    "Subjects that `outboxd migrate` creates the stream with. If they are set, an \
                     existing stream must cover them. The default covers every subject of one \
                     token, such as `ticket:created`, so that three environment variables are \
                     enough to start. Set your own as soon as two streams share an account.",
                )
                .given_or(vec!["*".to_owned()]),
            duplicate_window: reader
                .setting(
                    "duplicate_window",
                    "How long the stream remembers message ids. Within this time the stream \
                     doesn't store a repeated publish again. The server's own default of two \
                     minutes is shorter than many an outage. Every remembered id costs about 100 \
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
                .setting("max_age", "How long the stream keeps messages. 0s keeps them for ever.")
                .or(Duration::ZERO),
        };

        if stream.subjects.get().is_empty() {
            reader.mistake("subjects", "is empty; give at least one subject");
        }

        if !stream.max_age.is_zero() && stream.max_age < stream.duplicate_window {
            reader.mistake(
                "max_age",
                "is shorter than stream.duplicate_window; the server rejects that",
            );
        }

        stream
    }
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
        .variables(&["NATS_CLUSTER_ID"])
        .example("\"SHOP\"")
        .required("give the JetStream stream, or NATS_CLUSTER_ID")
        .read()
        .unwrap_or_default();

    let is_wrong = |c: char| !c.is_ascii_graphic() || "*>./\\".contains(c);
    if name.len() > MAX_NAME || name.contains(is_wrong) {
        reader.mistake("name", "a stream's name has no spaces and none of `* > . / \\`");
    }

    name
}
