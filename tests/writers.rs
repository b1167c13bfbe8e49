//! Services in other languages: the programs of `docs/writers` write, the relay publishes, and they
//! read what it sent.
//!
//! Their package managers prepare them in `writers/` of the cache, again only once something has
//! changed. A language that this machine lacks is skipped.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use bson::{Bson, Document, doc, oid::ObjectId};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{ALONE, NatsServer, Relay, Scene, until};

const SOURCES: &str = "docs/writers";
/// What people who tried the programs left in their folders.
const NOT_SOURCES: [&str; 4] = ["bin", "node_modules", "target", "venv"];
/// For packages that have to be fetched and compiled.
const PREPARING: Duration = Duration::from_secs(600);
/// For a JVM on a busy machine. The readers give up after 30 s.
const RUNNING: Duration = Duration::from_secs(90);

/// A server has one such fail point, whoever sets it.
static FAIL_POINT: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) type Line = &'static [&'static str];

pub(crate) struct Language {
    /// In `docs/writers`.
    folder: &'static str,
    /// What tells the version of each tool, and fails when it isn't good enough.
    tools: &'static [Line],
    prepare: &'static [Line],
    write: Line,
    read: Line,
}

pub(crate) const NODE: Language = Language {
    folder: "node",
    tools: &[
        &[
            "node",
            "-p",
            "const [a, b] = process.versions.node.split('.'); if (a * 100 + +b < 2019) throw a; process.version",
        ],
        &["npm", "--version"],
    ],
    prepare: &[&["npm", "ci", "--no-audit", "--no-fund"]],
    write: &["node", "write.js"],
    read: &["node", "read.js"],
};

const MONGOOSE: Language = Language { write: &["node", "write-mongoose.js"], ..NODE };

const PYTHON: Language = Language {
    folder: "python",
    tools: &[&[
        "python3",
        "-c",
        "import ensurepip, sys, venv; print(sys.version); assert sys.version_info >= (3, 11)",
    ]],
    prepare: &[
        &["python3", "-m", "venv", "venv"],
        &["venv/bin/pip", "install", "--quiet", "--requirement", "requirements.txt"],
    ],
    write: &["venv/bin/python", "write.py"],
    read: &["venv/bin/python", "read.py"],
};

const GO: Language = Language {
    folder: "go",
    tools: &[&["go", "version"]],
    prepare: &[&["go", "build", "-o", "bin/", "./..."]],
    write: &["bin/write"],
    read: &["bin/read"],
};

const JAVA: Language = Language {
    folder: "java",
    tools: &[&["javac", "--version"], &["mvn", "--version"]],
    prepare: &[&["mvn", "--quiet", "--batch-mode", "package"]],
    write: &["java", "-cp", "target/classes:target/lib/*", "Write"],
    read: &["java", "-cp", "target/classes:target/lib/*", "Read"],
};

#[tokio::test]
async fn node_writes_what_the_relay_publishes() {
    orders_are_placed_in(&NODE).await;
}

#[tokio::test]
async fn mongoose_writes_what_the_relay_publishes() {
    orders_are_placed_in(&MONGOOSE).await;
}

#[tokio::test]
async fn python_writes_what_the_relay_publishes() {
    orders_are_placed_in(&PYTHON).await;
}

#[tokio::test]
async fn go_writes_what_the_relay_publishes() {
    orders_are_placed_in(&GO).await;
}

#[tokio::test]
async fn java_writes_what_the_relay_publishes() {
    orders_are_placed_in(&JAVA).await;
}

/// Read by the SDK of CloudEvents.
const CLOUDEVENTS: Language =
    Language { read: &["venv/bin/python", "read_cloudevent.py"], ..PYTHON };

