//! The one shutdown signal: signals of the operating system as a token that is cancelled once.
//!
//! A command line verb listens and hands the token down; nothing below it reads signals.

use futures_util::future::select_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::error::{Error, ErrorKind, Result};

/// A signal that asks the process to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopSignal {
    /// SIGTERM, which service managers send.
    Terminate,
    /// SIGINT, which Ctrl-C sends.
    Interrupt,
    /// SIGHUP, which a terminal sends when it closes.
    Hangup,
}

impl StopSignal {
    fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Hangup => SignalKind::hangup(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
        }
    }
}

/// A token that the first of these signals cancels. From now on none of them ends the process.
///
/// # Errors
/// [`ErrorKind::Os`] when the operating system does not deliver a signal.
pub(crate) fn on_signals(signals: &[StopSignal]) -> Result<CancellationToken> {
    let mut listeners = Vec::with_capacity(signals.len());
    for stop in signals {
        let listener = signal(stop.kind()).map_err(|error| {
            Error::with_source(ErrorKind::Os, "signals cannot be received", error)
        })?;
        listeners.push((stop.name(), listener));
    }

    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        let received = listeners.iter_mut().map(|(name, listener)| {
            Box::pin(async move {
                listener.recv().await;
                *name
            })
        });

        let (signal, ..) = select_all(received).await;
        info!(signal, "stopping");
        stopping.cancel();
    });

    Ok(stop)
}
