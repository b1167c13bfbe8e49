//! The figures of one run: for each measurement, each peer and each round. Medians and spreads are
//! computed here; tables, picture and files are made elsewhere.

use std::time::Instant;

use super::peer::Peer;

/// Everything that one run measures, in order.
#[derive(Debug)]
pub(crate) struct Report {
    /// How often each peer has its turn in each measurement.
    pub(crate) rounds: usize,
    /// The builds of outboxd that are measured beside it, wherever it is measured.
    pub(crate) builds: Vec<Peer>,
    /// Whether all peers but outboxd and these builds are left out.
    builds_only: bool,
    pub(crate) parts: Vec<Part>,
    began: Instant,
}

/// A peer's turn: it does its work once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) round: usize,
    pub(crate) peer: Peer,
}

/// One measurement of several peers.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) title: String,
    /// The names of the figures. Peers are compared by the first.
    pub(crate) columns: &'static [&'static str],
    pub(crate) peers: Vec<Measured>,
}

/// The figures of one peer in one measurement.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) peer: Peer,
    /// The figures of each round, in the order of the columns; or why the peer can't be run.
    pub(crate) rounds: Result<Vec<Vec<f64>>, String>,
}

/// Median, smallest and largest of some values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Report {
    pub(crate) fn new(rounds: usize, builds: Vec<Peer>, builds_only: bool) -> Self {
        Self { rounds, builds, builds_only, parts: Vec::new(), began: Instant::now() }
    }

    /// Begins a measurement and fetches its peers. Returns the turns of those that can be run,
    /// round after round. Every second round goes through the peers in reverse, so that no peer
    /// always follows the same one.
    pub(crate) fn begin(
        &mut self,
        title: &str,
        columns: &'static [&'static str],
        peers: &[Peer],
    ) -> Vec<Turn> {
        let measured = |peer: &Peer| {
            let rounds = peer.fetch().map(|()| Vec::new());
            if let Err(reason) = &rounds {
                eprintln!("{title}: {} is not run: {reason}", peer.name());
            }
            Measured { peer: *peer, rounds }
        };
        let peers: Vec<_> = self.with_builds(peers).iter().map(measured).collect();

        let runnable = peers.iter().filter(|measured| measured.rounds.is_ok());
        let mut runnable: Vec<_> = runnable.map(|measured| measured.peer).collect();

        let mut turns = Vec::new();
        for round in 1..=self.rounds {
            turns.extend(runnable.iter().map(|peer| Turn { round, peer: *peer }));
            runnable.reverse();
        }

        self.parts.push(Part { title: title.to_owned(), columns, peers });
        turns
    }

    /// The peers of a measurement, with the other builds of outboxd after outboxd.
    fn with_builds(&self, peers: &[Peer]) -> Vec<Peer> {
        let mut all = Vec::new();
        for peer in peers {
            if *peer == Peer::Outboxd {
                all.push(*peer);
                all.extend(&self.builds);
            } else if !self.builds_only {
                all.push(*peer);
            }
        }
        all
    }

    /// Records the figures of one peer's turn, and prints them on standard error.
    pub(crate) fn add(&mut self, title: &str, turn: Turn, figures: &[f64]) {
        let Turn { round, peer } = turn;
        let (elapsed, rounds) = (self.began.elapsed().as_secs(), self.rounds);
        let part = self
            .parts
            .iter_mut()
            .rfind(|part| part.title == title)
            .expect("a measurement that has begun");

        let shown: Vec<_> = part
            .columns
            .iter()
            .zip(figures)
            .map(|(name, value)| format!("{} {name}", short(*value)))
            .collect();
        eprintln!(
            "{elapsed:>5} s  {title}, round {round} of {rounds}: {}: {}",
            peer.name(),
            shown.join(", ")
        );

        let measured = part
            .peers
            .iter_mut()
            .find(|measured| measured.peer == peer)
            .expect("a peer of this measurement");
        measured.rounds.as_mut().expect("a peer that can be run").push(figures.to_vec());
    }

    /// The median of one figure; `None` if this run didn't measure it.
    pub(crate) fn median(&self, title: &str, peer: Peer, column: &str) -> Option<f64> {
        let part = self.parts.iter().find(|part| part.title == title)?;
        let column = part.columns.iter().position(|name| *name == column)?;

        part.of(peer)?.spread(column).map(|spread| spread.median)
    }
}

impl Part {
    pub(crate) fn of(&self, peer: Peer) -> Option<&Measured> {
        self.peers.iter().find(|measured| measured.peer == peer)
    }
}

impl Measured {
    /// Median and spread of one column over the rounds; `None` if the peer wasn't run.
    pub(crate) fn spread(&self, column: usize) -> Option<Spread> {
        let values = self.rounds.as_ref().ok()?.iter().map(|round| round.get(column).copied());
        Spread::of(values.collect::<Option<_>>()?)
    }

    /// One column divided by that of another peer, round by round; `None` if one of them wasn't
    /// run, or if a quotient isn't a number.
    pub(crate) fn beside(&self, other: &Self, column: usize) -> Option<Spread> {
        let (rounds, others) = (self.rounds.as_ref().ok()?, other.rounds.as_ref().ok()?);

        let quotients = rounds.iter().zip(others).map(|(round, other)| {
            let quotient = round.get(column)? / other.get(column)?;
            quotient.is_finite().then_some(quotient)
        });
        Spread::of(quotients.collect::<Option<_>>()?)
    }
}

impl Spread {
    /// `None` if there are no values.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);

        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            (values[middle - 1] + values[middle]) / 2.0
        } else {
            values[middle]
        };

        Some(Self { median, least, most })
    }

    /// The median, and the smallest and the largest value in parentheses.
    pub(crate) fn shown(self) -> String {
        if self.least == self.most {
            return short(self.median);
        }
        format!("{} ({} to {})", short(self.median), short(self.least), short(self.most))
    }
}

/// A number with at least three digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
