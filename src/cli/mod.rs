//! The command line: one file per verb.

mod act;
mod audit;
mod check;
mod completions;
mod config;
mod confirm;
mod console;
mod edit;
mod editor;
mod explain;
mod fleet;
mod groups;
mod list;
mod migrate;
mod output;
mod privileges;
mod progress;
mod published;
mod replay;
mod request;
mod run;
mod selection;
mod show;
mod stats;
mod table;
mod verify;
mod wait;
mod watch;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::Sources;
use crate::error::Result;

/// What `--version` prints: the release, and the commit it was built from.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("OUTBOXD_COMMIT"), ")");

/// Relays events from a MongoDB outbox to NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "outboxd", version = VERSION, max_term_width = 100)]
#[command(
    after_help = "A flag overrides the environment, which overrides the file, which overrides the default.\n\n\
    The shortest start:\n  \
    export MONGODB_URI='mongodb://host/shop?replicaSet=rs0'\n  \
    export NATS_URL=nats://host:4222 NATS_CLUSTER_ID=SHOP\n  \
    export OUTBOXD_STREAM__SUBJECTS=ticket.created,ticket.updated\n  \
    outboxd migrate\n  \
    outboxd run\n\n\
    Exit codes: 0 success, 1 a problem or something not found, 64 an invalid command line, 78 a mistake in the \
    configuration, or an outbox that loses events."
)]
pub struct Cli {
    /// A TOML file with settings; config/outboxd.toml lists all of them
    #[arg(long, short, global = true, env = "OUTBOXD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, such as dispatch.max_in_flight=64; with `edit` also a part of the event, such as
    /// key=k1; may be repeated; not for secrets
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// One outbox of a configuration with several: `shop.outbox`, or its database alone
    #[arg(long, global = true, value_name = "NAME")]
    outbox: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Relay events until stopped
    #[command(after_help = "Examples:
  outboxd run
  outboxd run --config /etc/outboxd.toml --set lease.ttl=5s")]
    Run,
    /// Create the outbox's collections and index, and the stream, where they are missing
    #[command(after_help = "Examples:
  outboxd migrate
  outboxd migrate --print     # what would be created, for someone who has the rights
  outboxd migrate --status")]
    Migrate(migrate::Args),
    /// Show the outbox in numbers: what is stuck, how old it is, what is scheduled, which relay leads
    #[command(after_help = "Examples:
  outboxd stats
  outboxd stats --output json | jq .backlog")]
    Stats(stats::Args),
    /// Show groups of similar failures, each with what to do
    #[command(after_help = "Examples:
  outboxd groups
  outboxd groups 59a93a4f     # one of them, and what to do
  outboxd groups --subject 'tickets.>' --older-than 1h")]
    Groups(groups::Args),
    /// List stuck events, the oldest first, or scheduled events, the next one first
    #[command(after_help = "Examples:
  outboxd list --dead
  outboxd list --group 59a93a4f --limit 50 --page 2
  outboxd list --key t1 --output json
  outboxd list --scheduled")]
    List(list::Args),
    /// Show one event, the reason for its state, and what to do
    #[command(after_help = "Examples:
  outboxd show 6745f0a1b2c3d4e5f6a7b8c9
  outboxd show 6745f0a1b2c3d4e5f6a7b8c9 --payload")]
    Show(show::Args),
    /// Show the outbox and its relay live: rates, backlog, latency, stuck events
    #[command(after_help = "Examples:
  outboxd watch                          # q quits
  outboxd watch --admin http://tickets:9464
  outboxd watch --interval 10s --count 6 > minute.txt")]
    Watch(watch::Args),
    /// Serve the console, a web page that shows what is stuck and why
    #[command(after_help = "Examples:
  outboxd console                        # prints the address and a token
  outboxd console --set console.listen=127.0.0.1:8080")]
    Console,
    /// Publish stuck events again now, including dead ones, and scheduled ones before their time
    #[command(after_help = "Examples:
  outboxd retry-now 6745f0a1b2c3d4e5f6a7b8c9
  outboxd retry-now --all --group 59a93a4f --dry-run
  outboxd retry-now --all --group 59a93a4f --rate 100 --yes
  outboxd retry-now --all --subject 'tickets.>' --wait=2m")]
    RetryNow(act::RetryArgs),
    /// Remove stuck or scheduled events permanently, without publishing them
    #[command(after_help = "Examples:
  outboxd discard 6745f0a1b2c3d4e5f6a7b8c9 --reason 'sent by hand'
  outboxd discard --all --group 59a93a4f --dry-run
  outboxd discard --all --dead --older-than 7d
  outboxd discard --all --scheduled --key order-7
  outboxd discard --all --count 40 --yes      # without a filter: 40 events are expected")]
    Discard(act::DiscardArgs),
    /// Correct a dead event and publish it again
    #[command(after_help = "Examples:
  outboxd edit 6745f0a1b2c3d4e5f6a7b8c9       # in $EDITOR
  outboxd edit 6745f0a1b2c3d4e5f6a7b8c9 --set subject=ticket:moved --reason typo
  outboxd edit 6745f0a1b2c3d4e5f6a7b8c9 --set payload.price=5 --set headers.Content-Type=application/json")]
    Edit(edit::Args),
    /// Show events that were published and are kept: see the setting keep.for
    #[command(subcommand)]
    #[command(after_help = "Examples:
  outboxd published list --since 10m --subject 'tickets.>'
  outboxd published show 6745f0a1b2c3d4e5f6a7b8c9")]
    Published(published::Verb),
    /// Compare kept events with the stream; exit with 1 when the stream lacks any
    #[command(after_help = "Examples:
  outboxd verify
  outboxd verify --since 1h --output json
  outboxd verify --repair     # publishes what is missing, with the message ids it had")]
    Verify(verify::Args),
    /// Publish kept events again on purpose, for a consumer that has lost its data
    #[command(after_help = "Examples:
  outboxd replay 6745f0a1b2c3d4e5f6a7b8c9
  outboxd replay --all --since 2h --until 1h --subject 'tickets.>' --dry-run
  outboxd replay --all --since 2026-11-26T09:30:00Z --rate 200 --reason 'search index lost' --yes")]
    Replay(replay::Args),
    /// Show who retried, edited or discarded which events
    #[command(after_help = "Examples:
  outboxd audit
  outboxd audit --limit 100 --output json")]
    Audit(audit::Args),
    /// Check MongoDB, NATS and the outbox for problems; exit with 1 when there is one
    #[command(after_help = "Examples:
  outboxd check
  outboxd check --strict --output json   # for CI and init containers: a warning also exits with 1
  outboxd check --live                   # for a container's health check")]
    Check(check::Args),
    /// Print the smallest roles for MongoDB and permissions for NATS
    #[command(after_help = "Examples:
  outboxd privileges
  outboxd privileges --role relay --output json | jq '.[0].nats'")]
    Privileges(privileges::Args),
    /// Explain what a failure code means and what to do
    #[command(after_help = "Examples:
  outboxd explain             # every code
  outboxd explain not-covered")]
    Explain(explain::Args),
    /// Show the configuration
    #[command(subcommand)]
    #[command(after_help = "Examples:
  outboxd config print
  outboxd config schema > outboxd.schema.json
  outboxd config check config/outboxd.toml")]
    Config(config::Verb),
    /// Print a script that makes a shell complete verbs and flags
    #[command(after_help = "Examples:
  outboxd completions bash > /etc/bash_completion.d/outboxd
  outboxd completions zsh > \"${fpath[1]}/_outboxd\"")]
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = "Examples:
  outboxd man /usr/local/share/man/man1")]
    Man(completions::ManArgs),
}

