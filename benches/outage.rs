//! NATS goes away, the service goes on, and NATS comes back.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::drain::now;
use super::load::Service;
use super::peer::Peer;
use super::report::Report;
use super::stage::{Stage, env};

pub(crate) const COLUMNS: &[&str] = &[
    "s to drain",
    "events waiting",
    "MB before",
    "MB half-way",
    "MB at the end of it",
    "peak MB",
    "missing",
    "copies",
];
/// At the pace of the outage, before it.
const BEFORE: Duration = Duration::from_secs(10);
/// A drain that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(600);

pub(crate) fn title(seconds: u32, rate: u32) -> String {
    format!("outage of {seconds} s at {rate} transactions/s")
}

/// Only outboxd: none of the others is there afterwards, or has what was written meanwhile.
pub(crate) async fn outage(report: &mut Report, seconds: u32, rate: u32) {
    let title = title(seconds, rate);
    report.begin(&title, COLUMNS, &[Peer::Outboxd]);
    for round in 1..=report.rounds {
        let mut nats = NatsServer::start();
        let mut stage = Stage::with_nats(nats.url()).await;
        Peer::Outboxd.prepare(&stage);
        let mut running = Peer::Outboxd.start(&stage, now());
        let before = stage.warm_up(&mut running).await;
        let service = Service::start(&stage).await;
        let first = service.at_a_pace(rate, BEFORE).await.len() as u64;
        stage.delivered(&mut running, before + first).await;
        let mb_before = running.resident_mb();

        nats.stop();
        let half = Duration::from_secs(seconds.into()) / 2;
        let mut waiting = service.at_a_pace(rate, half).await.len() as u64;
        let mb_half_way = running.resident_mb();
        waiting += service.at_a_pace(rate, half).await.len() as u64;
        let mb_during = running.resident_mb();
        nats.start_again();
        let back = Instant::now();
        while !stage.is_empty().await {
            assert!(running.is_alive(), "outboxd has ended");
            assert!(back.elapsed() < PATIENCE, "events were left after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let took = back.elapsed().as_secs_f64();
        let (messages, expected) = (stage.messages().await, before + first + waiting);
        let figures = [
            took,
            waiting as f64,
            mb_before,
            mb_half_way,
            mb_during,
            running.peak_mb(),
            expected.saturating_sub(messages) as f64,
            messages.saturating_sub(expected) as f64,
        ];
        drop(running);
        report.add(&title, round, Peer::Outboxd, &figures);
        stage.tear_down().await;
    }
}

/// A nats-server that may be stopped.
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
        let data = tempfile::tempdir().expect("a folder for the data");
        let child = Self::run(port, &data);
        Self { child, port, data }
    }

    fn run(port: u16, data: &tempfile::TempDir) -> Child {
        let mut command = Command::new(env("OUTBOXD_NATS_SERVER"));
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(data.path());
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("nats-server starts");
        let began = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(10), "nats-server doesn't listen");
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
