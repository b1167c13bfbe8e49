//! Three of each: a replica set and a NATS cluster of a test's own, whose members can be killed and
//! paused.

use std::process::{Child, Command, Stdio};

use bson::{Bson, Document, doc};
use mongodb::Client;

use super::mongod::of_a_set;
use super::ports::free_ports;
use super::privileges::NatsUsers;
use super::process::{copy_folder, signal};
use super::until;

/// Who may do everything on every member, as on the tests' own mongod.
const ROOT: &str = "root:root@";

/// What a mongod says that has its set's configuration.
const ALREADY_INITIALIZED: i32 = 23;

/// A server that can be taken away.
struct Member {
    child: Child,
    port: u16,
    data: tempfile::TempDir,
}

impl Member {
    fn kill(&mut self) {
        self.child.kill().expect("the member is killed");
        self.child.wait().expect("the member has ended");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Mongods that elect a new primary within two seconds.
///
/// With the size of their oplogs in MB.
pub(crate) struct ReplicaSet(Vec<Member>, u32);

impl ReplicaSet {
    /// Three survive the loss of one; a set of one has failpoints of its own.
    pub(crate) async fn start(count: usize) -> Self {
        Self::remembering(count, 16).await
    }

    /// With oplogs of so many MB.
    pub(crate) async fn remembering(count: usize, oplog: u32) -> Self {
        let ports = free_ports(count);
        let members = ports.iter().map(|port| {
            let data = tempfile::tempdir().expect("a folder for the data");
            Member { child: mongod(*port, data.path(), oplog), port: *port, data }
        });
        let set = Self(members.collect(), oplog);
        // As nobody, who may do just this on a server without users.
        let first = set.member(0, "").await;
        until("the first member answers", async || {
            first.run_command(doc! { "ping": 1 }).await.ok()
        })
        .await;
        let hosts: Vec<_> = (0..count)
            .map(|i| doc! { "_id": i as i32, "host": format!("127.0.0.1:{}", ports[i]) })
            .collect();
        let settings = doc! { "electionTimeoutMillis": 1500, "heartbeatIntervalMillis": 500 };
        let config = doc! { "_id": "rs0", "members": hosts, "settings": settings };
        until("the set is initiated", async || {
            let initiated = first.run_command(doc! { "replSetInitiate": config.clone() }).await;
            match initiated.map_err(|error| (code(&error), error)) {
                // Also an answer to a try before, whose own answer was lost.
                Ok(_) | Err((Some(ALREADY_INITIALIZED), _)) => Some(()),
                Err((_, error)) => {
                    println!("the set isn't initiated: {error}");
                    None
                }
            }
        })
        .await;
        let user = doc! { "createUser": "root", "pwd": "root", "roles": ["root"] };
        until("there are a primary and a user", async || {
            for i in 0..count {
                if set.member(i, "").await.run_command(user.clone()).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
        until("there is a primary", async || set.primary().await).await;
        set
    }

    /// Of all members, without a database.
    pub(crate) fn uri(&self) -> String {
        let hosts: Vec<_> =
            self.0.iter().map(|member| format!("127.0.0.1:{}", member.port)).collect();
        format!(
            "mongodb://{ROOT}{}/?replicaSet=rs0&retryWrites=true&authSource=admin",
            hosts.join(",")
        )
    }

    /// Which member takes writes, if one does.
    pub(crate) async fn primary(&self) -> Option<usize> {
        for i in 0..self.0.len() {
            let hello = self.direct(i).await.run_command(doc! { "hello": 1 }).await;
            if hello.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false)) {
                return Some(i);
            }
        }
        None
    }

    /// Has the primary step down. Returns whether there was one that did.
    pub(crate) async fn step_down(&self) -> bool {
        let Some(primary) = self.primary().await else {
            return false;
        };
        let step = doc! { "replSetStepDown": 4, "secondaryCatchUpPeriodSecs": 2 };
        self.direct(primary).await.run_command(step).await.is_ok()
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.0[member].kill();
    }

    pub(crate) fn start_again(&mut self, member: usize) {
        let Member { port, data, .. } = &self.0[member];
        self.0[member].child = mongod(*port, data.path(), self.1);
    }

    /// Whether this member has had to undo what no majority had: it puts that aside in files.
    pub(crate) fn has_rolled_back(&self, member: usize) -> bool {
        let aside = self.0[member].data.path().join("rollback");
        std::fs::read_dir(aside).is_ok_and(|mut files| files.next().is_some())
    }

    pub(crate) fn pause(&self, member: usize) {
        signal(&self.0[member].child, "-STOP");
    }

    pub(crate) fn resume(&self, member: usize) {
        signal(&self.0[member].child, "-CONT");
    }

    /// Makes commands fail, as `data` says, so often; returns how often this failpoint was entered
    /// before.
    pub(crate) async fn fail(&self, mode: impl Into<Bson>, data: Document) -> i64 {
        let point = doc! { "configureFailPoint": "failCommand", "mode": mode, "data": data };
        let status = self.direct(0).await.run_command(point).await.expect("the failpoint is set");
        status.get_i64("count").or(status.get_i32("count").map(i64::from)).unwrap_or(0)
    }

    /// Whether every member is up and has caught up far enough to vote a write through.
    pub(crate) async fn is_whole(&self) -> bool {
        let Some(primary) = self.primary().await else { return false };
        let status = self.direct(primary).await.run_command(doc! { "replSetGetStatus": 1 }).await;
        let members = status
            .ok()
            .and_then(|status| status.get_array("members").ok().cloned())
            .unwrap_or_default();
        let works = |member: &Bson| {
            member.as_document().is_some_and(|member| matches!(member.get_i32("state"), Ok(1 | 2)))
        };
        members.len() == self.0.len() && members.iter().all(works)
    }

    /// One member's `admin`, whatever the others say.
    pub(crate) async fn direct(&self, member: usize) -> mongodb::Database {
        self.member(member, ROOT).await
    }

    async fn member(&self, member: usize, user: &str) -> mongodb::Database {
        let uri = format!(
            "mongodb://{user}127.0.0.1:{}/?directConnection=true&serverSelectionTimeoutMS=1000&connectTimeoutMS=1000",
            self.0[member].port
        );
        Client::with_uri_str(uri).await.expect("a client").database("admin")
    }
}

/// Of a command that the server has refused.
fn code(error: &mongodb::error::Error) -> Option<i32> {
    match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(refused) => Some(refused.code),
        _ => None,
    }
}

fn mongod(port: u16, data: &std::path::Path, oplog: u32) -> Child {
    let binary = std::env::var("OUTBOXD_MONGOD")
        .expect("run the tests with `make test`, which finds mongod");
    Command::new(binary)
        .args([
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--quiet",
            "--wiredTigerCacheSizeGB",
            "0.25",
        ])
        .args(["--setParameter", "enableTestCommands=1"])
        // A checkpoint every 2 s instead of 60: the oplog keeps all that was written since the last.
        .args(["--syncdelay", "2"])
        .args(of_a_set(data))
        .args(["--oplogSize", &oplog.to_string(), "--port", &port.to_string(), "--dbpath"])
        .arg(data)
        .stdout(Stdio::null())
        .spawn()
        .expect("mongod starts")
}

/// Three nats-servers with JetStream.
pub(crate) struct NatsCluster {
    members: Vec<Member>,
    routes: Vec<u16>,
    /// What each member's configuration has besides.
    besides: [String; 3],
    /// Who may do what.
    pub(crate) users: NatsUsers,
}

impl NatsCluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(Default::default()).await
    }

