//! `[mongodb]`: where the outbox is, and the clients that connect to it.

use mongodb::options::{
    ClientOptions, ConnectionString, ReadPreference, Tls, TlsOptions, WriteConcern,
};
use secrecy::{ExposeSecret, SecretString};

use crate::config::reader::Reader;
use crate::config::setting::secs;
use crate::error::{MongodbContext, Result};

/// `[mongodb]`
#[derive(Debug, Clone)]
pub struct MongodbConfig {
    /// Connection string.
    pub uri: SecretString,
    /// Database of the outbox. The URI's path names it unless it is set.
    pub database: String,
    /// Collection of the outbox.
    pub collection: String,
    /// What MongoDB's logs call the connections, with their role.
    app_name: String,
}

impl MongodbConfig {
    pub(in crate::config) fn read(reader: &mut Reader<'_>, client_id: &str) -> Self {
        let uri = reader
            .setting(
                "uri",
                "Connection string of the replica set. It includes TLS: `tls=true&tlsCAFile=…`, \
                 and with a client certificate \
                 `authMechanism=MONGODB-X509&tlsCertificateKeyFile=…`. Without a CA file, \
                 outboxd trusts the public CAs.",
            )
            .variables(&["MONGODB_URI", "MONGO_URI"])
            .example("\"mongodb://host/shop?replicaSet=rs0\"")
            .required("give MONGODB_URI=mongodb://host/database?replicaSet=…")
            .secret();

        let parsed = uri.as_ref().and_then(|uri| parse(reader, uri));

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

        let in_path = parsed.and_then(|parsed| parsed.default_database);

        Self {
            uri: uri.unwrap_or_default(),
            database: database.or(in_path).unwrap_or_default(),
            collection: reader
                .setting(
                    "collection",
                    "Collection of the outbox. Usually a database has one service, and a service \
                     has one outbox.",
                )
                .or("outbox".to_owned()),
            app_name: format!("outboxd {client_id}"),
        }
    }

    /// A client of its own for `role`. The change stream and the lease must not wait for each
    /// other's connections.
    ///
    /// # Errors
    /// [`ErrorKind::Mongodb`](crate::error::ErrorKind::Mongodb) when the connection string can't be
    /// resolved.
    pub async fn client(&self, role: &str) -> Result<mongodb::Client> {
        mongodb::Client::with_options(self.options(role).await?).during("the connection string")
    }

    /// The options of a client for `role`.
    pub(crate) async fn options(&self, role: &str) -> Result<ClientOptions> {
        let mut options =
            ClientOptions::parse(self.uri.expose_secret()).await.during("the connection string")?;
        options.app_name = Some(format!("{} {role}", self.app_name).chars().take(128).collect());

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
}

/// The connection string in its parts. The files that it names are checked.
fn parse(reader: &mut Reader<'_>, uri: &SecretString) -> Option<ConnectionString> {
    let Ok(parsed) = ConnectionString::parse(uri.expose_secret()) else {
        // The driver's message may repeat parts of the URI.
        reader.mistake(
            "uri",
            "is not a connection string such as mongodb://host/database?replicaSet=…",
        );
        return None;
    };

    if let Some(Tls::Enabled(TlsOptions { ca_file_path, cert_key_file_path, .. })) = &parsed.tls {
        ca_file_path.iter().for_each(|path| reader.authorities("uri", path));
        cert_key_file_path.iter().for_each(|path| reader.identity("uri", path, path));
    }

    Some(parsed)
}