#[tokio::test]
async fn an_sdk_of_cloudevents_reads_what_the_relay_publishes() {
    let language: &'static Language = &CLOUDEVENTS;
    let Some(program) = language.prepared().await else { return };
    let nats = NatsServer::taking("order.placed").await;
    let scene = Scene::alone(&nats).await;
    let settings = [
        ("OUTBOXD_EVENT__CLOUDEVENTS", "binary"),
        ("OUTBOXD_EVENT__CLOUDEVENTS_SOURCE", "/shop/orders"),
    ];
    let _relay = Relay::leading(&scene, &settings).await;
    let id = program.write(&scene, "1042").await.unwrap();
    let mut read = program.read(&scene, &id).await;
    let time =
        read["attributes"].as_object_mut().expect("attributes").remove("time").expect("a time");
    assert!(
        time.as_str().is_some_and(|time| time.starts_with("20") && time.ends_with("+00:00")),
        "{time}"
    );
    let told = json!({
        "attributes": {
            "specversion": "1.0", "id": id, "source": "/shop/orders", "type": "order.placed", "subject": "1042",
            "datacontenttype": "application/json",
        },
        "data": { "id": "1042", "total": 25, "version": 0 },
    });
    assert_eq!(read, told);
}

#[tokio::test]
async fn a_consumer_that_keeps_the_message_ids_acts_once() {
    let language: &'static Language = &NODE;
    let Some(program) = language.prepared().await else { return };
    let nats = NatsServer::taking("order.placed").await;
    let scene = Scene::alone(&nats).await;
    let _relay = Relay::leading(&scene, &[]).await;
    program.write(&scene, "1042").await.unwrap();
    scene.drained().await;
    let stream = scene.context.get_stream(&scene.stream).await.unwrap();
    // One that is made anew gets everything again.
    for _ in 0..2 {
        let shipping =
            pull::Config { durable_name: Some("shipping".to_owned()), ..Default::default() };
        stream.create_consumer(shipping).await.unwrap();
        let handler = program.command(&["node", "handle.js"], &scene).spawn().unwrap();
        until("the message is acked", async || {
            let shipping = stream.consumer_info("shipping").await.unwrap();
            (shipping.ack_floor.stream_sequence == 1).then_some(())
        })
        .await;
        for collection in ["handled", "shipments"] {
            let written = scene.database.collection::<Document>(collection);
            assert_eq!(written.count_documents(doc! {}).await.unwrap(), 1, "{collection}");
        }
        drop(handler);
        stream.delete_consumer("shipping").await.unwrap();
    }
}

async fn orders_are_placed_in(language: &'static Language) {
    let Some(program) = language.prepared().await else { return };
    let nats = NatsServer::taking("order.placed").await;
    let scene = Scene::alone(&nats).await;

    // The first commit fails and the transaction runs again, with the same ids. No relay runs yet:
    // it would take away what was written outside the transaction before the second run meets it.
    let turn = FAIL_POINT.lock().await;
    let before = fail_commits(&scene, doc! { "times": 1 }).await;
    let id = program.write(&scene, "1042").await.unwrap();
    assert_eq!(fail_commits(&scene, "off").await, before + 1, "a commit has failed");
    drop(turn);

    // An order that is there already gets no second event; an event that is refused takes its order
    // with it.
    for number in ["1042", ""] {
        let said = program.write(&scene, number).await.unwrap_err();
        assert!(
            ["E11000", "Document failed validation"].iter().any(|reason| said.contains(reason)),
            "{said}"
        );
    }
    let orders = scene.database.collection::<Document>("orders");
    assert!(orders.find_one(doc! { "_id": "1042" }).await.unwrap().is_some());
    for (written, name) in [(&orders, "orders"), (&scene.events, "events")] {
        assert_eq!(written.count_documents(doc! {}).await.unwrap(), 1, "{name}");
    }
    let event = scene
        .one(doc! { "_id": ObjectId::parse_str(&id).unwrap() })
        .await
        .expect("the event that it told of");
    assert!(event.get_timestamp("ts").unwrap() > scene.began, "the server has filled it: {event}");
    assert_eq!(event.get_str("key").unwrap(), "1042");

    let _relay = Relay::leading(&scene, &[]).await;
    let told = json!({
        "subject": "order.placed",
        "Nats-Msg-Id": format!("{}.outbox.{id}", scene.name),
        "payload": { "id": "1042", "total": 25, "version": 0 },
    });
    assert_eq!(program.read(&scene, &id).await, told);
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 1);
}