    /// Whose members advertise these addresses to clients.
    pub(crate) async fn advertising(addresses: [String; 3]) -> Self {
        Self::start_with(addresses.map(|address| format!("client_advertise: \"{address}\"\n")))
            .await
    }

    /// Whose members' configurations have more.
    pub(crate) async fn start_with(besides: [String; 3]) -> Self {
        let ports = free_ports(6);
        let (ports, routes) = ports.split_at(3);
        let users = NatsUsers::new(None);
        let members = (0..3).map(|i| {
            let data = tempfile::tempdir().expect("a folder for the data");
            let config = users.config() + &besides[i];
            Member {
                child: nats_server(i, ports[i], routes, &config, data.path()),
                port: ports[i],
                data,
            }
        });
        let cluster = Self { members: members.collect(), routes: routes.to_vec(), besides, users };
        let client = async_nats::ConnectOptions::new().retry_on_initial_connect();
        let client = client
            .connect(cluster.url().split(',').collect::<Vec<_>>())
            .await
            .expect("the cluster");
        until("JetStream has a leader", async || {
            let answer = client.request("$JS.API.INFO", "".into()).await.ok()?;
            let answer: serde_json::Value = serde_json::from_slice(&answer.payload).ok()?;
            answer["error"].is_null().then_some(())
        })
        .await;
        cluster
    }

