//! The patterns, and that they are those of the linked libraries.

use std::time::Duration;

use super::*;

#[test]
fn a_failed_handshake_is_known_by_the_libraries_texts() {
    for (text, fault, rest) in [
        (
            "IO error: invalid peer certificate: certificate expired: verification time 5",
            TlsFault::Expired,
            ": verification time 5",
        ),
        (
            "invalid peer certificate: certificate not valid yet: verification time 5 (UNIX)",
            TlsFault::NotYetValid,
            ": verification time 5 (UNIX)",
        ),
        (
            "invalid peer certificate: certificate not valid for name \"a\"",
            TlsFault::WrongName,
            " \"a\"",
        ),
        ("invalid peer certificate: UnknownIssuer", TlsFault::Untrusted, ""),
        ("invalid peer certificate: BadSignature", TlsFault::Untrusted, ""),
        (
            "invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))",
            TlsFault::CaAsServer,
            "))",
        ),
        ("invalid peer certificate: BadEncoding", TlsFault::Certificate, "BadEncoding"),
        ("received fatal alert: CertificateRequired", TlsFault::ClientCertificate, ""),
        ("received fatal alert: BadCertificate", TlsFault::ClientCertificate, ""),
        ("received fatal alert: CertificateExpired", TlsFault::ClientCertificate, ""),
        ("received fatal alert: CertificateUnknown", TlsFault::ClientCertificate, ""),
        ("received fatal alert: UnknownCA", TlsFault::ClientCertificate, ""),
        ("received fatal alert: ProtocolVersion", TlsFault::Refused, "ProtocolVersion"),
        (
            "received corrupt message of type InvalidContentType",
            TlsFault::Plaintext,
            "InvalidContentType",
        ),
        ("tls handshake eof", TlsFault::Plaintext, ""),
        (
            "peer closed connection without sending TLS close_notify: see the docs",
            TlsFault::HungUp,
            ": see the docs",
        ),
        ("I/O error: unexpected end of file", TlsFault::HungUp, ""),
    ] {
        assert_eq!(tls_fault(text), Some((fault, rest)), "{text}");
    }
    assert_eq!(tls_fault("Connection refused"), None);
}

#[test]
fn every_pattern_can_be_reached() {
    for (i, (words, fault)) in TLS.iter().enumerate() {
        assert_eq!(tls_fault(words), Some((*fault, "")), "{words}");
        assert!(TLS[..i].iter().all(|(other, _)| other != words), "{words} twice");
    }
}

/// The text of rustls itself, so that an update that changes it fails here.
#[test]
fn the_patterns_are_those_of_the_linked_rustls() {
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{AlertDescription, CertificateError, Error};

    let [early, late] = [5, 10].map(|at| UnixTime::since_unix_epoch(Duration::from_secs(at)));
    let expired = CertificateError::ExpiredContext { time: late, not_after: early };
    let not_yet_valid = CertificateError::NotValidYetContext { time: early, not_before: late };
    let wrong_name = CertificateError::NotValidForNameContext {
        expected: ServerName::try_from("a").expect("a name"),
        presented: vec!["b".to_owned()],
    };

    for (error, fault) in [
        (expired.into(), TlsFault::Expired),
        (not_yet_valid.into(), TlsFault::NotYetValid),
        (wrong_name.into(), TlsFault::WrongName),
        (CertificateError::UnknownIssuer.into(), TlsFault::Untrusted),
        (CertificateError::BadSignature.into(), TlsFault::Untrusted),
        (CertificateError::BadEncoding.into(), TlsFault::Certificate),
        (Error::AlertReceived(AlertDescription::CertificateRequired), TlsFault::ClientCertificate),
        (Error::AlertReceived(AlertDescription::BadCertificate), TlsFault::ClientCertificate),
        (Error::AlertReceived(AlertDescription::UnknownCA), TlsFault::ClientCertificate),
        (Error::AlertReceived(AlertDescription::ProtocolVersion), TlsFault::Refused),
        (Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType), TlsFault::Plaintext),
    ] {
        let error: Error = error;
        let found = tls_fault(&error.to_string()).map(|(fault, _)| fault);
        assert_eq!(found, Some(fault), "{error}");
    }
}

#[test]
fn the_servers_of_a_failed_selection_have_their_reasons() {
    let text = "Server selection timeout: No available servers. Topology: { Type: \
                ReplicaSetNoPrimary, Set Name: rs0, Servers: [ { Address: a:1, Type: Unknown, \
                Error: Kind: I/O error: unexpected end of file, labels: {}, source: None }, { \
                Address: b:2, Type: RSSecondary, Average RTT: 1ms } ] }";
    let servers = unusable_servers(text);
    assert_eq!(servers.len(), 2);
    assert_eq!(
        (servers[0].address, servers[0].error.as_deref()),
        ("a:1", Some("unexpected end of file"))
    );
    assert_eq!((servers[1].address, &servers[1].error), ("b:2", &None));
    assert_eq!(servers[1].what(), "a secondary");
    assert_eq!(replica_set(text), Some("rs0"));
    assert_eq!(without_topology(text), "Server selection timeout: No available servers.");
    assert_eq!(unusable_servers("Error: other"), []);
    assert_eq!(without_topology("Error: other"), "Error: other");
    assert_eq!(replica_set("Error: other"), None);
}

