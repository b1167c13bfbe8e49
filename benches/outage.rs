//! An outage of NATS: the service keeps writing, and the relay drains the outbox afterwards.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::load::Service;
use super::peer::Peer;
use super::process::Running;
use super::report::Report;
use super::stage::{Stage, env, epoch_seconds};

const COLUMNS: &[&str] = &[
    "s to drain",
    "events waiting",
    "MB before",
    "MB half-way",
    "MB at the end of it",
    "peak MB",
    "missing",
    "copies",
];

/// How long the service writes before the outage.
const BEFORE: Duration = Duration::from_secs(10);

/// A drain that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long nats-server may need to listen.
const STARTUP: Duration = Duration::from_secs(10);

pub(crate) fn title(seconds: u32, rate: u32) -> String {
    format!("outage of {seconds} s at {rate} transactions/s")
}

/// Measures outboxd only: the other peers end during the outage, or lose what was written in it.
pub(crate) async fn outage(report: &mut Report, seconds: u32, rate: u32) {
    let title = title(seconds, rate);

    for turn in report.begin(&title, COLUMNS, &[Peer::Outboxd]) {
        let figures = outage_once(turn.peer, seconds, rate).await;
        report.add(&title, turn, &figures);
    }
}

async fn outage_once(peer: Peer, seconds: u32, rate: u32) -> [f64; 8] {
    let mut nats = NatsServer::start();
    let mut stage = Stage::with_nats(nats.url()).await;
    peer.prepare(&stage);

    let mut running = peer.start(&stage, epoch_seconds());
    let warm_up = stage.warm_up(&mut running).await;

    let service = Service::start(&stage).await;
    let before = warm_up + service.at_rate(rate, BEFORE).await.len() as u64;
    stage.delivered(&mut running, before).await;
    let mb_before = running.resident_mb();

    nats.stop();
    let half = Duration::from_secs(seconds.into()) / 2;
    let mut waiting = service.at_rate(rate, half).await.len() as u64;
    let mb_half_way = running.resident_mb();
    waiting += service.at_rate(rate, half).await.len() as u64;
    let mb_at_end = running.resident_mb();

    nats.start_again();
    let seconds_to_drain = drained(&stage, &mut running).await.as_secs_f64();
    let peak_mb = running.peak_mb();

    let (messages, expected) = (stage.messages().await, before + waiting);
    drop(running);
    stage.tear_down().await;

    [
        seconds_to_drain,
        waiting as f64,
        mb_before,
        mb_half_way,
        mb_at_end,
        peak_mb,
        expected.saturating_sub(messages) as f64,
        messages.saturating_sub(expected) as f64,
    ]
}

/// Waits until the outbox is empty. Returns how long that took.
async fn drained(stage: &Stage, running: &mut Running) -> Duration {
    let began = Instant::now();

    while !stage.is_empty().await {
        assert!(running.is_alive(), "outboxd ended before it had drained the outbox");
        assert!(began.elapsed() < PATIENCE, "the outbox was not empty after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    began.elapsed()
}

/// A nats-server that the measurement can stop and start again.
struct NatsServer {
    child: Child,
    port: u16,
    data: tempfile::TempDir,
}

impl NatsServer {
    fn start() -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0))
            .and_then(|free| free.local_addr())
            .expect("a free port")
            .port();

        let data = tempfile::tempdir().expect("a directory for the data");
        let child = Self::run(port, &data);
        Self { child, port, data }
    }

    fn run(port: u16, data: &tempfile::TempDir) -> Child {
        let child = Command::new(env("OUTBOXD_NATS_SERVER"))
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");

        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < STARTUP, "nats-server did not listen within {STARTUP:?}");
            std::thread::sleep(Duration::from_millis(10));
        }

        child
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        self.child.kill().expect("nats-server is killed");
        self.child.wait().expect("nats-server has ended");
    }

    fn start_again(&mut self) {
        self.child = Self::run(self.port, &self.data);
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
