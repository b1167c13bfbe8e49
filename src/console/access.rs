//! Who is there, and what they may do.
//!
//! A person signs in with a token, or a trusted proxy gives the name in a header. Either way there is
//! a session: a random cookie, which only the console can read, and a token that every form
//! carries. So no other site can act in a person's name. Sessions are in memory; a restart ends
//! them, and so does a token that was taken out of the settings.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::config::{ConsoleConfig, PersonConfig, ProxyConfig, Role};

/// How long a session lasts: a shift.
const LASTS: Duration = Duration::from_secs(12 * 3600);
/// Most sessions at once; the one that ends first makes room.
const MAX_SESSIONS: usize = 10_000;
/// Most sessions of one person, who makes room for the next one. A program that keeps no cookies gets
/// one with every request that a proxy lets through.
const MAX_OF_ONE: usize = 32;
/// Longest name that a proxy may give.
const MAX_NAME: usize = 256;
const COOKIE: &str = "outboxd_session";
/// Why a viewer can't act.
pub(super) const DENIED: &str =
    "You are signed in as a viewer. Only an operator may act on events.";
/// Begins the name of a cookie that browsers take from this host over TLS alone.
const OF_HOST: &str = "__Host-";

/// SHA-256 of a secret. Digests are compared, so that the time it takes reveals nothing.
type Digest = [u8; 32];

/// Somebody who is signed in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: String,
    pub(super) role: Role,
    /// What each form must carry.
    pub(super) csrf: String,
    /// Digest of the session's cookie.
    pub(super) session: Digest,
}

impl Person {
    pub(super) fn may_act(&self) -> bool {
        self.role == Role::Operator
    }

    /// Why this person can't act on events.
    pub(super) fn denied(&self) -> Option<&'static str> {
        (!self.may_act()).then_some(DENIED)
    }

    /// For the audit. Commands have the name of their user and machine there.
    pub(super) fn who(&self) -> String {
        format!("{}@console", self.name)
    }

    /// Whether a form that carries this is one of the session's.
    pub(super) fn is_sender(&self, csrf: &str) -> bool {
        digest(csrf) == digest(&self.csrf)
    }
}

/// The people, and their sessions.
#[derive(Debug)]
pub(super) struct Access {
    rules: RwLock<Rules>,
    sessions: Mutex<HashMap<Digest, Session>>,
    /// Whether somebody has a token that is not in the settings.
    is_unset: bool,
    /// Where the console listens: browsers share cookies among the ports of a host.
    port: u16,
    /// Whether the console itself speaks TLS.
    is_tls: bool,
}

#[derive(Debug)]
struct Rules {
    people: Vec<PersonConfig>,
    proxy: Option<ProxyConfig>,
}

#[derive(Debug)]
struct Session {
    of: Of,
    csrf: String,
    ends: Instant,
}

/// Whose a session is.
#[derive(Debug, PartialEq, Eq)]
enum Of {
    /// The person with the token of this digest.
    Token(Digest),
    /// The person with this name at the proxy.
    Proxy(String),
}

/// Who sent a request.
#[derive(Debug)]
pub(super) enum Sender {
    Known(Person),
    /// Known by the proxy, without a session so far: the answer sets this cookie.
    New(Person, String),
    Nobody,
}

impl Access {
    pub(super) fn new(people: Vec<PersonConfig>, proxy: Option<ProxyConfig>) -> Self {
        Self {
            rules: RwLock::new(Rules { people, proxy }),
            sessions: Mutex::default(),
            is_unset: false,
            port: 0,
            is_tls: false,
        }
    }

    /// The same, for whoever has a token that was made at the start.
    pub(super) fn of_one(person: PersonConfig) -> Self {
        Self { is_unset: true, ..Self::new(vec![person], None) }
    }

    /// The same, for a console with these settings.
    pub(super) fn of(self, config: &ConsoleConfig) -> Self {
        Self { port: config.address().port(), is_tls: config.tls.is_some(), ..self }
    }

