//! What the demo runs: a database for each service and a stream, and on them the services, each with
//! its outboxd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bson::{Document, doc};
use futures_util::future::try_join_all;
use mongodb::{Client, Database};
use serde::{Deserialize, Serialize};
use ticketing::failure::Failure;
use ticketing::subjects;
use tokio::time::{Instant, sleep};

use crate::cast::{FLEET, Relays, SERVICES, relayed_by};
use crate::process::{Lifetime, Plan, Process};

/// How long a process may take to be ready.
const READY_TIME: Duration = Duration::from_secs(30);
/// After a kill, outboxd is idle for as long as the lease of the killed one lasts.
const LEASE_TTL: &str = "5s";
/// How long it may take to remove everything. A transaction that a killed service left open holds it up.
const CLEAR_TIME: Duration = Duration::from_secs(5);
/// What a service says when it is ready, before its address.
const LISTENING: &str = "listening on ";

/// The servers and the names used on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Servers {
    pub(crate) mongodb_uri: String,
    pub(crate) nats_url: String,
    /// What the names of the databases end with.
    pub(crate) suffix: String,
    pub(crate) stream: String,
}

/// Where each service answers.
pub(crate) type Urls = BTreeMap<String, String>;

/// Everything that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stage {
    pub(crate) servers: Servers,
    pub(crate) relays: Relays,
    /// How long an order reserves its ticket, in seconds.
    #[serde(default)]
    pub(crate) expires_after: u64,
    pub(crate) jwt_key: String,
    pub(crate) logs: PathBuf,
    pub(crate) urls: Urls,
    pub(crate) processes: Vec<Process>,
}

impl Servers {
    /// Connects.
    pub(crate) async fn connect(
        &self,
    ) -> Result<(Client, async_nats::jetstream::Context), Failure> {
        let mongodb = Client::with_uri_str(&self.mongodb_uri).await?;
        let nats = async_nats::connect(&self.nats_url).await?;
        Ok((mongodb, async_nats::jetstream::new(nats)))
    }

    /// Removes the databases and the stream.
    pub(crate) async fn clear(&self) -> Result<(), Failure> {
        let cleared = tokio::time::timeout(CLEAR_TIME, self.remove()).await;
        cleared.map_err(|_| {
            format!("the databases and the stream were not removed in {CLEAR_TIME:?}")
        })?
    }

    async fn remove(&self) -> Result<(), Failure> {
        let (mongodb, nats) = self.connect().await?;
        for service in SERVICES {
            self.database(&mongodb, service).drop().await?;
        }
        nats.delete_stream(&self.stream).await?;
        Ok(())
    }

    pub(crate) fn database(&self, mongodb: &Client, service: &str) -> Database {
        mongodb.database(&self.database_name(service))
    }

    pub(crate) fn database_name(&self, service: &str) -> String {
        format!("{service}{}", self.suffix)
    }

    /// The connection string of a service's database.
    pub(crate) fn uri(&self, service: &str) -> String {
        with_database(&self.mongodb_uri, &self.database_name(service))
    }
}

impl Stage {
    /// Nothing runs yet. An order reserves its ticket for so many seconds.
    pub(crate) fn new(servers: Servers, logs: PathBuf, expires_after: u64) -> Self {
        let jwt_key = format!("{:032x}", rand::random::<u128>());
        let (relays, urls, processes) = (Relays::wanted(), Urls::new(), Vec::new());
        Self { servers, relays, expires_after, jwt_key, logs, urls, processes }
    }

    /// Migrates the outboxes, starts the processes and waits until all are ready.
    ///
    /// # Errors
    /// The first that isn't ready. What was started before still runs.
    pub(crate) async fn start(&mut self, lifetime: Lifetime) -> Result<(), Failure> {
        let names = self.relays.names();
        let relays = names.iter().filter(|name| !relayed_by(name).is_empty());
        try_join_all(relays.map(|name| self.migrate(name))).await?;

        for name in names {
            let process = self.plan(name, "run")?.start(lifetime)?;
            self.processes.push(process);
        }

        for index in 0..self.processes.len() {
            self.ready(index, 0).await?;
        }

        Ok(())
    }

