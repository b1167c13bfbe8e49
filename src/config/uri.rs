//! MongoDB's connection string: what of it the driver gets, and what is wrong with it.
//!
//! A connection string is often shared with services in other languages. Options that only their
//! drivers have and that change nothing for outboxd are left out, with one warning that names them.
//! Whatever else the driver refuses is a mistake, named by its option. The driver is asked for that
//! here, without a network: what is left to fail later is up to the network, and worth a retry.
//!
//! No message repeats a password. Where a password that is not percent-encoded may have shifted
//! the parts, no message repeats any of them: it names the characters to encode, and nothing else.
//!
//! - `options`: options that only other drivers have

mod options;
#[cfg(test)]
mod tests;

use futures_util::FutureExt as _;
use mongodb::options::{AuthMechanism, ClientOptions, ConnectionString, HostInfo, ServerAddress};
use percent_encoding::percent_decode_str;

use self::options::{Fate, fate};
use crate::driver_words::unknown_option;
use crate::error::mongodb_words;

/// Options that turn off the check of the server's certificate.
const UNVERIFIED: [&str; 2] = ["tlsinsecure", "tlsallowinvalidcertificates"];

/// Options whose values may be secrets.
const SECRET: [&str; 2] = ["authmechanismproperties", "tlscertificatekeyfilepassword"];

/// Options that others depend on. The driver is asked about these first, so that it is the other
/// one that a mistake names.
const FIRST: [&str; 8] = [
    "authmechanismproperties",
    "authsource",
    "authmechanism",
    "tls",
    "ssl",
    "readpreference",
    "directconnection",
    "replicaset",
];

/// Characters that a user or a password can't have as they are.
const RESERVED: [char; 7] = [':', '/', '?', '#', '[', ']', '@'];
/// What stands for a part in other people's examples and files.
const PLACEHOLDERS: [&str; 3] = ["<password>", "<db_password>", "${"];

const NOT_ONE: &str = "is not a connection string such as mongodb://host/database?replicaSet=…";
const NO_HOSTS: &str = "its hosts or its database can't be read; write \
     mongodb://host:port,host:port/database?replicaSet=…, and percent-encode user and password";

/// A connection string that the driver takes.
pub(super) struct Uri {
    /// What the driver gets.
    pub(super) text: String,
    pub(super) parsed: ConnectionString,
    /// What an operator should know about it.
    pub(super) warnings: Vec<String>,
}

/// Reads a connection string.
///
/// # Errors
/// Every mistake that was found.
pub(super) fn read(text: &str) -> Result<Uri, Vec<String>> {
    let (base, options) = text.split_once('?').unwrap_or((text, ""));
    if let Some(mistake) = unreadable(text, base) {
        return Err(vec![mistake]);
    }

    let mut options: Vec<_> = options.split('&').filter(|option| !option.is_empty()).collect();
    if let Some(mistake) = in_no_order(base, &options) {
        return Err(vec![mistake]);
    }

    let left_out: Vec<_> = options.extract_if(.., |option| of(option) == Fate::LeftOut).collect();
    let is_refused = options.iter().any(|option| of(option) != Fate::Kept);
    let uri = join(base, &options);
    let parsed = match accepted(&uri) {
        Ok(parsed) if !is_refused => parsed,
        _ => return Err(mistakes(base, &options)),
    };

    match unusable(&parsed) {
        Some(mistake) => Err(vec![mistake.to_owned()]),
        None => Ok(Uri { text: uri, parsed, warnings: warnings(&left_out, &options) }),
    }
}

/// What keeps the string from having parts at all.
fn unreadable(text: &str, base: &str) -> Option<String> {
    let bare = text.trim_matches(|c: char| c.is_whitespace() || "\"'`".contains(c));
    if bare != text && bare.starts_with("mongodb") {
        return Some("has quotes or spaces around it; remove them".to_owned());
    }

    let schemes = ["mongodb://", "mongodb+srv://"];
    let rest = schemes.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or_default();
    if rest.is_empty() {
        return Some(NOT_ONE.to_owned());
    }

    if let Some(placeholder) = PLACEHOLDERS.iter().find(|placeholder| rest.contains(**placeholder))
    {
        return Some(format!(
            "has a {placeholder}{} that nothing has replaced; if it is meant, write < as %3C and \
             $ as %24",
            if placeholder.ends_with('{') { "…}" } else { "" }
        ));
    }

    let user = base.split_once("://")?.1.rsplit_once('@')?.0;
    not_encoded(user)
}

