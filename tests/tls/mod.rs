//! TLS with a private CA, and every kind of credentials over it, on both sides.

mod refused;
mod rotated;

use async_nats::ConnectOptions;
use bson::doc;
use nkeys::KeyPair;
use outboxd::config::{Config, Sources};

use crate::support::pki::{Authority, Identity, Operator};
use crate::support::{Mongod, NatsServer, PASSWORD, Relay, Scene, mongodb_uri, outboxd_with};

/// Settings on top of a scene's.
type Settings<'a> = [(&'a str, &'a str)];

/// What outboxd would connect to NATS with.
async fn options(settings: &Settings<'_>) -> ConnectOptions {
    let others = [("MONGODB_URI", "mongodb://localhost/shop"), ("NATS_CLUSTER_ID", "SHOP")];
    let env = others
        .iter()
        .chain(settings)
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let config =
        Config::load(&Sources { env, ..Sources::default() }).expect("a good configuration");
    config.nats.options().await.expect("options")
}

/// The settings for a nats-server that is reached over TLS.
fn with_ca<'a>(authority: &'a str, more: &Settings<'a>) -> Vec<(&'a str, &'a str)> {
    [("NATS_CA", authority)].iter().chain(more).copied().collect()
}

async fn scene(mongodb_uri: String, nats: &NatsServer, settings: &Settings<'_>) -> Scene {
    Scene::reached(mongodb_uri, nats.url.clone(), options(settings).await).await
}

/// An event goes its way, and a check finds nothing that fails.
async fn relays(scene: &Scene, settings: &Settings<'_>, what: &str) {
    let relay = Relay::leading(scene, settings).await;
    scene.commit([scene.event("a", 1)]).await;
    scene.drained().await;
    assert_eq!(scene.messages().await.len(), 1, "{what}");
    let (code, said) = outboxd_with(scene, &["check"], settings);
    assert!(code == Some(0) && said.contains(" 0 fail"), "{what}: {said}");
    assert!(
        !relay.log().contains(PASSWORD) && !said.contains(PASSWORD),
        "{what}: {said}{}",
        relay.log()
    );
    assert_eq!(relay.stop(), Some(0), "{what}");
}

#[tokio::test]
async fn nats_is_spoken_to_over_tls_with_each_kind_of_credentials() {
    let authority = Authority::new();
    let (ca, server, client) =
        (authority.file(), authority.server(&["127.0.0.1"]), authority.client("relay"));
    let (key, operator, user) = (KeyPair::new_user(), Operator::new(), KeyPair::new_user());
    let folder = tempfile::tempdir().unwrap();
    let creds = folder.path().join("creds");
    std::fs::write(&creds, operator.creds(&user)).unwrap();
    let plain = server.nats("");
    let mutual = server.nats(&format!("ca_file: {ca:?}, verify_and_map: true"));
    let (seed, creds) = (key.seed().unwrap(), creds.to_str().unwrap());
    for (what, config, settings) in [
        (
            "user and password",
            format!("{plain} authorization {{ user: svc, password: {PASSWORD} }}"),
            vec![("NATS_USER", "svc"), ("NATS_PASSWORD", PASSWORD)],
        ),
        (
            "token",
            format!("{plain} authorization {{ token: {PASSWORD} }}"),
            vec![("NATS_TOKEN", PASSWORD)],
        ),
        (
            "nkey",
            format!("{plain} authorization {{ users: [{{ nkey: {} }}] }}", key.public_key()),
            vec![("NATS_NKEY", seed.as_str())],
        ),
        ("creds", format!("{plain} {}", operator.nats(&[])), vec![("NATS_CREDS", creds)]),
        (
            "mutual TLS",
            format!("{mutual} authorization {{ users: [{{ user: \"CN=relay,O=Shop\" }}] }}"),
            vec![("NATS_CERT", client.cert.as_str()), ("NATS_KEY", client.key.as_str())],
        ),
    ] {
        let nats = NatsServer::with_config(&config).await;
        let settings = with_ca(&ca, &settings);
        let scene = scene(mongodb_uri(), &nats, &settings).await;
        let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
        assert_eq!(code, Some(0), "{what}: {said}");
        relays(&scene, &settings, what).await;
    }
}

/// A URI of this mongod: as whom, and with what of TLS.
fn uri(mongod: &Mongod, who: &str, options: &str) -> String {
    format!(
        "mongodb://{who}{}/?replicaSet=rs0&serverSelectionTimeoutMS=2000&{options}",
        mongod.address
    )
}

#[tokio::test]
async fn mongodb_is_spoken_to_over_tls_with_a_password_or_a_certificate() {
    let authority = Authority::new();
    let (ca, server, client) =
        (authority.file(), authority.server(&["127.0.0.1"]), authority.client("relay"));
    let (mongod, nats) = (Mongod::with_tls(&authority, &server).await, NatsServer::start().await);
    let root = uri(&mongod, "root:root@", &format!("authSource=admin&tls=true&tlsCAFile={ca}"));
    let scene = Scene::reached(root, nats.url.clone(), ConnectOptions::new()).await;
    // As users of this database that bring a password.
    let (code, said) = outboxd_with(&scene, &["migrate"], &[]);
    assert_eq!(code, Some(0), "{said}");
    relays(&scene, &[], "SCRAM-SHA-256").await;

    scene.context.get_stream(&scene.stream).await.unwrap().purge().await.unwrap();
    let user = doc! { "createUser": "CN=relay,O=Shop", "roles": [{ "role": "outbox-relay", "db": &scene.name }] };
    scene.client.database("$external").run_command(user).await.unwrap();
    let Identity { both, .. } = &client;
    let by_certificate =
        format!("authMechanism=MONGODB-X509&tlsCertificateKeyFile={both}&tlsCAFile={ca}");
    let by_certificate =
        uri(&mongod, "", &by_certificate).replace("/?", &format!("/{}?", scene.name));
    relays(&scene, &[("MONGODB_URI", &by_certificate)], "X.509").await;
    let check = ["check", "--verbose"];
    let (_, said) = outboxd_with(&scene, &check, &[("MONGODB_URI", &by_certificate)]);
    assert!(said.contains("as CN=relay,O=Shop, defined in database $external"), "{said}");
}