    pub(crate) fn url(&self) -> String {
        let urls: Vec<_> =
            self.members.iter().map(|member| format!("nats://127.0.0.1:{}", member.port)).collect();
        urls.join(",")
    }

    /// Of one member alone.
    pub(crate) fn url_of(&self, member: usize) -> String {
        format!("nats://127.0.0.1:{}", self.members[member].port)
    }

    pub(crate) fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    pub(crate) fn start_again(&mut self, member: usize) {
        let Member { port, data, .. } = &self.members[member];
        let config = self.users.config() + &self.besides[member];
        self.members[member].child = nats_server(member, *port, &self.routes, &config, data.path());
    }

    /// A copy of everything that one member has stored.
    pub(crate) fn copy(&self, member: usize) -> tempfile::TempDir {
        let copy = tempfile::tempdir().expect("a folder for the copy");
        copy_folder(&self.members[member].data.path().join("jetstream"), copy.path());
        copy
    }

    /// Puts an old copy in the place of what one member has.
    pub(crate) fn restore(&self, member: usize, copy: &tempfile::TempDir) {
        let data = self.members[member].data.path();
        std::fs::remove_dir_all(data.join("jetstream")).expect("the store is removed");
        copy_folder(&copy.path().join("jetstream"), data);
    }

    pub(crate) fn pause(&self, member: usize) {
        signal(&self.members[member].child, "-STOP");
    }

    pub(crate) fn resume(&self, member: usize) {
        signal(&self.members[member].child, "-CONT");
    }

    /// SIGUSR2: it asks its clients to go to another member, and stops later.
    pub(crate) fn lame_duck(&self, member: usize) {
        signal(&self.members[member].child, "-USR2");
    }

    /// Which member leads the scene's stream, if one does.
    pub(crate) async fn leader(&self, scene: &super::Scene) -> Option<usize> {
        let stream = scene.context.get_stream(&scene.stream).await.ok()?;
        let leader = stream.cached_info().cluster.as_ref()?.leader.clone()?;
        leader.strip_prefix('n')?.parse().ok()
    }

    /// Whether the scene's stream has a leader and every other copy is up and current.
    pub(crate) async fn is_whole(&self, scene: &super::Scene) -> bool {
        let Ok(stream) = scene.context.get_stream(&scene.stream).await else { return false };
        stream.cached_info().cluster.as_ref().is_some_and(|cluster| {
            let others =
                cluster.replicas.iter().filter(|copy| copy.current && !copy.offline).count();
            cluster.leader.is_some() && others + 1 == self.members.len()
        })
    }

    /// Has the stream's leader step down. Returns whether it did.
    pub(crate) async fn step_down(&self, scene: &super::Scene) -> bool {
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", scene.stream);
        let Ok(answer) = scene.context.client().request(subject, "".into()).await else {
            return false;
        };
        serde_json::from_slice::<serde_json::Value>(&answer.payload)
            .is_ok_and(|answer| answer["success"] == true)
    }
}

fn nats_server(i: usize, port: u16, routes: &[u16], users: &str, data: &std::path::Path) -> Child {
    let binary = std::env::var("OUTBOXD_NATS_SERVER")
        .expect("run the tests with `make test`, which finds nats-server");
    let urls: Vec<_> = routes.iter().map(|port| format!("\"nats://127.0.0.1:{port}\"")).collect();
    let config = format!(
        "server_name: n{i}\nport: {port}\nhost: 127.0.0.1\njetstream {{ store_dir: \"{}\" }}\n\
         cluster {{ name: c, host: 127.0.0.1, port: {}, routes: [{}] }}\n{users}",
        data.display(),
        routes[i],
        urls.join(", ")
    );
    std::fs::write(data.join("conf"), config).expect("the configuration is written");
    Command::new(binary)
        .args([
            "--config",
            &format!("{}/conf", data.display()),
            "--log",
            &format!("{}/log", data.display()),
        ])
        .spawn()
        .expect("nats-server starts")
}
