//! `[mongodb]`: where the outbox is, and the clients that connect to it.

use std::fmt;

use mongodb::error::ErrorKind as MongodbErrorKind;
use mongodb::options::{
    ClientOptions, ConnectionString, HostInfo, ReadPreference, Tls, TlsOptions, WriteConcern,
};
use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::Reader;
use crate::config::setting::secs;
use crate::config::uri::{self, Uri};
use crate::error::{Error, ErrorKind, Result};

/// Most bytes of a connection's name that a server takes.
const MAX_APP_NAME: usize = 128;

/// `[mongodb]`
#[derive(Debug, Clone)]
pub struct MongodbConfig {
    /// Connection string, without the options that outboxd does without.
    pub uri: SecretString,
    /// Where it leads, without secrets.
    at: String,
    /// The SRV record that names the hosts, if the connection string doesn't.
    srv_record: Option<String>,
    /// Database of the outbox. The URI's path names it unless it is set.
    pub database: String,
    /// Collection of the outbox.
    pub collection: String,
    /// Which change stream brings its events.
    pub follow: Follow,
    /// What MongoDB's logs call the connections, with their role.
    app_name: String,
}

/// `mongodb.follow`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// One that the outboxes of a daemon share.
    Shared,
    /// One of its own.
    Own,
}

impl MongodbConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, client_id: &str) -> Self {
        let uri = reader
            .setting(
                "uri",
                "Connection string of the replica set. It includes TLS: `tls=true&tlsCAFile=…`, \
                 and with a client certificate \
                 `authMechanism=MONGODB-X509&tlsCertificateKeyFile=…`. Without a CA file, outboxd \
                 trusts the public CAs. With `directConnection=true`, outboxd connects only to the \
                 host in the string, whatever names the replica set gives its members.",
            )
            .variables(&["MONGODB_URI", "MONGO_URI"])
            .example("\"mongodb://host/shop?replicaSet=rs0\"")
            .required("give MONGODB_URI=mongodb://host/database?replicaSet=…")
            .secret();

        let read = uri.as_ref().and_then(|uri| parse(reader, uri));
        let (uri, parsed) = match read {
            Some(Uri { text, parsed, .. }) => (Some(text.into()), Some(parsed)),
            None => (uri, None),
        };

        let database = reader
            .setting("database", "Database of the outbox.")
            .computed("the database in the URI's path")
            .example("\"shop\"")
            .read();

        if database.is_none()
            && let Some(ConnectionString { default_database: None, .. }) = &parsed
        {
            reader.missing("database", "is not set; put the database in the URI's path or set it");
        }

        let in_path = parsed.as_ref().and_then(|parsed| parsed.default_database.clone());
        let name = database.as_ref().or(in_path.as_ref());
        if let Some(character) = name.and_then(|name| name.chars().find(|&c| !may_name(c))) {
            let reason = format!("a database's name can't have a {character:?}");
            reader.mistake("database", reason);
        }

        let at = parsed.as_ref().map(|parsed| Place(&parsed.host_info).to_string());
        let srv_record = parsed.as_ref().and_then(srv_record);

