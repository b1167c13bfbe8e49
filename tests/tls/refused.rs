//! Whom outboxd has no reason to trust it doesn't speak to, neither over TLS nor without, and it
//! says why.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use async_nats::ConnectOptions;
use serde_json::Value;

use super::{options, relays, uri, with_ca};
use crate::support::pki::Authority;
use crate::support::{
    Mongod, NatsServer, PASSWORD, Relay, Scene, mongodb_uri, outboxd_with, until,
};

/// Settings with which a server must be refused.
struct Case {
    what: &'static str,
    settings: Vec<(&'static str, String)>,
    /// Name of the finding, and parts of what it says.
    finding: (&'static str, &'static str, &'static str),
}

impl Case {
    fn settings(&self) -> Vec<(&str, &str)> {
        self.settings.iter().map(|(name, text)| (*name, text.as_str())).collect()
    }
}

/// Each check fails with its finding, and each relay waits for someone to mend it and does nothing
/// meanwhile.
async fn refused(scene: &Scene, cases: &[Case]) {
    let args = ["check", "--output", "json", "--timeout", "2s"];
    let checked: Vec<_> = std::thread::scope(|threads| {
        let check = |case: &Case| outboxd_with(scene, &args, &case.settings());
        let checks: Vec<_> = cases.iter().map(|case| threads.spawn(move || check(case))).collect();
        checks.into_iter().map(|check| check.join().unwrap()).collect()
    });
    let relays: Vec<_> = cases.iter().map(|case| Relay::start(scene, &case.settings())).collect();
    for ((Case { what, finding, .. }, (code, said)), relay) in cases.iter().zip(checked).zip(relays)
    {
        let (check, found, remedy) = finding;
        assert_eq!(code, Some(1), "{what}: {said}");
        let findings: Vec<Value> = serde_json::from_str(&said).unwrap();
        let finding = findings.iter().find(|finding| finding["check"] == *check);
        let finding = finding.unwrap_or_else(|| panic!("{what}: no {check} in {said}"));
        let text = |name: &str| finding[name].as_str().unwrap().to_owned();
        assert_eq!(text("level"), "fail", "{what}: {said}");
        assert!(
            text("found").contains(found) && text("remedy").contains(remedy),
            "{what}: {finding}"
        );
        let names =
            |text: &str| ["127.0.0.1:", "localhost:"].iter().any(|host| text.contains(host));
        assert!(names(&text("looked_at")), "{what}: {finding}");
        relay.says(found).await;
        let log = relay.log();
        let line = log.lines().find(|line| line.contains(found)).unwrap();
        assert!(names(line) && line.len() < 400, "{what}: {line}");
        assert!(!line.contains("Kind:") && !line.contains("{ "), "{what}: {line}");
        assert!(!log.contains("holding the lease") && !log.contains(PASSWORD), "{what}: {log}");
        assert_eq!(relay.stop(), Some(0), "{what}");
    }
}

#[tokio::test]
async fn a_nats_server_without_a_good_reason_to_trust_it_is_not_spoken_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, other_ca, client) = (authority.file(), other.file(), authority.client("relay"));
    let users = format!("authorization {{ user: svc, password: {PASSWORD} }}");
    let serve = async |tls: &str| NatsServer::with_config(&format!("{tls} {users}")).await;
    let here = authority.server(&["127.0.0.1"]);
    let good = serve(&here.nats("")).await;
    let misnamed = serve(&authority.server(&["nats.example"]).nats("")).await;
    let expired = serve(
        &authority
            .server_until(&["127.0.0.1"], SystemTime::now() - Duration::from_secs(60))
            .nats(""),
    )
    .await;
    let demanding = serve(&here.nats(&format!("ca_file: {ca:?}, verify: true"))).await;
    let plain = serve("").await;

