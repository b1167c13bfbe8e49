//! MongoDB's connection string: what of it the driver gets, and what is wrong with it.
//!
//! A connection string is often shared with services in other languages. Options that only their
//! drivers have and that change nothing for outboxd are left out, with one warning that names them.
//! Whatever else the driver refuses is a mistake, named by its option. The driver is asked for that
//! here, without a network: what is left to fail later is up to the network, and worth a retry.
//!
//! No message repeats a password. Where a password that is not percent-encoded may have shifted
//! the parts, no message repeats any of them.

use futures_util::FutureExt as _;
use mongodb::options::{AuthMechanism, ClientOptions, ConnectionString, HostInfo, ServerAddress};
use percent_encoding::percent_decode_str;

/// Options that are left out, in lower case. outboxd decides these itself, or does without.
const LEFT_OUT: &[&str] = &[
    // Other drivers' names and types for what a document holds; outboxd reads what is stored.
    "uuidrepresentation",
    "guids",
    "document_class",
    "tz_aware",
    "datetime_conversion",
    "unicode_decode_error_handler",
    // Compression, which outboxd does without: events leave mongod once.
    "compressors",
    "zlibcompressionlevel",
    // How long others queue for a connection and keep it. A timeout of operations, which the driver
    // does not have, is not among them: whoever sets one counts on it.
    "waitqueuetimeoutms",
    "waitqueuemultiple",
    "maxlifetimems",
    "maxconnectionlifetimems",
    "maintenancefrequencyms",
    // Habits of older drivers, and how others keep their connections.
    "usenewurlparser",
    "useunifiedtopology",
    "usecreateindex",
    "usefindandmodify",
    "autoreconnect",
    "reconnecttries",
    "reconnectinterval",
    "keepalive",
    "keepaliveinitialdelay",
    "nodelay",
    "poolsize",
    "minsize",
    "streamtype",
    "connect",
    "safe",
    "slaveok",
    // Checks of revoked certificates, which rustls does not make.
    "tlsdisableocspendpointcheck",
    "tlsdisablecertificaterevocationcheck",
];

/// Options of a graphical client begin like this.
const LEFT_OUT_PREFIX: &str = "3t.";

/// Options that turn off the check of the server's certificate.
const UNVERIFIED: [&str; 2] = ["tlsinsecure", "tlsallowinvalidcertificates"];

/// Options whose values may be secrets.
const SECRET: [&str; 3] =
    ["authmechanismproperties", "proxypassword", "tlscertificatekeyfilepassword"];

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

const NOT_ONE: &str = "is not a connection string such as mongodb://host/database?replicaSet=…";
const NOT_ENCODED: &str = "the driver can't read it; a user or password with one of : / ? # [ ] @ % has to be \
     percent-encoded, for example @ as %40";

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
    let mut options: Vec<_> = options.split('&').filter(|option| !option.is_empty()).collect();
    // A question mark in a password ends the base too early.
    if !options.iter().all(|option| is_option(option)) {
        return Err(vec![NOT_ENCODED.to_owned()]);
    }

    let left_out: Vec<_> = options.extract_if(.., |option| is_left_out(name(option))).collect();
    let uri = join(base, &options);
    let Ok(parsed) = accepted(&uri) else { return Err(mistakes(base, &options)) };
    if has_no_password(&parsed) {
        return Err(vec!["names a user without a password".to_owned()]);
    }

    Ok(Uri { text: uri, parsed, warnings: warnings(&left_out, &options) })
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