/// What keeps the options from being read. A question mark in a password makes options of what
/// follows it; an `@` among them is its sign, and then none is named.
fn in_no_order(base: &str, options: &[&str]) -> Option<String> {
    let is_shifted = options.iter().any(|option| option.contains('@'));
    let no_option = options.iter().find(|option| !is_option(option));
    if is_shifted {
        return no_option.map(|_| shifted(base, options));
    }

    if let Some(option) = no_option {
        return Some(match option.split_once('=') {
            None if is_name(option) => format!("the option {option} has no value"),
            _ => "an option is not of the form name=value".to_owned(),
        });
    }

    let run_together = options.iter().find(|option| {
        let (_, value) = parts(option);
        value.match_indices([';', '?']).any(|(at, _)| is_option(&value[at + 1..]))
    });
    let run_together = run_together.map(|option| parts(option).0);
    run_together.map(|name| format!("another option follows {name} without an & between them"))
}

/// The mistake of a string in which a password may have become options.
fn shifted(base: &str, options: &[&str]) -> String {
    let text = join(base, options);
    let rest = text.split_once("://").map_or("", |(_, rest)| rest);
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);

    // The @ may as well be an option's, where it has to be encoded for the options to be told apart.
    let mistake = not_encoded(user).map(|mistake| format!("{mistake}; in an option, @ as %40"));
    mistake.unwrap_or_else(|| NO_HOSTS.to_owned())
}

/// The characters of a user and a password that have to be percent-encoded.
fn not_encoded(user: &str) -> Option<String> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let mut found = Vec::new();
    for part in [name, password] {
        for (at, character) in part.char_indices() {
            let is_bare_percent = || {
                let code = part.as_bytes().get(at + 1..at + 3);
                character == '%' && !code.is_some_and(|code| code.iter().all(u8::is_ascii_hexdigit))
            };
            if (RESERVED.contains(&character) || is_bare_percent()) && !found.contains(&character) {
                found.push(character);
            }
        }
    }

    let each: Vec<_> =
        found.iter().map(|found| format!("{found} as %{:02X}", *found as u32)).collect();
    let mistake =
        || format!("the user or the password is not percent-encoded: write {}", each.join(", "));
    (!each.is_empty()).then(mistake)
}

/// The string in its parts, if the driver takes all of it. Names are not looked up.
fn accepted(uri: &str) -> mongodb::error::Result<ConnectionString> {
    // The driver cuts what follows a `%` after two bytes, and panics in the middle of a character.
    if uri.split('%').skip(1).any(|rest| rest.len() >= 2 && !rest.is_char_boundary(2)) {
        return Err(mongodb::error::Error::custom("a % without two digits"));
    }

    let parsed = ConnectionString::parse(uri)?;
    let mut offline = parsed.clone();
    if let HostInfo::DnsRecord(host) = offline.host_info {
        // One host stands for those that the name will have.
        let host = ServerAddress::Tcp { host, port: None };
        offline.host_info = HostInfo::HostIdentifiers(vec![host]);
        offline.srv_service_name = None;
    }

    // Without a name to look up, the answer is there at once.
    match ClientOptions::parse(offline).into_future().now_or_never() {
        Some(Err(error)) => Err(error),
        Some(Ok(_)) | None => Ok(parsed),
    }
}

/// Why the string is refused: adds one option after the other and notes which the driver refuses.
fn mistakes(base: &str, options: &[&str]) -> Vec<String> {
    if options.iter().any(|option| option.contains('@')) {
        return vec![shifted(base, options)];
    }

    let mut options = options.to_vec();
    let rank = |option: &&str| {
        let name = parts(option).0.to_ascii_lowercase();
        FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len())
    };
    options.sort_by_key(rank);

    let mut taken = Vec::new();
    if accepted(base).is_err()
        && let Some(mistake) = of_base(base, &options)
    {
        return vec![mistake];
    }

    let mut mistakes = Vec::new();
    for option in options {
        if let Fate::Refused(reason) = of(option) {
            mistakes.push(refusal(parts(option).0, Some(reason)));
            continue;
        }

        taken.push(option);
        let Err(error) = accepted(&join(base, &taken)) else { continue };
        taken.pop();
        mistakes.push(refused(base, option, &error));
    }

    if mistakes.is_empty() {
        mistakes.push(NOT_ONE.to_owned());
    }
    mistakes
}

