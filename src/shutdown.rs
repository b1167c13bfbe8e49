//! Signals of the operating system: those that stop, as a token that is cancelled once, and those
//! that ask the daemon to reload.
//!
//! A command line verb listens and hands the token down; nothing below it reads signals.

use std::sync::Arc;

use futures_util::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
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
    /// SIGQUIT, which Ctrl-\\ sends, and some service managers for a clean stop.
    Quit,
    /// SIGHUP, which a terminal sends when it closes.
    Hangup,
}

/// Signals that ask a daemon to read its settings again and to reopen its files. Log rotation sends
/// SIGUSR1 as well as SIGHUP.
const RELOADS: [(&str, SignalKind); 2] =
    [("SIGHUP", SignalKind::hangup()), ("SIGUSR1", SignalKind::user_defined1())];

/// Signals without a meaning here, that would end the process undrained. With SIGXFSZ outlived, a
/// limit on the size of files costs the line that it cuts off.
const OUTLIVED: [(&str, SignalKind); 3] = [
    ("SIGUSR2", SignalKind::user_defined2()),
    ("SIGALRM", SignalKind::alarm()),
    ("SIGXFSZ", SignalKind::from_raw(SIGXFSZ)),
];

/// The number of SIGXFSZ on Linux and macOS.
const SIGXFSZ: i32 = 25;

impl StopSignal {
    fn kind(self) -> SignalKind {
        match self {
            Self::Terminate => SignalKind::terminate(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Hangup => SignalKind::hangup(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
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
        listeners.push((stop.name(), listen(stop.kind())?));
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

/// Notifies whoever waits, or the next to wait, when a signal asks for a reload. From now on none
/// of those signals ends the process.
///
/// # Errors
/// [`ErrorKind::Os`] when the operating system does not deliver a signal.
pub(crate) fn on_reload_signals() -> Result<Arc<Notify>> {
    let reload = Arc::<Notify>::default();
    for (name, kind) in RELOADS {
        let (mut listener, reload) = (listen(kind)?, reload.clone());
        tokio::spawn(async move {
            while listener.recv().await.is_some() {
                info!(signal = name, "asked to reload");
                reload.notify_one();
            }
        });
    }

    Ok(reload)
}

/// From now on the signals that mean nothing here do not end the process either.
///
/// # Errors
/// [`ErrorKind::Os`] when the operating system does not deliver a signal.
pub(crate) fn outlive_signals() -> Result<()> {
    for (name, kind) in OUTLIVED {
        let mut listener = listen(kind)?;
        tokio::spawn(async move {
            while listener.recv().await.is_some() {
                info!(signal = name, "ignored a signal that has no effect");
            }
        });
    }

    Ok(())
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind)
        .map_err(|error| Error::with_source(ErrorKind::Os, "signals cannot be received", error))
}