/// Why the driver refuses the string: adds one option after the other and notes which it refuses.
fn mistakes(base: &str, options: &[&str]) -> Vec<String> {
    let mut options = options.to_vec();
    let rank = |option: &&str| {
        let name = name(option).to_ascii_lowercase();
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
        .filter(|option| name(option).to_ascii_lowercase().starts_with("auth"))
        .collect();
    if accepted(&join(base, &with_auth)).is_ok() {
        return None;
    }

    let Some((scheme, rest)) = base.split_once("://") else { return Some(NOT_ONE.to_owned()) };
    if !["mongodb", "mongodb+srv"].contains(&scheme) {
        return Some(NOT_ONE.to_owned());
    }

    let (user, hosts) =
        rest.rsplit_once('@').map_or((None, rest), |(user, hosts)| (Some(user), hosts));
    if user.is_some_and(|user| accepted(&format!("mongodb://{user}@host")).is_err()) {
        return Some(NOT_ENCODED.to_owned());
    }

    // Without `@` the hosts may be a password that ended up there.
    let srv_only = accepted(&format!("mongodb://{hosts}")).is_ok();
    match accepted(&format!("{scheme}://{hosts}")) {
        Err(error) if srv_only => Some(format!("the driver refuses it: {}", error.kind)),
        _ => Some(format!("{NOT_ONE}; if it is one, {NOT_ENCODED}")),
    }
}

/// The driver's refusal of an option, named by the option.
fn refused(base: &str, option: &str, error: &mongodb::error::Error) -> String {
    let (name, reason) = (name(option), error.kind.to_string());
    let password = base
        .split_once("://")
        .and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0.split_once(':')?.1))
        .unwrap_or_default();
    let decoded = percent_decode_str(password).decode_utf8_lossy();

    let reveals =
        !password.is_empty() && (reason.contains(password) || reason.contains(decoded.as_ref()));
    match reveals || SECRET.contains(&name.to_ascii_lowercase().as_str()) {
        true => format!("the driver refuses the option {name}"),
        false => format!("the driver refuses the option {name}: {}", sentence(&reason)),
    }
}

/// The driver's words without its own heading.
fn sentence(reason: &str) -> &str {
    reason
        .rsplit_once("argument was provided: ")
        .map_or(reason, |(_, reason)| reason)
        .trim_end_matches('.')
}

fn warnings(left_out: &[&str], options: &[&str]) -> Vec<String> {
    let names = |options: Vec<&str>| options.into_iter().map(name).collect::<Vec<_>>().join(", ");
    let is_true = |option: &str| option.to_ascii_lowercase().ends_with("=true");
    let unverified: Vec<_> = options
        .iter()
        .copied()
        .filter(|option| UNVERIFIED.contains(&name(option).to_ascii_lowercase().as_str()))
        .filter(|option| is_true(option))
        .collect();

    let mut warnings = Vec::new();
    if !left_out.is_empty() {
        let names = names(left_out.to_vec());
        warnings.push(format!("outboxd does without these options of other drivers: {names}"));
    }
    if !unverified.is_empty() {
        let names = names(unverified);
        warnings.push(format!("{names}: the server's certificate is not verified"));
    }
    warnings
}

/// Whether it authenticates with a password that it doesn't have.
fn has_no_password(parsed: &ConnectionString) -> bool {
    let Some(credential) = &parsed.credential else { return false };
    let wants_one = matches!(
        credential.mechanism,
        None | Some(AuthMechanism::ScramSha1 | AuthMechanism::ScramSha256)
    );
    wants_one && credential.username.is_some() && credential.password.is_none()
}

fn is_option(option: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte))
    };
    option.split_once('=').is_some_and(|(name, _)| is_name(name))
}

fn is_left_out(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    LEFT_OUT.contains(&name.as_str()) || name.starts_with(LEFT_OUT_PREFIX)
}