    async fn migrate(&self, name: &str) -> Result<(), Failure> {
        // If another one fails, none is left behind.
        let output = self.plan(name, "migrate")?.command().kill_on_drop(true).output().await?;
        if output.status.success() {
            return Ok(());
        }

        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("`outboxd migrate` for {name}: {}", said.trim()).into())
    }

    /// Starts one process again, on the address it had.
    pub(crate) async fn restart(&mut self, name: &str, lifetime: Lifetime) -> Result<(), Failure> {
        let index = self.index(name)?;
        if self.processes[index].is_alive() {
            return Err(format!("{name} is running").into());
        }

        let plan = self.processes[index].plan.clone();
        let offset = std::fs::metadata(&plan.log).map_or(0, |log| log.len());
        self.processes[index] = plan.start(lifetime)?;

        self.ready(index, usize::try_from(offset)?).await
    }

    /// The process with this name.
    pub(crate) fn process(&mut self, name: &str) -> Result<&mut Process, Failure> {
        let index = self.index(name)?;
        Ok(&mut self.processes[index])
    }

    /// Ends when a process does.
    pub(crate) async fn died(&self) -> Failure {
        loop {
            if let Some(dead) = self.processes.iter().find(|process| !process.is_alive()) {
                return dead.died();
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Stops every process.
    ///
    /// # Errors
    /// Those that did not stop well; none runs any more.
    pub(crate) async fn stop(&mut self) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for process in self.processes.iter_mut().rev() {
            if let Err(failure) = process.stop().await {
                failures.push(failure.to_string());
            }
        }

        self.processes.clear();
        if failures.is_empty() { Ok(()) } else { Err(failures.join("\n").into()) }
    }

    fn index(&self, name: &str) -> Result<usize, Failure> {
        let index = self.processes.iter().position(|process| process.plan.name == name);
        index.ok_or_else(|| format!("there is no process {name}").into())
    }

    /// The plan of the process `name`; `verb` is what outboxd does.
    fn plan(&self, name: &str, verb: &str) -> Result<Plan, Failure> {
        let relayed = relayed_by(name);
        let (program, arg) = match relayed.is_empty() {
            true => ("ticketing", name),
            false => ("outboxd", verb),
        };
        let own = std::env::current_exe()?;
        let program = own.parent().unwrap_or(Path::new(".")).join(program);
        let mut env = BTreeMap::from([
            ("MONGODB_URI", self.servers.uri(relayed.first().unwrap_or(&name))),
            ("NATS_URL", self.servers.nats_url.clone()),
            ("NATS_CLUSTER_ID", self.servers.stream.clone()),
            ("NATS_CLIENT_ID", name.to_owned()),
        ]);

        if relayed.is_empty() {
            env.extend([
                ("JWT_KEY", self.jwt_key.clone()),
                ("HOST", "127.0.0.1".into()),
                ("PORT", "0".into()),
                ("ORDER_EXPIRES_AFTER", format!("{}s", self.expires_after)),
                // There is no HTTPS here.
                ("COOKIE_SECURE", "false".to_owned()),
            ]);
        } else {
            let alerts = self.logs.join(format!("{name}.alerts.jsonl"));
            env.extend([
                ("OUTBOXD_STREAM__SUBJECTS", subjects::ALL.join(",")),
                ("OUTBOXD_LEASE__TTL", LEASE_TTL.to_owned()),
                ("OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0".to_owned()),
                ("OUTBOXD_ALERTS__FILE", alerts.display().to_string()),
            ]);
        }

        if name == FLEET {
            env.insert("OUTBOXD_CONFIG", self.write_tables(&relayed)?);
        }

        Ok(Plan {
            name: name.to_owned(),
            program,
            args: vec![arg.to_owned()],
            env: env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            log: self.logs.join(format!("{name}.log")),
        })
    }

    /// Writes a file with a table for the outbox of each service; returns its path.
    fn write_tables(&self, services: &[&str]) -> Result<String, Failure> {
        let table = |service: &&str| {
            format!("[[outbox]]\ndatabase = {:?}\n", self.servers.database_name(service))
        };
        let path = self.logs.join("fleet.toml");
        std::fs::write(&path, services.iter().map(table).collect::<String>())?;
        Ok(path.display().to_string())
    }

    async fn ready(&mut self, index: usize, offset: usize) -> Result<(), Failure> {
        let name = self.processes[index].plan.name.clone();
        let relayed = relayed_by(&name);
        if relayed.is_empty() {
            let url = self.processes[index].line(LISTENING, offset, READY_TIME).await?;
            // When it is started again, it is expected there.
            let port = url.rsplit(':').next().unwrap_or_default().to_owned();
            self.processes[index].plan.env.insert("PORT".to_owned(), port);
            self.urls.insert(name, url);
            return Ok(());
        }

        let mongodb = Client::with_uri_str(&self.servers.mongodb_uri).await?;
        let deadline = Instant::now() + READY_TIME;
        for service in relayed {
            let database = self.servers.database(&mongodb, service);
            while !has_lease(&database).await? {
                if !self.processes[index].is_alive() {
                    return Err(self.processes[index].died());
                }

                if Instant::now() > deadline {
                    let what = format!("the lease of {service} in {READY_TIME:?}");
                    return Err(format!("{name} did not take {what}").into());
                }

                sleep(Duration::from_millis(50)).await;
            }
        }

        Ok(())
    }
}

/// Whether a relay holds the lease of this database's outbox.
async fn has_lease(database: &Database) -> Result<bool, Failure> {
    let held = doc! { "_id": "outbox", "$expr": { "$gt": ["$expiresAt", "$$NOW"] } };
    Ok(database.collection::<Document>("outboxd_lease").count_documents(held).await? > 0)
}

/// The connection string with this database as its path.
fn with_database(uri: &str, database: &str) -> String {
    let (address, options) =
        uri.split_once('?').map_or((uri, None), |(address, options)| (address, Some(options)));
    let (scheme, hosts) = address.split_once("://").unwrap_or(("mongodb", address));
    let hosts = hosts.split('/').next().unwrap_or_default();
    let options = options.map(|options| format!("?{options}")).unwrap_or_default();
    format!("{scheme}://{hosts}/{database}{options}")
}
