//! Reads the shared stream, and hands out its changes by their namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bson::{RawBsonRef, RawDocument, Timestamp};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::buffer::{Buffer, Held, Part};
use super::share::Share;
use crate::relay::ports::shared::{ChangeSource, ChangeStream as _, Watched};
use crate::relay::ports::{
    EventPage as _, EventTail as _, StoreError, StoreErrorKind, StoreResult,
};

/// How often the stream is opened again to leave out what nobody wants: a follower that sweeps is back
/// in less, and outboxes don't move between daemons all the time.
const NARROWED: Duration = Duration::from_secs(60);

/// A follower joins.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) watched: Watched,
    pub(super) answer: oneshot::Sender<StoreResult<Option<Share>>>,
}

/// See the module.
pub(super) struct Reader<S: ChangeSource> {
    source: S,
    asks: mpsc::Receiver<Ask>,
    open: Option<Open<S::Stream>>,
    followers: Vec<Follower>,
    /// The followers of each namespace, as their places among all of them.
    places: HashMap<Box<[u8]>, Vec<usize>>,
    held: Held,
    /// Most bytes in all buffers.
    room: usize,
}

/// The stream, and what it is of.
struct Open<S> {
    stream: S,
    watched: Vec<Watched>,
    opened: Instant,
    /// Whether a follower has gone since the stream was opened.
    is_wide: bool,
}

struct Follower {
    watched: Watched,
    buffer: Arc<Buffer>,
}

impl Follower {
    fn is_gone(&self) -> bool {
        Arc::strong_count(&self.buffer) == 1 || self.buffer.has_ended()
    }
}

impl<S: ChangeSource> Reader<S> {
    pub(super) fn new(source: S, asks: mpsc::Receiver<Ask>, room: usize) -> Self {
        Self {
            source,
            asks,
            open: None,
            followers: Vec::new(),
            places: HashMap::new(),
            held: Held::default(),
            room,
        }
    }

    /// Reads while anybody follows, until all handles are gone.
    pub(super) async fn run(mut self) {
        loop {
            let Some(open) = &mut self.open else {
                let Some(ask) = self.asks.recv().await else { return };
                self.admit(ask).await;
                continue;
            };

            let page = tokio::select! {
                biased;
                ask = self.asks.recv() => match ask {
                    Some(ask) => {
                        self.admit(ask).await;
                        continue;
                    }
                    None => return,
                },
                page = open.stream.next() => page,
            };

            let handed_out = match page {
                Ok(Some(page)) => self.hand_out(page.documents()),
                Ok(None) => Err(StoreError::unexpected("the shared change stream ended")),
                Err(error) => Err(error),
            };

            if let Err(error) = handed_out {
                self.end(error);
                continue;
            }

            self.make_room();
            self.forget_the_gone().await;
        }
    }

    /// Lets followers join: all that ask now, because to open the stream again costs the same for
    /// one as for all.
    async fn admit(&mut self, first: Ask) {
        let mut asks = vec![first];
        while let Ok(ask) = self.asks.try_recv() {
            asks.push(ask);
        }

        let has = |open: &Open<_>, ask: &Ask| open.watched.contains(&ask.watched);
        let has_all = |open: &Open<_>| asks.iter().all(|ask| has(open, ask));
        if !self.open.as_ref().is_some_and(has_all) {
            let asked: Vec<_> = asks.iter().map(|ask| ask.watched.clone()).collect();
            let unopened = match self.open_again(asked).await {
                Ok(true) => None,
                Ok(false) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };

            if let Some(unopened) = unopened {
                self.end(unopened.clone().err().unwrap_or_else(refused));
                for ask in asks {
                    // A follower that doesn't wait any more has stopped.
                    _ = ask.answer.send(unopened.clone().map(|()| None));
                }
                return;
            }
        }

        let Some(began) = self.open.as_ref().map(|open| open.stream.began()) else { return };
        for Ask { watched, answer } in asks {
            let buffer = Arc::new(Buffer::new(self.held.clone()));
            let share = Share::new(buffer.clone(), began);
            self.followers.push(Follower { watched, buffer });
            _ = answer.send(Ok(Some(share)));
        }
        self.place();
    }

    /// Opens the stream with these collections too, where it is, or now if it isn't. False if the
    /// user has no right to it.
    async fn open_again(&mut self, asked: Vec<Watched>) -> StoreResult<bool> {
        let before = self.open.take();
        let of = |follower: &Follower| follower.watched.clone();
        let mut watched: BTreeSet<_> = self.followers.iter().map(of).chain(asked).collect();
        if let Some(open) = &before
            && !open.stream.may_drop()
        {
            watched.extend(open.watched.iter().cloned());
        }
        let watched: Vec<_> = watched.into_iter().collect();

        // What it has read and not handed out is read again.
        let place = before.map(|open| open.stream.place());
        let Some(stream) = self.source.open(&watched, place.as_ref()).await? else {
            return Ok(false);
        };

        debug!(collections = watched.len(), "opened the shared change stream");
        self.open = Some(Open { stream, watched, opened: Instant::now(), is_wide: false });
        Ok(true)
    }