/// The driver's own text, so that an update that changes it fails here.
#[tokio::test]
async fn the_linked_driver_describes_a_server_that_refuses_connections() {
    let uri = "mongodb://127.0.0.1:1/?directConnection=true&serverSelectionTimeoutMS=300";
    let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
    let error = client.list_database_names().await.unwrap_err().kind.to_string();

    let servers = unusable_servers(&error);
    assert_eq!(servers.len(), 1, "{error}");
    assert_eq!(servers[0].address, "127.0.0.1:1", "{error}");

    let reason = servers[0].error.as_deref().expect("a reason");
    assert!(reason.starts_with("Connection refused"), "{error}");
    assert_eq!(servers[0].server_type, "Unknown", "{error}");
}

#[test]
fn an_error_within_an_error_loses_the_drivers_form() {
    for (text, is) in [
        (
            "SCRAM failure: Authentication failed.: Kind: Command failed: Error code 18",
            "SCRAM failure: Authentication failed.",
        ),
        (
            "Kind: SCRAM failure: Authentication failed.: Kind: Command failed: Error code 18 \
             (AuthenticationFailed): Authentication failed., labels: {}, source: None, server \
             response: None, labels: {\"a\"}, source: Some(Error { .. })",
            "SCRAM failure: Authentication failed.",
        ),
        (
            "Connection pool for a:1 cleared because another operation failed with: Kind: I/O \
             error: unexpected end of file, labels: {}, source: None, server response: None",
            "Connection pool for a:1 cleared because another operation failed with: \
             unexpected end of file",
        ),
        ("Kind: I/O error: timed out, labels: {}, source: None", "timed out"),
        ("IO error: Connection refused (os error 111)", "Connection refused (os error 111)"),
        ("authorization violation: nats: Authorization Violation", "authorization violation"),
        ("authorization violation: nats: user expired", "authorization violation: user expired"),
        ("nothing of the kind", "nothing of the kind"),
    ] {
        assert_eq!(plain(text), is, "{text}");
    }
}

#[test]
fn a_refusal_names_the_command_and_repeats_none_of_it() {
    let refused = "not authorized on shop to execute command { insert: \"outbox\", a: 1 }";
    assert_eq!(without_command(refused), "not authorized on shop to execute insert");
    assert_eq!(without_command("not primary"), "not primary");
}

#[test]
fn an_event_of_a_connection_names_no_library() {
    let event_of =
        |error: async_nats::ClientError| event(&async_nats::Event::ClientError(error).to_string());
    let other = async_nats::ClientError::Other("IO error".to_owned());
    assert_eq!(event_of(other), "client error: IO error");
    assert_eq!(event(&async_nats::Event::Connected.to_string()), "connected");
}

#[test]
fn a_look_up_without_its_question_and_a_refusal_without_its_mechanism() {
    let text = "DNS error: no records found for Query { name: Name(\"a.\"), query_type: SRV }";
    assert_eq!(without_query(text), "no records found");
    assert_eq!(without_query("DNS error: request timed out"), "request timed out");
    let refused = "SCRAM failure: bad auth : authentication failed";
    assert_eq!(without_mechanism(refused), "bad auth : authentication failed");
    assert!(lacks_right("user is not allowed to do action [find] on [shop.outbox]"));
    assert!(!lacks_right("command find requires authentication"));
}

/// The driver's own text, so that an update that changes it fails here.
#[tokio::test]
async fn the_linked_driver_describes_a_server_of_another_protocol() {
    use tokio::io::AsyncWriteExt;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let greeting = b"INFO {\"server_id\":\"NA\",\"version\":\"2.12\"} \r\n";
            client.write_all(greeting).await.expect("the greeting is sent");
        }
    });

    let uri = format!("mongodb://{address}/?directConnection=true&serverSelectionTimeoutMS=300");
    let client = mongodb::Client::with_uri_str(uri).await.expect("a client");
    let error = client.list_database_names().await.unwrap_err().kind.to_string();
    let servers = unusable_servers(&error);
    assert!(is_another_protocol(servers[0].error.as_deref().expect("a reason")), "{error}");
}

/// The driver's own text, so that an update that changes it fails here.
#[test]
fn an_option_that_the_linked_driver_lacks_is_known_with_a_similar_one() {
    let refused = |option: &str| {
        let uri = format!("mongodb://host/?{option}=1");
        let refused = mongodb::options::ConnectionString::parse(uri).unwrap_err();
        refused.kind.to_string()
    };
    assert_eq!(unknown_option(&refused("replicaSte")), Some(Some("replicaset")));
    assert_eq!(unknown_option(&refused("zzz")), Some(None));
    assert_eq!(unknown_option(&refused("maxPoolSize=many")), None);
}

#[test]
fn a_denied_publish_names_its_subject() {
    let denied = "Permissions Violation for Publish to \"Shop.made\"";
    assert_eq!(denied_subject(denied), Some("Shop.made"));
    assert_eq!(denied_subject("permissions violation for publish to \"a\""), Some("a"));
    assert_eq!(denied_subject("Permissions Violation for Subscription to \"a\""), None);
}