    let user = [("NATS_USER", "svc"), ("NATS_PASSWORD", PASSWORD)];
    let trusting = with_ca(&ca, &user);
    let scene = super::scene(mongodb_uri(), &good, &trusting).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &trusting);
    assert_eq!(code, Some(0), "{said}");
    scene.commit([scene.event("a", 0)]).await;
    let tls = |nats: &NatsServer| nats.url.replace("nats://", "tls://");
    let untrusted = ("nats.tls", "not signed by a trusted CA", "NATS_CA");
    let plaintext = ("nats.tls", "does not speak TLS", "tls { cert_file");
    let cases = [
        (
            "wrong name",
            tls(&misnamed),
            ca.as_str(),
            ("nats.tls", "not valid for name \"127.0.0.1\"", "NATS_URL: a host"),
        ),
        (
            "expired",
            tls(&expired),
            ca.as_str(),
            ("nats.tls", "its certificate has expired", "cert_file: <a certificate"),
        ),
        ("another CA", tls(&good), other_ca.as_str(), untrusted),
        ("the system's CAs", tls(&good), "", untrusted),
        // The server says that it wants TLS.
        ("nothing said of TLS", good.url.clone(), "", untrusted),
        (
            "no certificate",
            tls(&demanding),
            ca.as_str(),
            ("nats.tls", "requires a client certificate", "NATS_CERT, NATS_KEY"),
        ),
        ("plaintext", tls(&plain), ca.as_str(), plaintext),
        ("plaintext, by the CA", plain.url.clone(), ca.as_str(), plaintext),
        ("plaintext, by the URL", tls(&plain), "", plaintext),
    ];
    let cases = cases.map(|(what, url, authority, finding)| {
        let [user, password] = user.map(|(name, text)| (name, text.to_owned()));
        Case {
            what,
            settings: vec![("NATS_URL", url), ("NATS_CA", authority.to_owned()), user, password],
            finding,
        }
    });
    refused(&scene, &cases).await;
    for unwilling in [&misnamed, &expired, &demanding, &plain] {
        assert!(
            !unwilling.log().contains("authorization"),
            "nobody said a name: {}",
            unwilling.log()
        );
    }
    // With a certificate, the demanding one is a server like any other.
    let certificate = [
        ("NATS_CERT", client.cert.as_str()),
        ("NATS_KEY", &client.key),
        ("NATS_URL", &demanding.url),
    ];
    let (code, said) = outboxd_with(&scene, &["migrate"], &[&trusting[..], &certificate].concat());
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        scene.events.count_documents(bson::doc! {}).await.unwrap(),
        1,
        "the event has waited"
    );
    scene.events.delete_many(bson::doc! {}).await.unwrap();
    relays(&scene, &trusting, "the right CA").await;
}

#[tokio::test]
async fn a_mongod_without_a_good_reason_to_trust_it_is_not_spoken_to() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, other_ca) = (authority.file(), other.file());
    let here = authority.server(&["127.0.0.1"]);
    let short_lived = async {
        // mongod doesn't start with one that has expired.
        for seconds in [4, 8, 16, 32] {
            let end = SystemTime::now() + Duration::from_secs(seconds);
            let server = authority.server_until(&["127.0.0.1"], end);
            if let Some(mongod) = Mongod::with_certificates(&authority, &server).await {
                return (mongod, end);
            }
        }
        panic!("mongod takes longer to start than any certificate was valid");
    };
    let ((expired, end), demanding, good, nats) = tokio::join!(
        short_lived,
        Mongod::with_certificates(&authority, &here),
        Mongod::with_tls(&authority, &here),
        NatsServer::start()
    );
    let demanding = demanding.unwrap();
    let root = uri(&good, "root:root@", &format!("authSource=admin&tls=true&tlsCAFile={ca}"));
    let scene = Scene::reached(root, nats.url.clone(), ConnectOptions::new()).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &[]);
    assert_eq!(code, Some(0), "{said}");

    let uri_of_all = mongodb_uri();
    let plain = uri_of_all.split('@').next_back().unwrap().split('/').next().unwrap();
    let name = &scene.name;
    let at_host = |host: &str, options: &str| {
        format!(
            "mongodb://svc:{PASSWORD}@{host}/{name}?serverSelectionTimeoutMS=1000&authSource=admin{options}"
        )
    };
    let tls = |authority: &str| format!("&tls=true&tlsCAFile={authority}");
    let by_name = good.address.replace("127.0.0.1", "localhost");
    until("it has expired", async || {
        (SystemTime::now() > end + Duration::from_secs(1)).then_some(())
    })
    .await;
    let cases = [
        (
            "wrong name",
            at_host(&by_name, &tls(&ca)),
            ("not valid for name \"localhost\"", "MONGODB_URI: a host that"),
        ),
        (
            "expired",
            at_host(&expired.address, &tls(&ca)),
            ("its certificate has expired", "rotateCertificates"),
        ),
        (
            "another CA",
            at_host(&good.address, &tls(&other_ca)),
            ("not signed by a trusted CA", "tlsCAFile="),
        ),
        (
            "public CAs",
            at_host(&good.address, "&tls=true"),
            ("not signed by a trusted CA", "tlsCAFile="),
        ),
        (
            "no certificate",
            at_host(&demanding.address, &tls(&ca)),
            ("requires", "tlsCertificateKeyFile="),
        ),
        ("plaintext", at_host(plain, &tls(&ca)), ("does not speak TLS", "mode: requireTLS")),
        (
            "nothing said of TLS",
            at_host(&good.address, ""),
            ("requires TLS", "tls=true&tlsCAFile="),
        ),
    ];
    let cases = cases.map(|(what, uri, (found, remedy))| {
        let settings = vec![("MONGODB_URI", uri)];
        Case { what, settings, finding: ("mongodb.tls", found, remedy) }
    });
    refused(&scene, &cases).await;
    relays(&scene, &[], "the right CA").await;
}