fn name(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

fn join(base: &str, options: &[&str]) -> String {
    match options.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", options.join("&")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "mongodb://u:hun%40ter2@a:1,b:2/shop?replicaSet=rs0";

    fn mistakes_of(uri: &str) -> String {
        let mistakes = read(uri).map(|_| ()).unwrap_err().join("\n");
        for secret in ["hun%40ter2", "hun@ter2", "hunter2", "hun", "ter2"] {
            assert!(!mistakes.contains(secret), "{uri}: {mistakes}");
        }
        mistakes
    }

    #[test]
    fn options_of_other_drivers_are_left_out_and_named() {
        let others = "uuidRepresentation=standard&compressors=zstd,snappy&waitQueueTimeoutMS=9&\
                      useUnifiedTopology=true&3t.uriVersion=3&tlsInsecure=true&tls=true";
        let uri = read(&format!("{BASE}&{others}"))
            .map_err(|mistakes| mistakes.join("\n"))
            .expect("a URI that can be used");
        assert_eq!(uri.text, format!("{BASE}&tlsInsecure=true&tls=true"));
        assert_eq!(
            uri.warnings,
            [
                "outboxd does without these options of other drivers: uuidRepresentation, \
                 compressors, waitQueueTimeoutMS, useUnifiedTopology, 3t.uriVersion",
                "tlsInsecure: the server's certificate is not verified"
            ]
        );

        let plain =
            read(BASE).map_err(|mistakes| mistakes.join("\n")).expect("a URI that can be used");
        assert_eq!((plain.text.as_str(), plain.warnings.len()), (BASE, 0));
    }

    #[test]
    fn a_percent_sign_before_any_character_is_refused() {
        for password in ["50%€", "%é1", "1%", "%%", "%\u{10348}", "%1€"] {
            let reason = read(&format!("mongodb://u:{password}@a/shop")).map(|_| ()).unwrap_err();
            assert!(reason.concat().contains("percent-encoded"), "{password}: {reason:?}");
        }
        assert!(read("mongodb://u:50%25€@a/shop").is_ok());
    }

    #[test]
    fn what_the_driver_refuses_is_named_by_its_option() {
        for (options, names) in [
            ("replicaSte=rs0", &["replicaSte", "similar name exists: replicaset"][..]),
            ("connectTimeoutMS=soon", &["connectTimeoutMS", "non-negative integer"]),
            ("retryWrites=yes&maxPoolSize=many", &["retryWrites", "maxPoolSize"]),
            ("socketTimeoutMS=30000", &["socketTimeoutMS", "does not support"]),
            ("timeoutMS=30000", &["timeoutMS"]),
            ("maxPoolSize=0", &["maxPoolSize", "cannot specify maxPoolSize=0"]),
            ("heartbeatFrequencyMS=5", &["heartbeatFrequencyMS"]),
            ("directConnection=true", &["directConnection", "multiple seeds"]),
            ("loadBalanced=true", &["loadBalanced", "multiple seeds"]),
            ("authMechanism=GSSAPI", &["authMechanism"]),
            ("authMechanism=MONGODB-AWS", &["authMechanism"]),
            ("tls=false&tlsCAFile=/ca", &["tlsCAFile"]),
            ("tlsAllowInvalidHostnames=true", &["tlsAllowInvalidHostnames"]),
            ("w=0&journal=true", &["journal"]),
            ("readPreferenceTags=a:b", &["readPreferenceTags"]),
            ("maxStalenessSeconds=1&readPreference=secondary", &["maxStalenessSeconds"]),
            ("retryReads=true&retryReads=true", &["retryReads", "repeated"]),
            ("srvMaxHosts=2", &["srvMaxHosts"]),
            ("proxyHost=proxy", &["proxyHost"]),
            ("readPreference=hun@ter2", &["readPreference"]),
        ] {
            let mistakes = mistakes_of(&format!("{BASE}&{options}"));
            for name in names {
                assert!(mistakes.contains(name), "{options}: {name:?} in {mistakes}");
            }
        }
    }

    #[test]
    fn a_base_that_cannot_be_read_reveals_no_password() {
        for uri in [
            "mongodb://u:hun@ter2@host/shop",
            "mongodb://u:hun/ter2@host/shop",
            "mongodb://u:hun?ter2@host/shop?replicaSet=rs0",
            "mongodb://u:hun%ter2@host/shop",
            "mongodb://u:hun:ter2@host/shop",
            "mongodb://u:hun#ter2@host/shop",
        ] {
            assert!(mistakes_of(uri).contains("percent-encoded"), "{uri}");
        }

        for (uri, part) in [
            ("postgres://u:hunter2@db/shop", "is not a connection string"),
            ("hunter2", "is not a connection string"),
            ("mongodb+srv://u:hunter2@host:27017/shop", "a port cannot be specified"),
            ("mongodb+srv://u:hunter2@a.example.com,b.example.com/shop", "exactly one host"),
            ("mongodb://u@host/shop", "a user without a password"),
            ("mongodb://u:hunter2@host/shop?authMechanism=MONGODB-X509", "authMechanism"),
        ] {
            let mistakes = mistakes_of(uri);
            assert!(mistakes.contains(part), "{uri}: {part:?} in {mistakes}");
        }
    }

    #[test]
    fn names_are_not_looked_up() {
        for uri in [
            "mongodb+srv://u:p@cluster0.example.invalid/shop?srvServiceName=db",
            "mongodb+srv://u:p@cluster0.example.invalid/shop?retryWrites=true&w=majority&appName=a",
            "mongodb://nowhere.invalid/shop",
            "mongodb://u:p@%2Ftmp%2Fmongodb.sock/shop",
            "mongodb://host/shop?authMechanism=MONGODB-X509&tls=true",
        ] {
            assert!(read(uri).is_ok(), "{uri}: {}", mistakes_of(uri));
        }
    }
}
