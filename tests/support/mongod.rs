//! A mongod of a test's own: a standalone, or one that wants a user.

use std::process::{Child, Command, Stdio};

use bson::doc;
use mongodb::Client;

use super::until;

/// The administrator's password on [`Mongod::with_users`].
pub(crate) const PASSWORD: &str = "hunter2";

pub(crate) struct Mongod {
    child: Child,
    /// `127.0.0.1:port`
    pub(crate) address: String,
    _data: tempfile::TempDir,
}

impl Mongod {
    /// No replica set.
    pub(crate) async fn standalone() -> Self {
        let mongod = Self::start(|_| Vec::new());
        mongod.client("directConnection=true").await;
        mongod
    }

    /// A replica set of one that wants a user; there is `admin`, who may do everything.
    pub(crate) async fn with_users() -> Self {
        let mongod = Self::start(|data| {
            let key = data.join("key");
            std::fs::write(&key, "b3V0Ym94ZA==").expect("the key is written");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&key, private).expect("the key is private");
            vec!["--auth".to_owned(), "--replSet=rs0".to_owned(), format!("--keyFile={}", key.display())]
        });
        // As nobody, who may do just this on a server without users.
        let admin = mongod.client("directConnection=true").await.database("admin");
        let member = doc! { "_id": 0, "host": &mongod.address };
        let set = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
        admin.run_command(set).await.expect("the set is initiated");
        let user = doc! { "createUser": "admin", "pwd": PASSWORD, "roles": ["root"] };
        until("the set has a primary and a user", async || admin.run_command(user.clone()).await.ok()).await;
        mongod
    }

    /// A URI for this database, as this user.
    pub(crate) fn uri(&self, user: &str, password: &str, database: &str) -> String {
        format!("mongodb://{user}:{password}@{}/{database}?replicaSet=rs0&authSource=admin", self.address)
    }

    /// Connects once it answers.
    async fn client(&self, options: &str) -> Client {
        let client = Client::with_uri_str(format!("mongodb://{}/?{options}", self.address)).await.expect("a client");
        let admin = client.database("admin");
        until("mongod answers", async || admin.run_command(doc! { "ping": 1 }).await.ok()).await;
        client
    }

    fn start(args: impl Fn(&std::path::Path) -> Vec<String>) -> Self {
        let binary = std::env::var("OUTBOXD_MONGOD").expect("run the tests with `make test`, which finds mongod");
        let data = tempfile::tempdir().expect("a folder for the data");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("its address");
        drop(free);
        let child = Command::new(binary)
            .args(["--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet", "--wiredTigerCacheSizeGB", "0.25"])
            .args(["--port", &address.port().to_string(), "--dbpath"])
            .arg(data.path())
            .args(args(data.path()))
            .stdout(Stdio::null())
            .spawn()
            .expect("mongod starts");
        Self { child, address: address.to_string(), _data: data }
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