/// What is wrong with the part before the options, or nothing if options set it right.
fn of_base(base: &str, options: &[&str]) -> Option<String> {
    let with_auth: Vec<_> = options
        .iter()
        .copied()
        .filter(|option| parts(option).0.to_ascii_lowercase().starts_with("auth"))
        .collect();
    if accepted(&join(base, &with_auth)).is_ok() {
        return None;
    }

    let Some((scheme, rest)) = base.split_once("://") else { return Some(NOT_ONE.to_owned()) };
    let (user, hosts) =
        rest.rsplit_once('@').map_or((None, rest), |(user, hosts)| (Some(user), hosts));
    if user.is_some_and(|user| accepted(&format!("mongodb://{user}@host")).is_err()) {
        return Some("names no user before the @".to_owned());
    }

    // Without `@` the hosts may be a password that ended up there.
    let srv_only = accepted(&format!("mongodb://{hosts}")).is_ok();
    match accepted(&format!("{scheme}://{hosts}")) {
        Err(error) if srv_only => Some(format!("the driver refuses it: {}", reason(&error))),
        _ => Some(NO_HOSTS.to_owned()),
    }
}

/// The driver's refusal of an option, named by the option.
fn refused(base: &str, option: &str, error: &mongodb::error::Error) -> String {
    let (name, _) = parts(option);
    let reason = reason(error);
    let password = base
        .split_once("://")
        .and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0.split_once(':')?.1))
        .unwrap_or_default();
    let decoded = percent_decode_str(password).decode_utf8_lossy();

    let reveals =
        !password.is_empty() && (reason.contains(password) || reason.contains(decoded.as_ref()));
    let is_secret = reveals || SECRET.contains(&name.to_ascii_lowercase().as_str());
    // The driver does not fill in every text of its own.
    let is_shown = !is_secret && !reason.contains('{');

    match unknown_option(&reason) {
        Some(similar) if !reveals => {
            let similar = similar.filter(|similar| *similar != name.to_ascii_lowercase());
            let similar = similar.map(|similar| format!("; a similar name exists: {similar}"));
            refusal(name, Some(&format!("it knows no such option{}", similar.unwrap_or_default())))
        }
        _ => refusal(name, is_shown.then_some(&reason)),
    }
}

fn refusal(name: &str, reason: Option<&str>) -> String {
    match reason {
        None => format!("the driver refuses the option {name}"),
        Some(reason) => format!("the driver refuses the option {name}: {reason}"),
    }
}

/// The driver's words, without its own heading.
fn reason(error: &mongodb::error::Error) -> String {
    mongodb_words(error).trim_end_matches('.').to_owned()
}

fn warnings(left_out: &[&str], options: &[&str]) -> Vec<String> {
    let names = |options: Vec<&str>| {
        options.into_iter().map(|option| parts(option).0).collect::<Vec<_>>().join(", ")
    };
    let is_true = |option: &str| option.to_ascii_lowercase().ends_with("=true");
    let unverified: Vec<_> = options
        .iter()
        .copied()
        .filter(|option| UNVERIFIED.contains(&parts(option).0.to_ascii_lowercase().as_str()))
        .filter(|option| is_true(option))
        .collect();

    let mut warnings = Vec::new();
    if !left_out.is_empty() {
        let names = names(left_out.to_vec());
        warnings.push(format!("outboxd ignores these options of other drivers: {names}"));
    }
    if !unverified.is_empty() {
        let names = names(unverified);
        warnings.push(format!("{names}: the server's certificate is not verified"));
    }
    warnings
}

/// What the driver accepts, and nothing could connect with.
fn unusable(parsed: &ConnectionString) -> Option<&'static str> {
    if parsed.replica_set.as_deref() == Some("") {
        return Some("the option replicaSet has no value");
    }

    if parsed.default_database.as_deref().is_some_and(|name| name.contains(['&', '='])) {
        return Some("the options begin with an &; write ? before the first of them");
    }

    let credential = parsed.credential.as_ref()?;
    if credential.mechanism == Some(AuthMechanism::MongoDbCr) {
        return Some(
            "the driver refuses the option authMechanism: no supported server has MONGODB-CR; \
             leave it out",
        );
    }

    // Whoever authenticates with a password needs one.
    let wants_one = matches!(
        credential.mechanism,
        None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256)
    );
    let lacks_it = wants_one && credential.username.is_some() && credential.password.is_none();
    lacks_it.then_some("names a user without a password")
}

fn is_option(option: &str) -> bool {
    option.split_once('=').is_some_and(|(name, _)| is_name(name))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
}

fn of(option: &str) -> Fate {
    let (name, value) = parts(option);
    fate(name, value)
}

/// Name and value.
fn parts(option: &str) -> (&str, &str) {
    option.split_once('=').unwrap_or((option, ""))
}

fn join(base: &str, options: &[&str]) -> String {
    match options.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", options.join("&")),
    }
}