    /// Puts each change of a page into the buffers of those who follow its collection.
    fn hand_out(&mut self, page: StoreResult<&bson::RawArray>) -> StoreResult<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let (mut changes, mut bytes, mut last) = (0, 0, None);
        let mut parts: BTreeMap<usize, (Part, Timestamp)> = BTreeMap::new();

        for change in page? {
            let seen = Seen::of(change)?;
            (changes, bytes) = (changes + 1, bytes + seen.change.as_bytes().len());
            last = Some(seen.at);

            let of = |namespace: &RawDocument| self.places.get(namespace.as_bytes());
            let followers = [Some(seen.namespace), seen.to].into_iter().flatten().filter_map(of);
            for &place in followers.flatten() {
                let (part, at) = parts.entry(place).or_insert_with(|| (Part::default(), seen.at));
                part.changes.push(seen.change);
                *at = seen.at;
            }
        }

        let may_be_cut = open.stream.may_be_cut(changes, bytes);
        for (place, (part, at)) in parts {
            let is_cut = may_be_cut && Some(at) == last;
            self.followers[place].buffer.fill(Part { is_cut, ..part });
        }

        Ok(())
    }

    /// Empties the fullest buffers until all fit.
    fn make_room(&mut self) {
        while self.held.load(Ordering::Relaxed) > self.room {
            let fullest = self.followers.iter().max_by_key(|follower| follower.buffer.bytes());
            let Some(Follower { watched: Watched { database, collection, .. }, buffer }) = fullest
            else {
                return;
            };

            debug!(
                database,
                collection, "the fullest buffer of the shared change stream is emptied"
            );
            buffer.overflow();
        }
    }

    /// Forgets the followers that have stopped or have to sweep. The stream is closed when it has
    /// no more followers, and opened again without what nobody wants when it may leave that out.
    async fn forget_the_gone(&mut self) {
        let before = self.followers.len();
        self.followers.retain(|follower| !follower.is_gone());
        let has_fewer = self.followers.len() < before;
        if has_fewer {
            self.place();
        }

        if self.followers.is_empty() {
            self.open = None;
        }
        let Some(open) = &mut self.open else { return };
        open.is_wide |= has_fewer;
        if !open.is_wide || open.opened.elapsed() < NARROWED || !open.stream.may_drop() {
            return;
        }

        let followed: BTreeSet<_> =
            self.followers.iter().map(|follower| &follower.watched).collect();
        if open.watched.len() == followed.len() {
            open.is_wide = false;
            return;
        }

        match self.open_again(Vec::new()).await {
            Ok(true) => {}
            Ok(false) => self.end(refused()),
            Err(error) => self.end(error),
        }
    }

    /// Notes who follows which namespace.
    fn place(&mut self) {
        self.places.clear();
        for (place, follower) in self.followers.iter().enumerate() {
            let namespace = follower.watched.namespace().into_bytes().into();
            self.places.entry(namespace).or_default().push(place);
        }
    }

    /// The stream has ended: every follower sweeps again.
    fn end(&mut self, error: StoreError) {
        self.open = None;
        self.followers.drain(..).for_each(|follower| follower.buffer.end(error.clone()));
        self.places.clear();
    }
}

/// For those who follow a stream that the user has lost the right to.
fn refused() -> StoreError {
    StoreError::new(StoreErrorKind::Refused, "the user may not watch the collections any more")
}

/// What of a change says whose it is.
struct Seen<'a> {
    change: &'a RawDocument,
    namespace: &'a RawDocument,
    /// Of a collection that was renamed: the one that it has taken the place of.
    to: Option<&'a RawDocument>,
    at: Timestamp,
}

impl<'a> Seen<'a> {
    fn of(change: bson::error::Result<RawBsonRef<'a>>) -> StoreResult<Self> {
        let change = change.map_err(StoreError::unexpected)?.as_document();
        let change = change.ok_or_else(|| StoreError::unexpected("a change is no document"))?;

        let (mut namespace, mut to, mut at) = (None, None, None);
        for element in change.iter_elements() {
            let element = element.map_err(StoreError::unexpected)?;
            let value = || element.value().map_err(StoreError::unexpected);
            match element.key().as_str() {
                "ns" => namespace = value()?.as_document(),
                "to" => to = value()?.as_document(),
                "clusterTime" => at = value()?.as_timestamp(),
                _ => {}
            }
        }

        match (namespace, at) {
            (Some(namespace), Some(at)) => Ok(Self { change, namespace, to, at }),
            _ => {
                Err(StoreError::unexpected("the shared change stream ended: its database is gone"))
            }
        }
    }
}
