//! What the relay says about itself.

pub(crate) mod alerts;
pub(crate) mod health;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod traces;
mod webhook;

/// TLS is compiled in and wants an implementation chosen before a client is made; an error only
/// says that one is.
pub(crate) fn choose_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}