    /// Changes to the people of other settings.
    pub(super) fn rotate(&self, config: &ConsoleConfig) {
        if !self.is_unset {
            let rules = Rules { people: config.people.clone(), proxy: config.proxy.clone() };
            *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        }
    }

    /// Takes everybody out who isn't among these people, and lets nobody else in.
    pub(super) fn keep(&self, people: &[PersonConfig]) {
        if !self.is_unset {
            let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
            rules.people.retain(|person| people.contains(person));
        }
    }

    /// Whether the browser speaks TLS, to the console or to its proxy: then a cookie demands it.
    pub(super) fn is_secure(&self, headers: &HeaderMap, from: IpAddr) -> bool {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let is_by_proxy = rules.proxy.as_ref().is_some_and(|proxy| proxy.is_at(from));
        let is_https = headers.get("x-forwarded-proto").is_some_and(|proto| proto == "https");
        self.is_tls || is_by_proxy && is_https
    }

    /// A line that sets the cookie of a session, or removes it.
    pub(super) fn set_cookie(&self, cookie: Option<&str>, is_secure: bool) -> String {
        let secure = if is_secure { "; Secure" } else { "" };
        let (value, lasts) = cookie.map_or(("", 0), |cookie| (cookie, LASTS.as_secs()));
        let name = self.cookie_name(is_secure);
        format!("{name}={value}; Path=/; Max-Age={lasts}; HttpOnly; SameSite=Lax{secure}")
    }

    fn cookie_name(&self, is_secure: bool) -> String {
        format!("{}{COOKIE}_{}", if is_secure { OF_HOST } else { "" }, self.port)
    }

    /// Whether people can sign in with a token.
    pub(super) fn has_tokens(&self) -> bool {
        !self.rules.read().unwrap_or_else(PoisonError::into_inner).people.is_empty()
    }

    /// Who sent a request with these headers from there.
    pub(super) fn sender(&self, headers: &HeaderMap, from: IpAddr) -> Sender {
        let name = self.cookie_name(self.is_secure(headers, from));
        let cookie = cookie(headers, &name).map(digest);
        if let Some(name) = self.named_by_proxy(headers, from) {
            let of = Of::Proxy(name);
            return match cookie.and_then(|cookie| self.person(cookie, Some(&of))) {
                Some(person) => Sender::Known(person),
                None => match self.begin(of) {
                    Some((person, cookie)) => Sender::New(person, cookie),
                    None => Sender::Nobody,
                },
            };
        }

        match cookie.and_then(|cookie| self.person(cookie, None)) {
            Some(person) => Sender::Known(person),
            None => Sender::Nobody,
        }
    }

    /// Whether the session still is that person's.
    pub(super) fn is_valid(&self, person: &Person) -> bool {
        let sessions = self.sessions();
        let session = sessions.get(&person.session);
        session.is_some_and(|session| {
            session.ends > Instant::now()
                && self.identity(&session.of) == Some((person.name.clone(), person.role))
        })
    }

    /// A session for whoever has this token, and its cookie.
    pub(super) fn sign_in(&self, token: &str) -> Option<(Person, String)> {
        self.begin(Of::Token(digest(token)))
    }