impl Verb {
    /// Whether it needs the outboxes that `outboxes.discover` finds. A daemon finds them itself.
    fn looks_at_outboxes(&self) -> bool {
        !matches!(
            self,
            Self::Run
                | Self::Privileges(_)
                | Self::Explain(_)
                | Self::Config(_)
                | Self::Completions(_)
                | Self::Man(_)
        )
    }
}

impl Cli {
    /// Runs the verb. `env` is the process's environment.
    ///
    /// # Errors
    /// One sentence that states what to do; the process exits non-zero.
    pub(crate) async fn run(self, env: Vec<(String, String)>) -> Result<()> {
        let (event, set) = match &self.verb {
            Verb::Edit(_) => edit::part_sets(self.set),
            _ => (Vec::new(), self.set),
        };
        let sources =
            Sources { file: self.config, env, set, outbox: self.outbox, ..Sources::default() };
        let looks = self.verb.looks_at_outboxes() || sources.outbox.is_some();
        let sources = if looks { fleet::found(sources).await? } else { sources };

        match self.verb {
            Verb::Run => run::run(&sources).await,
            Verb::Migrate(args) => migrate::run(&sources, &args).await,
            Verb::Stats(args) => stats::run(&sources, &args).await,
            Verb::Groups(args) => groups::run(&sources, &args).await,
            Verb::List(args) => list::run(&sources, &args).await,
            Verb::Show(args) => show::run(&sources, &args).await,
            Verb::Watch(args) => watch::run(&sources, &args).await,
            Verb::Console => console::run(&sources).await,
            Verb::RetryNow(args) => act::retry_now(&sources, &args).await,
            Verb::Discard(args) => act::discard(&sources, &args).await,
            Verb::Edit(args) => edit::run(&sources, &args, &event).await,
            Verb::Published(verb) => published::run(&sources, &verb).await,
            Verb::Verify(args) => verify::run(&sources, &args).await,
            Verb::Replay(args) => replay::run(&sources, &args).await,
            Verb::Audit(args) => audit::run(&sources, &args).await,
            Verb::Check(args) => check::run(&sources, &args).await,
            Verb::Privileges(args) => privileges::run(&sources, &args),
            Verb::Explain(args) => explain::run(&args),
            Verb::Config(verb) => config::run(&sources, &verb),
            Verb::Completions(args) => completions::completions(Self::command(), &args),
            Verb::Man(args) => completions::man(Self::command(), &args),
        }
    }
}
