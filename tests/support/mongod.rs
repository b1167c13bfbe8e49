//! A mongod of a test's own: a standalone, or one that wants a user, or TLS.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use bson::doc;
use mongodb::Client;

use super::pki::{Authority, Identity};
use super::ports::free_ports;
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
        let mongod = Self::start(of_a_set);
        mongod.initiate("admin", PASSWORD, "").await;
        mongod
    }

    /// The same, spoken to over TLS alone, with `root` as the tests' own mongod has it.
    pub(crate) async fn with_tls(authority: &Authority, server: &Identity) -> Self {
        let mongod = Self::start(|data| {
            let mut args = of_a_set(data);
            args.extend(tls(authority, server));
            args.push("--tlsAllowConnectionsWithoutCertificates".to_owned());
            args
        });
        mongod.initiate("root", "root", &format!("&tlsCAFile={}", authority.file())).await;
        mongod
    }

    /// A mongod that wants TLS and a client's certificate, and is told nothing else. Nothing if it
    /// wouldn't start.
    pub(crate) async fn with_certificates(
        authority: &Authority,
        server: &Identity,
    ) -> Option<Self> {
        let mut mongod = Self::start(|_| tls(authority, server));
        for _ in 0..600 {
            if tokio::net::TcpStream::connect(&mongod.address).await.is_ok() {
                return Some(mongod);
            }
            if mongod.child.try_wait().expect("a child").is_some() {
                return None;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("mongod neither listens nor ends");
    }

    async fn initiate(&self, user: &str, password: &str, options: &str) {
        // As nobody, who may do just this on a server without users.
        let admin = self.client(&format!("directConnection=true{options}")).await.database("admin");
        let member = doc! { "_id": 0, "host": &self.address };
        let set = doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } };
        admin.run_command(set).await.expect("the set is initiated");
        let user = doc! { "createUser": user, "pwd": password, "roles": ["root"] };
        until("the set has a primary and a user", async || {
            admin.run_command(user.clone()).await.ok()
        })
        .await;
    }

    /// A URI for this database, as this user.
    pub(crate) fn uri(&self, user: &str, password: &str, database: &str) -> String {
        format!(
            "mongodb://{user}:{password}@{}/{database}?replicaSet=rs0&authSource=admin",
            self.address
        )
    }

    /// Connects once it answers.
    async fn client(&self, options: &str) -> Client {
        let client = Client::with_uri_str(format!("mongodb://{}/?{options}", self.address))
            .await
            .expect("a client");
        let admin = client.database("admin");
        until("mongod answers", async || admin.run_command(doc! { "ping": 1 }).await.ok()).await;
        client
    }

    fn start(args: impl Fn(&Path) -> Vec<String>) -> Self {
        let binary = std::env::var("OUTBOXD_MONGOD")
            .expect("run the tests with `make test`, which finds mongod");
        let data = tempfile::tempdir().expect("a folder for the data");
        let port = free_ports(1)[0];
        let child = Command::new(binary)
            .args([
                "--bind_ip",
                "127.0.0.1",
                "--nounixsocket",
                "--quiet",
                "--wiredTigerCacheSizeGB",
                "0.25",
            ])
            .args(["--port", &port.to_string(), "--dbpath"])
            .arg(data.path())
            .args(args(data.path()))
            .stdout(Stdio::null())
            .spawn()
            .expect("mongod starts");
        Self { child, address: format!("127.0.0.1:{port}"), _data: data }
    }
}

/// What a member of a replica set with users takes.
pub(super) fn of_a_set(data: &Path) -> Vec<String> {
    let key = data.join("key");
    std::fs::write(&key, "b3V0Ym94ZA==").expect("the key is written");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&key, private).expect("the key is private");
    vec!["--auth".to_owned(), "--replSet=rs0".to_owned(), format!("--keyFile={}", key.display())]
}

fn tls(authority: &Authority, server: &Identity) -> Vec<String> {
    let (both, authority) = (&server.both, authority.file());
    [
        "--tlsMode=requireTLS".to_owned(),
        format!("--tlsCertificateKeyFile={both}"),
        format!("--tlsCAFile={authority}"),
    ]
    .into()
}

impl Drop for Mongod {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