/// A client learns of them from the server that it is connected to.
#[tokio::test]
async fn the_other_servers_of_a_cluster_are_not_spoken_to_without_tls() {
    let authority = Authority::new();
    let (ca, server) = (authority.file(), authority.server(&["127.0.0.1"]));
    let routes = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [one, other] = routes.each_ref().map(|listener| listener.local_addr().unwrap());
    drop(routes);
    let member = |name: &str, listens, to| {
        let routes =
            format!("cluster {{ name: c, listen: \"{listens}\", routes: [\"nats://{to}\"] }}");
        format!("jetstream: false\nserver_name: {name}\n{routes}\n")
    };
    let mut secure =
        NatsServer::with_config(&format!("{}{}", member("one", one, other), server.nats(""))).await;
    let plain = NatsServer::with_config(&member("other", other, one)).await;
    let url = secure.url.replace("nats://", "tls://");
    let port = plain.url.rsplit(':').next().unwrap();
    let client = until("the client has learned of the other", async || {
        // Not by NATS_CA, which wants TLS by itself.
        let options = options(&[("NATS_URL", &url)]).await.add_root_certificates(ca.clone().into());
        let client = options.connect(&url).await.ok()?;
        client
            .server_info()
            .connect_urls
            .iter()
            .any(|other| other.ends_with(port))
            .then_some(client)
    })
    .await;
    secure.kill();
    until("it tried the other with TLS", async || {
        plain.log().contains("parser ERROR").then_some(())
    })
    .await;
    assert_ne!(client.connection_state(), async_nats::connection::State::Connected);
}

/// Whoever is in the middle may say that TLS is not needed.
#[tokio::test]
async fn a_password_is_never_sent_in_plaintext_where_tls_was_asked_for() {
    let scene = Scene::bare().await;
    let authority = Authority::new();
    let ca = authority.file();
    let nats = format!("tls://svc:{PASSWORD}@ADDRESS");
    let beside = format!("tls://127.0.0.1:1,nats://svc:{PASSWORD}@ADDRESS");
    let plain = format!("nats://svc:{PASSWORD}@ADDRESS");
    let mongodb = format!(
        "mongodb://svc:{PASSWORD}@ADDRESS/shop?authMechanism=PLAIN&authSource=$external&tls=true"
    );
    for (settings, greets) in [
        (vec![("NATS_URL", nats)], true),
        (vec![("NATS_URL", beside)], true),
        (vec![("NATS_URL", plain), ("NATS_CA", ca)], true),
        (vec![("MONGODB_URI", mongodb)], false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hears = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            if greets {
                let info = r#"INFO {"server_id":"x","version":"2.12.6","tls_required":false,"max_payload":1048576}"#;
                client.write_all(format!("{info}\r\n").as_bytes()).unwrap();
            }
            // The driver's client says something on another connection than the check's own first
            // one.
            let mut heard = vec![0; 4096];
            let mut length = client.read(&mut heard).unwrap_or(0);
            if length == 0 {
                length = listener.accept().unwrap().0.read(&mut heard).unwrap_or(0);
            }
            heard.truncate(length);
            heard
        });
        let settings: Vec<_> = settings
            .iter()
            .map(|(name, text)| (*name, text.replace("ADDRESS", &address)))
            .collect();
        let settings: Vec<_> = settings.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let (code, said) = outboxd_with(&scene, &["check", "--timeout", "1s"], &settings);
        let heard = hears.join().unwrap();
        assert_eq!(code, Some(1), "{said}");
        assert_eq!(heard.first(), Some(&0x16), "not the beginning of a TLS handshake: {heard:?}");
        assert!(
            !heard.windows(PASSWORD.len()).any(|part| part == PASSWORD.as_bytes()),
            "{heard:?}"
        );
    }
}
