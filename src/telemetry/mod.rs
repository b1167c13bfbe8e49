//! What the daemon reports about itself: logs, metrics, health, alerts and traces.

pub(crate) mod alert;
mod alert_file;
mod alert_stream;
pub(crate) mod alerts;
mod formats;
mod gather;
pub(crate) mod health;
mod log_writer;
pub(crate) mod logs;
pub(crate) mod loss;
pub(crate) mod metrics;
pub(crate) mod seldom;
pub(crate) mod traces;
mod visible;
mod webhook;

/// Chooses the TLS implementation of the process, which must happen before a client is made. It is
/// chosen once; an error means that it already was.
pub(crate) fn choose_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
