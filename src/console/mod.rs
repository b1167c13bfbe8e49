//! The console: a web page on which people see what is stuck and why, and act on exactly that.
//!
//! ```text
//!  browser ──▶ server ──▶ access ──▶ pages ──▶ operator, mongodb: what the command line uses, too
//!     ▲                                │
//!     └──── live: one stream a page ◀──┴── sampler: one for an outbox, however many watch
//! ```
//!
//! - `server`: connections, TLS and the headers of every answer
//! - `access`, `guesses`: who is there, what they may do, their sessions; who tries wrong tokens
//! - `site`, `outbox`: what every page needs, with connections that follow rotated secrets
//! - `sample`, `sampler`, `live`: what was last seen of each outbox, and that as a stream
//! - `jobs`: actions, from what somebody was shown to what came of it
//! - `text`, `redact`, `chart`: foreign text, payloads and small charts in pages
//! - `pages`: a file for each page, with its template in `templates`
//!
//! Every document shown is hostile input: templates escape everything, and an answer forbids
//! scripts and styles but the console's own two files. A page without script can be read whole.

mod access;
mod chart;
mod guesses;
mod jobs;
mod live;
mod outbox;
mod pages;
mod redact;
mod sample;
mod sampler;
mod server;
mod site;
mod text;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::info;

use self::access::Access;
use self::guesses::Guesses;
use self::jobs::Jobs;
use self::outbox::Outbox;
use self::site::Site;
use crate::config::{Fleet, PersonConfig, Role, Sources};
use crate::error::Result;

/// A console that listens.
#[derive(Debug)]
pub(crate) struct Console {
    /// Its address, for people.
    pub(crate) url: String,
    /// Whom the settings do not name: with this token the person who started it signs in.
    pub(crate) token: Option<String>,
    site: Arc<Site>,
}

impl Console {
    /// Waits until what people have begun is ended, once the console was asked to stop.
    pub(crate) async fn ended(&self) {
        self.site.jobs.ended().await;
    }
}

/// Starts a console over the outboxes of the configuration. It runs until `stop`, and takes rotated
/// secrets from `sources`. `who` started it.
///
/// # Errors
/// [`crate::error::ErrorKind::Config`] when the address can't be listened on, or the certificate
/// can't be used; MongoDB's when its name can't be resolved.
pub(crate) async fn start(
    fleet: &Fleet,
    sources: &Sources,
    who: &str,
    stop: &CancellationToken,
) -> Result<Console> {
    let settings = &fleet.any().console;
    let is_unset = settings.people.is_empty() && settings.proxy.is_none();
    let token = is_unset.then(access::random);
    let access = match &token {
        Some(token) => Access::of_one(PersonConfig::new(who, Role::Operator, token)),
        None => Access::new(settings.people.clone(), settings.proxy.clone()),
    };

    let outboxes = Outbox::open_all(fleet).await?;
    let site = Arc::new(Site {
        access: access.of(settings),
        guesses: Guesses::default(),
        jobs: Jobs::new(stop.clone()),
        outboxes,
    });

    site.outboxes.iter().for_each(sampler::start);
    let url = server::start(site.clone(), settings, stop).await?;
    info!(url, "the console listens");
    site::follow(site.clone(), fleet.clone(), sources.clone(), stop.clone());
    Ok(Console { url, token, site })
}