/// Has the server fail commits of this scene's programs in the way that drivers answer with another
/// try. Returns how often it has done so since it was started.
async fn fail_commits(scene: &Scene, mode: impl Into<Bson>) -> i64 {
    let mode: Bson = mode.into();
    let data = doc! {
        "failCommands": ["commitTransaction"], "errorCode": 112, "errorLabels": ["TransientTransactionError"],
        "appName": &scene.name,
    };
    let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
    let answer = scene
        .client
        .database("admin")
        .run_command(point)
        .await
        .expect("a server that takes test commands");
    match answer.get("count") {
        Some(Bson::Int32(count)) => i64::from(*count),
        Some(Bson::Int64(count)) => *count,
        other => panic!("no count but {other:?}"),
    }
}

/// A program that is ready to run. Nobody else prepares it meanwhile.
pub(crate) struct Program {
    language: &'static Language,
    folder: PathBuf,
    _lock: File,
}

impl Program {
    /// Writes an order and its event; the event's id, or what it said instead.
    async fn write(&self, scene: &Scene, number: &str) -> Result<String, String> {
        self.run(self.language.write, scene, number).await
    }

    /// Reads the event from the stream.
    async fn read(&self, scene: &Scene, id: &str) -> Value {
        let line = self.run(self.language.read, scene, id).await.unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    pub(crate) async fn run(
        &self,
        line: Line,
        scene: &Scene,
        argument: &str,
    ) -> Result<String, String> {
        let mut command = self.command(line, scene);
        command.arg(argument);
        let output = ended(command, RUNNING).await;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(format!("{line:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn command(&self, line: Line, scene: &Scene) -> Command {
        let mut env = scene.env();
        env.retain(|(name, _)| !name.starts_with("OUTBOXD_"));
        let uri =
            env.iter_mut().find(|(name, _)| name == "MONGODB_URI").expect("a scene has a database");
        uri.1 += &format!("&appName={}", scene.name);
        let mut command = command(&self.folder, line);
        command.envs(env);
        command
    }
}

impl Language {
    /// `None` if this machine lacks what it needs.
    pub(crate) async fn prepared(&'static self) -> Option<Program> {
        let sources = sources(&Path::new(SOURCES).join(self.folder));
        let mut state = format!("{:?}\n{sources:?}\n", self.prepare);
        for tool in self.tools {
            match Command::new(tool[0]).args(&tool[1..]).stdin(Stdio::null()).output().await {
                Ok(output) if output.status.success() => {
                    state += &String::from_utf8_lossy(&output.stdout)
                }
                Ok(_) => {
                    return skipped(&format!("the {} on PATH is too old or lacks a part", tool[0]));
                }
                Err(_) => return skipped(&format!("no {} on PATH", tool[0])),
            }
        }
        let cache = cache().join("writers");
        std::fs::create_dir_all(&cache).expect("a folder in the cache");
        let (folder, stamp) =
            (cache.join(self.folder), cache.join(format!("{}.state", self.folder)));
        let lock = locked(&cache.join(format!("{}.lock", self.folder))).await;
        if std::fs::read_to_string(&stamp).ok().as_ref() != Some(&state) {
            let _alone = ALONE.lock().await;
            let _ = std::fs::remove_file(&stamp);
            let _ = std::fs::remove_dir_all(&folder);
            for (path, text) in &sources {
                let path = folder.join(path);
                std::fs::create_dir_all(path.parent().expect("a file in a folder"))
                    .expect("a folder in the cache");
                std::fs::write(path, text).expect("a file in the cache");
            }
            for line in self.prepare {
                let output = ended(command(&folder, line), PREPARING).await;
                let said = [output.stdout, output.stderr].concat();
                assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&said));
            }
            std::fs::write(stamp, state).expect("a file in the cache");
        }
        Some(Program { language: self, folder, _lock: lock })
    }
}

fn skipped(why: &str) -> Option<Program> {
    println!("skipped: {why}");
    None
}

/// Where `deploy/local/servers` keeps what it fetched.
fn cache() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let of_user = || {
        set("XDG_CACHE_HOME").unwrap_or_else(|| set("HOME").unwrap_or("/tmp".into()).join(".cache"))
    };
    let cache = set("OUTBOXD_CACHE").unwrap_or_else(|| of_user().join("outboxd"));
    std::path::absolute(cache).expect("a path")
}

