//! The life of a service: settings, connections, one line when it is ready, a clean stop.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use async_nats::ConnectOptions;
use axum::Router;
use bson::doc;
use mongodb::options::{ClientOptions, WriteConcern};
use mongodb::{Client, Database};
use outboxd_client::listener::ListenError;
use outboxd_client::{Handle, Inbox, Listener};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{Level, info, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::failure::Failure;
use crate::http;
use crate::settings::Settings;
use crate::token::{Signer, Verifier};
use crate::traces;

/// The outbox that `outboxd migrate` makes.
pub const OUTBOX: &str = "outbox";
/// The ids of the messages that the service has applied.
const INBOX: &str = "inbox";
/// How long one message tries to get past others that change the same record: those behind it wait.
const MESSAGE_PATIENCE: Duration = Duration::from_millis(250);
/// When the server gives the messages of a killed instance to another one.
const ACK_WAIT: Duration = Duration::from_secs(5);
/// How often the NATS server is asked whether it is still there.
const PING: Duration = Duration::from_secs(5);
/// Messages without an ack, of all instances. When a killed instance leaves gaps, everything behind
/// a gap is among them.
const MAX_PENDING: u32 = 4096;
/// Connections to MongoDB. The driver's 10 are fewer than the requests that come at once.
const POOL: u32 = 64;
/// How long MongoDB is looked for before a request fails.
const SELECTION_TIME: Duration = Duration::from_secs(10);
/// How long requests and the message under way may take after SIGTERM.
const STOP_TIME: Duration = Duration::from_secs(10);
/// The code of MongoDB when a collection is there already.
const NAMESPACE_EXISTS: i32 = 48;
/// The code of MongoDB when a unique index has the value already.
pub const DUPLICATE_KEY: i32 = 11_000;

/// A service that is connected but doesn't answer yet.
pub struct Service {
    pub settings: Settings,
    pub database: Database,
    pub inbox: Inbox,
    stop: CancellationToken,
}

/// Ends the process the way `outcome` says.
pub fn exit(name: &str, outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

impl Service {
    /// Reads the environment and connects. `collections` are made if they are missing; the outbox
    /// must be there.
    pub async fn connect(name: &'static str, collections: &[&str]) -> Result<Self, Failure> {
        let settings = Settings::read(|name| std::env::var(name).ok())?;
        start_telemetry(name, &settings.client_id)?;

        let stop = stop_on_signals()?;
        let database = connect_mongodb(&settings).await?;
        let there = database.list_collection_names().await?;

        if !there.iter().any(|there| there == OUTBOX) {
            return Err(format!(
                "database {} has no outbox; run `outboxd migrate` on it",
                settings.database
            )
            .into());
        }

        for name in collections {
            match database.create_collection(*name).await {
                Err(error) if !is_code(&error, NAMESPACE_EXISTS) => return Err(error.into()),
                _ => {}
            }
        }

        let inbox = Inbox::new(&database, INBOX).patience(MESSAGE_PATIENCE);
        inbox.create().await?;

        Ok(Self { settings, database, inbox, stop })
    }

    /// What checks the users' tokens.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(&self.settings.jwt_key)
    }

    /// What makes the users' tokens.
    pub fn signer(&self) -> Signer {
        Signer::new(&self.settings.jwt_key)
    }

    /// Is cancelled when the service is to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Answers requests and hears `subjects` as `group` until SIGTERM, then finishes what is under
    /// way. One listener takes all subjects: two would lose the order between created and
    /// cancelled. The service answers while NATS is away, and events wait in the outbox.
    pub async fn run(
        self,
        routes: Router,
        group: &'static str,
        subjects: &[&str],
        handler: impl Handle + 'static,
    ) -> Result<(), Failure> {
        let Self { settings, inbox, stop, .. } = &self;
        // Every handler checks versions, so instances may work side by side.
        let listener = Listener::new(&settings.nats_url, &settings.stream, group, inbox.clone())
            .options(ConnectOptions::new().name(&settings.client_id).ping_interval(PING))
            .subjects(subjects.iter().copied())
            .max_ack_pending(MAX_PENDING)
            .ack_wait(ACK_WAIT)
            // Before the process ends, so that the message is given back.
            .drain(STOP_TIME / 2);
        let listening = listener.run(handler, stop.clone().cancelled_owned());
        self.run_beside(routes, listening).await
    }

    /// The same for a service that hears nothing.
    pub async fn answer(self, routes: Router) -> Result<(), Failure> {
        self.run_beside(routes, async { Ok(()) }).await
    }

    async fn run_beside(
        self,
        routes: Router,
        listening: impl Future<Output = Result<(), ListenError>> + Send + 'static,
    ) -> Result<(), Failure> {
        let Self { settings, stop, .. } = self;
        let socket = TcpListener::bind(settings.address)
            .await
            .map_err(|error| format!("{} can't be listened on: {error}", settings.address))?;
        let address = socket.local_addr()?;
        let stopping = stop.clone();
        let listening = tokio::spawn(async move {
            let listened = listening.await;
            // What the listener refuses, somebody has to change; requests are no reason to go on.
            if listened.is_err() {
                stopping.cancel();
            }
            listened
        });
        // Someone who has read enough is no reason to stop.
        let _ = writeln!(std::io::stdout(), "listening on http://{address}");

        info!(%address, database = settings.database, name = settings.client_id, "ready");
        let stopping = stop.clone();
        let server = axum::serve(socket, http::router(routes))
            .with_graceful_shutdown(stop.cancelled_owned());
        let over = async {
            stopping.cancelled().await;
            tokio::time::sleep(STOP_TIME).await;
        };

        let finished = async {
            let served = server.await;
            let listened = listening.await;
            http::all_done().await;
            served?;
            listened??;
            Ok::<_, Failure>(())
        };

        tokio::select! {
            finished = finished => finished?,
            () = over => warn!("the time to stop is over; what was under way is rolled back or heard again"),
        }

        traces::stop().await;
        info!("stopped");
        Ok(())
    }
}

/// Whether the server gave this code.
pub fn is_code(error: &mongodb::error::Error, code: i32) -> bool {
    use mongodb::error::{ErrorKind, WriteFailure};
    match &*error.kind {
        ErrorKind::Command(command) => command.code == code,
        ErrorKind::Write(WriteFailure::WriteError(write)) => write.code == code,
        _ => false,
    }
}

async fn connect_mongodb(settings: &Settings) -> Result<Database, Failure> {
    let mut options = ClientOptions::parse(&settings.mongodb_uri).await?;
    options.app_name = Some(settings.client_id.chars().take(128).collect());
    options.write_concern = Some(WriteConcern::majority());
    options.max_pool_size.get_or_insert(POOL);
    options.server_selection_timeout.get_or_insert(SELECTION_TIME);

    let database = Client::with_options(options)?.database(&settings.database);
    database
        .run_command(doc! { "ping": 1 })
        .await
        .map_err(|error| format!("MongoDB can't be reached: {error}"))?;

    Ok(database)
}

/// Log lines on standard error, and traces if the environment says where to.
fn start_telemetry(name: &'static str, instance: &str) -> Result<(), Failure> {
    traces::start(name, instance)?;
    let own = Targets::new().with_target(name, Level::INFO).with_target("ticketing", Level::INFO);
    let level = own.clone().with_default(Level::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false);
    let lines = lines.with_filter(level).with_filter(filter_fn(|of| of.is_event()));
    let spans = traces::tracer().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_filter(own)
            .with_filter(filter_fn(|of| of.is_span()))
    });

    let _ = tracing_subscriber::registry().with(lines).with(spans).try_init();
    Ok(())
}

fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let stopping = stop.clone();

    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopping.cancel();
    });

    Ok(stop)
}
