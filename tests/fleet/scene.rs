//! A fleet for one test: outboxes in databases of their own, and a file with a table for each.

use std::fmt::Write as _;
use std::ops::Range;

use crate::support::{NatsServer, Relay, Scene, outboxd_with};

/// Outboxes on one stream, that of the first.
pub(crate) struct Fleet {
    pub(crate) scenes: Vec<Scene>,
}

impl Fleet {
    /// So many outboxes, migrated.
    pub(crate) async fn migrated(outboxes: usize) -> Self {
        let mut scenes = vec![Scene::new().await];
        while scenes.len() < outboxes {
            scenes.push(scenes[0].beside().await);
        }

        let fleet = Self { scenes };
        let (code, said) = fleet.outboxd("migrate", &[]);
        assert_eq!(code, Some(0), "{said}");
        fleet
    }

    /// So many outboxes, migrated, each with a stream of its own on this server.
    pub(crate) async fn on(nats: &NatsServer, outboxes: usize) -> Self {
        let mut scenes = Vec::with_capacity(outboxes);
        while scenes.len() < outboxes {
            scenes.push(Scene::on(nats).await);
        }

        let fleet = Self { scenes };
        let (code, said) = fleet.outboxd("migrate", &[]);
        assert_eq!(code, Some(0), "{said}");
        fleet
    }

    /// One more, not migrated.
    pub(crate) async fn with_bare(mut self) -> Self {
        self.scenes.push(self.scenes[0].beside().await);
        self
    }

    /// Whose stream takes the events, all by subjects that begin with its name.
    pub(crate) fn first(&self) -> &Scene {
        &self.scenes[0]
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.scenes.iter().map(|scene| format!("{}.outbox", scene.name)).collect()
    }

    /// The tables of these outboxes, each with the user that the verb needs.
    pub(crate) fn tables(&self, verb: &str, which: Range<usize>) -> String {
        let mut text = String::new();
        for scene in &self.scenes[which] {
            let env = scene.env_of(verb);
            let (_, uri) = env.iter().find(|(name, _)| name == "MONGODB_URI").expect("a URI");
            let Scene { name, stream, subjects, .. } = scene;
            let table = writeln!(
                text,
                "[[outbox]]\ndatabase = {name:?}\nmongodb.uri = {uri:?}\n\
                 stream = {stream:?}\nsubjects = [{subjects:?}]"
            );
            table.expect("a text grows");
        }
        text
    }

    /// A file with these tables, and more.
    pub(crate) fn file(&self, verb: &str, which: Range<usize>, more: &str) -> String {
        let path = self.first().folder.path().join(format!("{verb}.toml"));
        std::fs::write(&path, self.tables(verb, which) + more).expect("the file is written");
        path.display().to_string()
    }

    /// A daemon for all of them.
    pub(crate) fn run(&self, more: &str) -> Relay {
        self.run_with(&self.file("run", 0..self.scenes.len(), more))
    }

    /// A daemon with this file.
    pub(crate) fn run_with(&self, file: &str) -> Relay {
        Relay::start(self.first(), &[("OUTBOXD_CONFIG", file)])
    }

    /// Runs a verb on all of them to its end.
    pub(crate) fn outboxd(&self, verb: &str, args: &[&str]) -> (Option<i32>, String) {
        let file = self.file(verb, 0..self.scenes.len(), "");
        outboxd_with(self.first(), &[&[verb], args].concat(), &[("OUTBOXD_CONFIG", &file)])
    }

    pub(crate) async fn drained(&self) {
        for scene in &self.scenes {
            scene.drained().await;
        }
    }
}