    /// The address of the browser: behind the proxy, the one that the proxy names last.
    pub(super) fn address(&self, headers: &HeaderMap, from: IpAddr) -> IpAddr {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let named = headers.get_all("x-forwarded-for").iter().next_back();
        let named = named.filter(|_| rules.proxy.as_ref().is_some_and(|proxy| proxy.is_at(from)));
        let named =
            named.and_then(|named| named.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
        named.unwrap_or(from)
    }

    pub(super) fn sign_out(&self, person: &Person) {
        self.sessions().remove(&person.session);
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<Digest, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, of: Of) -> Option<(Person, String)> {
        let (name, role) = self.identity(&of)?;

        let (cookie, csrf) = (random(), random());
        let session = digest(&cookie);

        let mut sessions = self.sessions();
        let is_full = sessions.len() >= MAX_SESSIONS;
        let of_one = || sessions.iter().filter(|(_, session)| session.of == of);
        let first = match of_one().count() >= MAX_OF_ONE {
            true => of_one().min_by_key(|(_, session)| session.ends),
            false => sessions.iter().filter(|_| is_full).min_by_key(|(_, session)| session.ends),
        };

        let first = first.map(|(digest, _)| *digest);
        first.map(|first| sessions.remove(&first));

        let ends = Instant::now() + LASTS;
        sessions.insert(session, Session { of, csrf: csrf.clone(), ends });
        Some((Person { name, role, csrf, session }, cookie))
    }

    /// The person of a session. Behind a proxy the session must be of whom the proxy names.
    fn person(&self, cookie: Digest, wanted: Option<&Of>) -> Option<Person> {
        let sessions = self.sessions();
        let session = sessions.get(&cookie).filter(|session| session.ends > Instant::now())?;
        match (&session.of, wanted) {
            (Of::Token(_), None) => {}
            (of, Some(wanted)) if of == wanted => {}
            _ => return None,
        }

        let (name, role) = self.identity(&session.of)?;
        Some(Person { name, role, csrf: session.csrf.clone(), session: cookie })
    }

    fn identity(&self, of: &Of) -> Option<(String, Role)> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        match of {
            Of::Token(token) => {
                let person = rules.people.iter().find(|person| person.token == *token)?;
                Some((person.name.clone(), person.role))
            }
            Of::Proxy(name) => {
                let may_act = rules.proxy.as_ref()?.operators.contains(name);
                let role = if may_act { Role::Operator } else { Role::Viewer };
                Some((name.clone(), role))
            }
        }
    }

    fn named_by_proxy(&self, headers: &HeaderMap, from: IpAddr) -> Option<String> {
        let rules = self.rules.read().unwrap_or_else(PoisonError::into_inner);
        let proxy = rules.proxy.as_ref().filter(|proxy| proxy.is_at(from))?;

        // Two values would leave open whom the proxy means.
        let mut names = headers.get_all(&proxy.header).iter();
        let (Some(name), None) = (names.next(), names.next()) else { return None };
        let name = name.to_str().ok()?.trim();
        (!name.is_empty() && name.len() <= MAX_NAME).then(|| name.to_owned())
    }
}

/// Whether a request was made by a page of the console itself. Browsers say so, older ones by the
/// origin alone; what is no browser has nobody's cookies.
pub(super) fn is_own(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    match (text("sec-fetch-site"), text("origin")) {
        (Some(site), _) => site == "same-origin" || site == "none",
        (None, Some(origin)) => {
            let of = origin.split_once("://").map(|(_, host)| host);
            of.is_some_and(|of| text("host").is_some_and(|host| of.eq_ignore_ascii_case(host)))
        }
        (None, None) => true,
    }
}

/// 256 random bits as text.
pub(super) fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = pairs.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find_map(|(name, value)| (name.trim() == wanted).then_some(value.trim()))
}

fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                ((*name).parse().expect("a name"), value.parse().expect("a value"))
            })
            .collect()
    }

    fn here() -> IpAddr {
        [127, 0, 0, 1].into()
    }

    #[test]
    fn a_session_ends_with_its_token() {
        let alice = PersonConfig::new("alice", Role::Operator, "token");
        let access = Access::new(vec![alice], None);
        assert!(access.sign_in("another").is_none());

        let (_, cookie) = access.sign_in("token").expect("a session");
        let sent = headers(&[("cookie", &format!("a=b; {COOKIE}_1=x; {COOKIE}_0={cookie}"))]);
        let Sender::Known(person) = access.sender(&sent, here()) else { panic!("nobody") };
        assert!(person.may_act() && access.is_valid(&person));
        assert!(matches!(access.sender(&headers(&[]), here()), Sender::Nobody));

        let bob = PersonConfig::new("bob", Role::Viewer, "other");
        *access.rules.write().expect("a lock") = Rules { people: vec![bob], proxy: None };
        assert!(!access.is_valid(&person));
        assert!(matches!(access.sender(&sent, here()), Sender::Nobody));
    }

    #[test]
    fn over_tls_the_cookie_is_of_this_host_and_no_other_counts() {
        let alice = PersonConfig::new("alice", Role::Operator, "token");
        let access = Access { is_tls: true, port: 9465, ..Access::new(vec![alice], None) };
        let (_, cookie) = access.sign_in("token").expect("a session");
        let set = access.set_cookie(Some(&cookie), access.is_secure(&headers(&[]), here()));
        assert!(set.starts_with("__Host-outboxd_session_9465=") && set.ends_with("; Secure"));

        let sent = |name: &str| {
            let sent = headers(&[("cookie", &format!("{name}={cookie}"))]);
            matches!(access.sender(&sent, here()), Sender::Known(_))
        };
        assert!(sent("__Host-outboxd_session_9465"));
        assert!(!sent("outboxd_session_9465") && !sent("__Host-outboxd_session_9466"));
    }

    #[test]
    fn somebody_with_many_sessions_ends_only_their_own() {
        let people = ["alice", "bob"].map(|name| PersonConfig::new(name, Role::Viewer, name));
        let access = Access::new(people.into(), None);
        let cookies: Vec<_> = (0..=MAX_OF_ONE).map(|_| access.sign_in("alice")).collect();
        let bobs = access.sign_in("bob");
        let is_in = |session: &Option<(Person, String)>| {
            let (_, cookie) = session.as_ref().expect("a session");
            let sent = headers(&[("cookie", &format!("{COOKIE}_0={cookie}"))]);
            matches!(access.sender(&sent, here()), Sender::Known(_))
        };
        assert!(!is_in(&cookies[0]) && cookies[1..].iter().all(is_in) && is_in(&bobs));
    }

    #[test]
    fn a_form_of_another_site_is_known_by_what_browsers_say() {
        let own = |pairs: &[(&'static str, &str)]| is_own(&headers(pairs));
        assert!(own(&[]) && own(&[("sec-fetch-site", "same-origin")]));
        assert!(!own(&[("sec-fetch-site", "cross-site")]));
        assert!(!own(&[("sec-fetch-site", "same-site")]));

        let [host, same] = [("host", "ops:9465"), ("origin", "https://OPS:9465")];
        assert!(own(&[host, same]));
        for other in ["https://evil", "https://ops:9466", "null", ""] {
            assert!(!own(&[host, ("origin", other)]), "{other}");
        }
    }

    #[test]
    fn only_the_proxy_names_people() {
        let proxy = ProxyConfig {
            header: "x-user".to_owned(),
            networks: vec![([10, 0, 0, 1].into(), 32)],
            operators: vec!["alice".to_owned()],
        };
        let access = Access::new(Vec::new(), Some(proxy));
        let (proxy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let alice = headers(&[("x-user", "alice")]);
        assert!(matches!(access.sender(&alice, other), Sender::Nobody));

        let Sender::New(person, cookie) = access.sender(&alice, proxy) else { panic!("not new") };
        assert!(person.may_act());
        let cookie = format!("{COOKIE}_0={cookie}");
        let again = headers(&[("x-user", "alice"), ("cookie", &cookie)]);
        assert!(matches!(access.sender(&again, proxy), Sender::Known(same) if same == person));

        // Somebody else on the same browser, nobody, and two at once.
        let bob = headers(&[("x-user", "bob"), ("cookie", &cookie)]);
        assert!(matches!(access.sender(&bob, proxy), Sender::New(bob, _) if !bob.may_act()));
        let nobody = headers(&[("cookie", &cookie)]);
        assert!(matches!(access.sender(&nobody, proxy), Sender::Nobody));
        let mut two = headers(&[("x-user", "alice")]);
        two.append("x-user", "bob".parse().expect("a value"));
        assert!(matches!(access.sender(&two, proxy), Sender::Nobody));
    }
}