/// Waits for other tests, of this process and of others, that prepare or run the same program.
async fn locked(path: &Path) -> File {
    let file = File::create(path).expect("a file in the cache");
    loop {
        match file.try_lock() {
            Ok(()) => return file,
            Err(TryLockError::WouldBlock) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(TryLockError::Error(error)) => panic!("{}: {error}", path.display()),
        }
    }
}

/// A command in a folder, ended with the test.
fn command(folder: &Path, line: &[&str]) -> Command {
    let program = if line[0].contains('/') { folder.join(line[0]) } else { line[0].into() };
    let mut command = Command::new(program);
    command.args(&line[1..]).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs it to its end, for so long at most.
async fn ended(mut command: Command, patience: Duration) -> Output {
    let output = tokio::time::timeout(patience, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} has not ended in {patience:?}"));
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The text of every file of a program, by its path in the folder.
fn sources(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder of docs/writers").flatten() {
            let path = entry.path();
            if NOT_SOURCES.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).expect("a text");
                files.insert(
                    path.strip_prefix(folder).expect("a file of the folder").to_owned(),
                    text,
                );
            }
        }
    }
    files
}

/// What readers copy is what the tests above run.
#[test]
fn every_snippet_stands_in_a_program() {
    let flush_left = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let readme = std::fs::read_to_string(Path::new(SOURCES).join("README.md")).unwrap();
    for (fence, folder) in [("js", "node"), ("python", "python"), ("go", "go"), ("java", "java")] {
        let programs = sources(&Path::new(SOURCES).join(folder));
        let programs: Vec<_> = programs.values().map(|text| flush_left(text)).collect();
        let fence = format!("```{fence}\n");
        let snippets: Vec<_> =
            readme.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert!(!snippets.is_empty(), "none of {folder}");
        for snippet in snippets {
            let stands = programs.iter().any(|program| program.contains(&flush_left(snippet)));
            assert!(stands, "in no program of {SOURCES}/{folder}:\n{snippet}");
        }
    }
}

/// Migrations are append-only, and each validator and its schema are one text each: whoever adds a
/// migration of a validator copies both there.
#[tokio::test]
async fn the_schemas_are_the_validators_that_the_migrations_leave() {
    let scene = Scene::new().await;
    let read = |name: &str| -> Document {
        let text = std::fs::read_to_string(Path::new(SOURCES).join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    let page = std::fs::read_to_string("docs/document.md").unwrap();

    for (collection, name) in [("outbox", "event"), ("outbox_scheduled", "scheduled")] {
        let command = doc! { "listCollections": 1, "filter": { "name": collection } };
        let answer = scene.database.run_command(command).await.unwrap();
        let found = answer.get_document("cursor").unwrap().get_array("firstBatch").unwrap();
        let options = found[0].as_document().unwrap().get_document("options").unwrap();

        let whole = read(&format!("{name}.validator.json"));
        assert_eq!(options.get_document("validator").unwrap(), &whole, "{name}");
        let schema = read(&format!("{name}.schema.json"));
        let first = &whole.get_array("$and").unwrap()[0];
        assert_eq!(first.as_document(), Some(&doc! { "$jsonSchema": &schema }), "{name}");

        for field in schema.get_document("properties").unwrap().keys() {
            assert!(page.contains(&format!("| `{field}` |")), "the table of fields lacks {field}");
        }
    }
}