        Self {
            uri: uri.unwrap_or_default(),
            at: at.unwrap_or_default(),
            srv_record,
            database: database.or(in_path).unwrap_or_default(),
            collection: reader
                .setting(
                    "collection",
                    "Collection of the outbox. Usually a database has one service, and a service \
                     has one outbox.",
                )
                .or("outbox".to_owned()),
            follow: reader
                .setting(
                    "follow",
                    "How a daemon with several outboxes learns of new events. \"shared\": the \
                     outboxes with the same connection string share one change stream of the \
                     cluster, or one of each database if the user may not watch the cluster. \
                     \"own\": each outbox has its own change streams, and each of them costs \
                     mongod as much as a shared one. A daemon with one outbox always uses its own.",
                )
                .one_of(&[("shared", Follow::Shared), ("own", Follow::Own)]),
            app_name: format!("outboxd {client_id}"),
        }
    }

    /// The SRV record that names the hosts, if the connection string doesn't.
    pub(crate) fn srv_record(&self) -> Option<&str> {
        self.srv_record.as_deref()
    }

    /// Whether it leads to the same server with the same secrets, so that clients can be shared.
    pub(crate) fn is_same_server(&self, other: &Self) -> bool {
        let same = self.uri.expose_secret() == other.uri.expose_secret();
        same && self.app_name == other.app_name
    }

    /// A client of its own for `role`. The change stream and the lease must not wait for each
    /// other's connections.
    ///
    /// # Errors
    /// [`ErrorKind::Mongodb`] when the name in a `mongodb+srv://` string can't be resolved, or not
    /// to what the driver takes: that may pass. [`ErrorKind::Config`] when the driver refuses what
    /// only a person can change.
    pub async fn client(&self, role: &str) -> Result<mongodb::Client> {
        self.pooled(role, None).await
    }

    /// The same, with at most so many connections to a server unless the connection string says how
    /// many.
    ///
    /// # Errors
    /// As [`MongodbConfig::client`].
    pub(crate) async fn pooled(&self, role: &str, most: Option<u32>) -> Result<mongodb::Client> {
        let mut options = self.options(role).await?;
        options.max_pool_size = options.max_pool_size.or(most);
        mongodb::Client::with_options(options).map_err(|error| self.unusable(error))
    }

    /// The options of a client for `role`.
    ///
    /// # Errors
    /// As [`MongodbConfig::client`].
    pub(crate) async fn options(&self, role: &str) -> Result<ClientOptions> {
        let parsed = ClientOptions::parse(self.uri.expose_secret()).await;
        let mut options = parsed.map_err(|error| self.unusable(error))?;
        options.app_name = Some(app_name(&format!("{} {role}", self.app_name)));

        // An event counts as published or failed once a majority has stored that.
        options.write_concern = Some(WriteConcern::majority());
        // Reads decide about order. A secondary that lags would decide wrongly, whatever the URI
        // prefers.
        options.selection_criteria = Some(ReadPreference::Primary.into());
        options.read_concern = None;

        // With these two, a server that stops answering is noticed sooner than after the driver's
        // 20 s.
        options.heartbeat_freq.get_or_insert(secs(5));
        options.connect_timeout.get_or_insert(secs(5));

        // An operator is waiting; the daemon waits longer, until an election is over.
        let patience = if role == "operator" { secs(5) } else { secs(10) };
        options.server_selection_timeout.get_or_insert(patience);

        Ok(options)
    }

    /// Why there is no client. Reading the configuration has asked the driver already, so what is
    /// left is what the network says, or a file that has changed since.
    fn unusable(&self, error: mongodb::error::Error) -> Error {
        let is_looked_up = self.srv_record.is_some();
        match &*error.kind {
            MongodbErrorKind::InvalidArgument { .. } if !is_looked_up => {
                Error::with_source(ErrorKind::Config, "mongodb.uri: the driver refuses it", error)
            }
            MongodbErrorKind::DnsResolve { .. } => {
                let message = format!("MongoDB: {} can't be resolved", self.at);
                Error::with_source(ErrorKind::Mongodb, message, error)
            }
            _ => {
                let message = format!("MongoDB: no connection to {}", self.at);
                Error::with_source(ErrorKind::Mongodb, message, error)
            }
        }
    }
}

/// Whether the server takes this character in the name of a database.
fn may_name(character: char) -> bool {
    !['/', '\\', ' ', '"', '$', '.', '\0'].contains(&character)
}

/// Where a connection string leads, for people.
struct Place<'a>(&'a HostInfo);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            HostInfo::DnsRecord(name) => write!(f, "the SRV name {name}"),
            HostInfo::HostIdentifiers(hosts) => {
                let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
                f.write_str(&hosts.join(", "))
            }
            _ => f.write_str("the hosts"),
        }
    }
}

fn srv_record(parsed: &ConnectionString) -> Option<String> {
    let HostInfo::DnsRecord(name) = &parsed.host_info else { return None };
    let service = parsed.srv_service_name.as_deref().unwrap_or("mongodb");
    Some(format!("_{service}._tcp.{name}"))
}

/// As much of the name as a server takes.
fn app_name(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_APP_NAME)].to_owned()
}

/// The connection string in its parts. The files that it names are checked.
fn parse(reader: &mut Reader<'_>, uri: &SecretString) -> Option<Uri> {
    let read = match uri::read(uri.expose_secret()) {
        Ok(read) => read,
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| reader.mistake("uri", mistake));
            return None;
        }
    };

    read.warnings.iter().for_each(|warning| reader.warning("uri", warning));

    if let Some(Tls::Enabled(TlsOptions { ca_file_path, cert_key_file_path, .. })) =
        &read.parsed.tls
    {
        ca_file_path.iter().for_each(|path| reader.authorities("uri", path));
        cert_key_file_path.iter().for_each(|path| reader.identity("uri", path, path));
    }

    Some(read)
}
