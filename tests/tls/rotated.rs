//! Secrets are rotated under a running relay: it goes on with the new ones, and loses nothing on
//! the way.

use std::path::Path;

use bson::doc;
use nkeys::KeyPair;
use outboxd::config::{Config, Sources};

use super::with_ca;
use crate::support::pki::{Authority, Operator, replace};
use crate::support::{NatsServer, PASSWORD, Proxy, Relay, Scene, mongodb_uri, outboxd_with, until};

/// What the password becomes.
const ANEW: &str = "correct-horse";

/// Commits the next ten numbers of a key.
async fn commit(scene: &Scene, from: u32) {
    scene.commit((from..from + 10).map(|number| scene.event("a", number))).await;
}

/// Everything up to this number is in the stream, once and in order.
async fn all(scene: &Scene, to: u32) {
    scene.drained().await;
    until("the test is connected again, too", async || {
        scene.context.get_stream(&scene.stream).await.ok()
    })
    .await;
    assert_eq!(scene.numbers().await["a"], (0..to).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_rotated_nats_password_is_picked_up() {
    let users = |password: &str| {
        format!(
            "no_auth_user: root\n\
             authorization {{ users: [{{ user: root, password: root }}, {{ user: svc, password: {password} }}] }}"
        )
    };
    let nats = NatsServer::with_config(&users(PASSWORD)).await;
    let scene = Scene::alone(&nats).await;
    let file = scene.folder.path().join("password");
    std::fs::write(&file, "wrong").unwrap();
    let settings = [
        ("NATS_USER", "svc"),
        ("NATS_PASSWORD_FILE", file.to_str().unwrap()),
        ("OUTBOXD_SHUTDOWN__GRACE", "1s"),
    ];
    let mut relay = Relay::start(&scene, &settings);
    relay.says("authorization violation").await;
    commit(&scene, 0).await;
    replace(&file, &format!("{PASSWORD}\n"));
    all(&scene, 10).await;
    nats.reload(&users(ANEW));
    relay.says("event=disconnected").await;
    commit(&scene, 10).await;
    replace(&file, ANEW);
    all(&scene, 20).await;
    let said = format!("secrets changed: reconnecting files={:?}", file.to_str().unwrap());
    assert_eq!(relay.log().matches(&said).count(), 2, "{}", relay.log());
    commit(&scene, 20).await;
    all(&scene, 30).await;
    assert!(
        relay.is_running() && !relay.log().contains(PASSWORD) && !relay.log().contains(ANEW),
        "{}",
        relay.log()
    );
    assert_eq!(relay.stop(), Some(0));
}

/// Links are swapped as in a volume of Kubernetes.
#[tokio::test]
async fn rotated_nats_credentials_are_picked_up_by_a_relay_that_waits_and_by_one_that_runs() {
    let (operator, [first, second, third]) =
        (Operator::new(), [(); 3].map(|()| KeyPair::new_user()));
    let mut nats = NatsServer::with_config(&operator.nats(&[&first])).await;
    let folder = tempfile::tempdir().unwrap();
    let point = |user: &KeyPair| {
        let content = folder.path().join(user.public_key());
        std::fs::create_dir(&content).unwrap();
        std::fs::write(content.join("creds"), operator.creds(user)).unwrap();
        let (link, beside) = (folder.path().join("current"), folder.path().join("beside"));
        std::os::unix::fs::symlink(content, &beside).unwrap();
        std::fs::rename(beside, link).unwrap();
    };
    point(&third);
    let creds = folder.path().join("current/creds");
    let settings = [("NATS_CREDS", creds.to_str().unwrap())];
    let scene = super::scene(mongodb_uri(), &nats, &settings).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");

    std::fs::remove_dir_all(folder.path().join(third.public_key())).unwrap();
    point(&first);
    let settings = [settings[0], ("OUTBOXD_SHUTDOWN__GRACE", "1s")];
    let relay = Relay::start(&scene, &settings);
    relay.says("authorization violation").await;
    commit(&scene, 0).await;
    point(&second);
    all(&scene, 10).await;

    nats.kill();
    nats.configure(&operator.nats(&[&first, &second]));
    nats.start_again();
    commit(&scene, 10).await;
    point(&third);
    all(&scene, 20).await;
    relay.says("secrets changed: reconnecting").await;
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_rotated_mongodb_uri_is_picked_up_and_half_of_it_is_not() {
    let scene = Scene::new().await;
    let env: std::collections::HashMap<_, _> = scene.env_of("run").into_iter().collect();
    let old = &env["MONGODB_URI"];
    let host = old.split('@').next_back().unwrap().split('/').next().unwrap();
    // Connections that stand stay a user's, whatever becomes of the password.
    let proxy = Proxy::start(host).await;
    let old = old
        .replace(host, &proxy.address)
        .replace("directConnection=false", "directConnection=true");
    let file = scene.folder.path().join("uri");
    std::fs::write(&file, &old).unwrap();
    let settings = [("MONGODB_URI", ""), ("MONGODB_URI_FILE", file.to_str().unwrap())];
    let settings = [settings[0], settings[1], ("OUTBOXD_SHUTDOWN__GRACE", "1s")];
    let relay = Relay::leading(&scene, &settings).await;
    commit(&scene, 0).await;
    all(&scene, 10).await;

    let anew = old.replace(PASSWORD, ANEW);
    assert_ne!(old, anew);
    replace(&file, anew.split_once('@').unwrap().0);
    relay.says("secrets changed, but cannot be used: keeping the old ones").await;
    commit(&scene, 10).await;
    all(&scene, 20).await;

    let user = doc! { "updateUser": "outbox-relay", "pwd": ANEW, "mechanisms": ["SCRAM-SHA-256"] };
    scene.database.run_command(user).await.unwrap();
    proxy.reset();
    relay.says("uthentication failed").await;
    commit(&scene, 20).await;
    replace(&file, &anew);
    all(&scene, 30).await;
    assert_eq!(
        relay.log().matches("cannot be used: keeping the old ones").count(),
        1,
        "once: {}",
        relay.log()
    );
    let status = reqwest::get(format!("http://{}/status", relay.admin().await)).await.unwrap();
    assert!(
        status.status().is_success(),
        "the admin endpoint asks with the new password, too: {status:?}"
    );
    assert!(!relay.log().contains(PASSWORD) && !relay.log().contains(ANEW), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
}

#[tokio::test]
async fn a_nats_server_and_its_clients_go_over_to_another_ca() {
    let (old, anew) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, from: &str| {
        let path = folder.path().join(name);
        replace(&path, &std::fs::read_to_string(from).unwrap());
        path.to_str().unwrap().to_owned()
    };
    let serves = |authority: &Authority| {
        let server = authority.server(&["127.0.0.1"]);
        server.nats(&format!("ca_file: {:?}, verify: true", authority.file()))
    };
    let mine = old.client("relay");
    let (ca, cert, key) = (put("ca", &old.file()), put("cert", &mine.cert), put("key", &mine.key));
    let files = [("NATS_CERT", cert.as_str()), ("NATS_KEY", &key)];
    let settings = with_ca(&ca, &files);
    let mut nats = NatsServer::with_config(&serves(&old)).await;
    let scene = super::scene(mongodb_uri(), &nats, &settings).await;
    let (code, said) = outboxd_with(&scene, &["migrate"], &settings);
    assert_eq!(code, Some(0), "{said}");
    let relay = Relay::leading(&scene, &settings).await;
    commit(&scene, 0).await;
    all(&scene, 10).await;

    nats.kill();
    nats.configure(&serves(&anew));
    nats.start_again();
    commit(&scene, 10).await;
    let mine = anew.client("relay");
    // Another's key is no use with it.
    put("cert", &mine.cert);
    relay.says("is not that of the certificate").await;
    put("key", &mine.key);
    put("ca", &anew.file());
    all(&scene, 20).await;
    assert_eq!(relay.stop(), Some(0));
}

#[test]
fn every_file_that_a_setting_names_is_watched() {
    let (authority, operator, folder) =
        (Authority::new(), Operator::new(), tempfile::tempdir().unwrap());
    let client = authority.client("relay");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, both) = (authority.file(), &client.both);
    let uri = format!("mongodb://localhost/shop?tlsCAFile={ca}&tlsCertificateKeyFile={both}");
    let settings = [
        ("MONGODB_URI_FILE", file("uri", &uri)),
        ("NATS_URL_FILE", file("url", "tls://localhost")),
        ("NATS_NKEY_FILE", file("nkey", &KeyPair::new_user().seed().unwrap())),
        ("NATS_USER", "svc".to_owned()),
        ("NATS_PASSWORD_FILE", file("password", PASSWORD)),
        ("NATS_TOKEN_FILE", file("token", PASSWORD)),
        ("NATS_CREDS", file("creds", &operator.creds(&KeyPair::new_user()))),
        ("NATS_CERT", client.cert.clone()),
        ("NATS_KEY", client.key.clone()),
        ("NATS_CA", file("ca", &std::fs::read_to_string(&ca).unwrap())),
        ("NATS_CLUSTER_ID", "SHOP".to_owned()),
        ("OUTBOXD_ADMIN__TOKEN_FILE", file("admin", PASSWORD)),
        ("OUTBOXD_ALERTS__WEBHOOK_FILE", file("webhook", "https://localhost/")),
    ];
    let env = settings.iter().map(|(name, text)| ((*name).to_owned(), text.clone())).collect();
    let config = Config::load(&Sources { env, ..Sources::default() }).unwrap();
    assert!(config.rotated().is_empty());
    let files = settings.iter().map(|(_, path)| Path::new(path)).filter(|path| path.is_absolute());
    let files: Vec<_> = files.chain([Path::new(&ca), Path::new(both)]).collect();
    assert_eq!(files.len(), 13, "{files:?}");
    for (changed, file) in files.iter().enumerate() {
        assert_eq!(config.rotated().len(), changed);
        // The same anew is the same.
        let text = std::fs::read_to_string(file).unwrap();
        replace(file, &text);
        assert_eq!(config.rotated().len(), changed, "{file:?}");
        replace(file, &format!("{text} "));
        assert!(
            config.rotated().iter().any(|rotated| *rotated.to_string() == *file.to_str().unwrap()),
            "{file:?}"
        );
    }
    std::fs::remove_file(folder.path().join("uri")).unwrap();
    assert_eq!(config.rotated().len(), 13, "one that is gone is another, too");
    assert!(!format!("{config:?}").contains("digest"), "passwords could be tried on it");
}

#[test]
fn files_that_hold_something_else_than_their_setting_wants_are_mistakes() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (ca, mine, others) = (authority.file(), authority.client("relay"), other.client("relay"));
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("half");
    let text = std::fs::read_to_string(&ca).unwrap();
    std::fs::write(&half, &text[..text.len() / 2]).unwrap();
    let half = half.to_str().unwrap();
    let in_uri = |options: &str| format!("mongodb://localhost/shop?{options}");
    for (settings, mistake) in [
        (
            vec![("NATS_CA", half.to_owned())],
            "nats.tls_ca: ".to_owned() + half + " holds no certificate",
        ),
        (
            vec![("NATS_TOKEN_FILE", "/dev/null".to_owned())],
            "nats.token: is blank (file /dev/null".to_owned(),
        ),
        (vec![("NATS_CREDS", ca.clone())], format!("nats.creds: {ca} is not a credentials file")),
        (
            vec![("NATS_CERT", mine.cert.clone()), ("NATS_KEY", others.key.clone())],
            format!("nats.tls_cert: the key in {} is not that of the certificate", others.key),
        ),
        (
            vec![("NATS_CERT", mine.cert.clone()), ("NATS_KEY", ca.clone())],
            format!("nats.tls_cert: {ca} holds no unencrypted key"),
        ),
        (
            vec![("MONGODB_URI", in_uri(&format!("tlsCAFile={half}")))],
            format!("mongodb.uri: {half} holds no certificate"),
        ),
        (
            vec![("MONGODB_URI", in_uri(&format!("tlsCertificateKeyFile={}", mine.cert)))],
            format!("mongodb.uri: {} holds no unencrypted key", mine.cert),
        ),
        (
            vec![("MONGODB_URI", in_uri("tlsCAFile=/nowhere"))],
            "mongodb.uri: the file /nowhere can't be read".to_owned(),
        ),
        (
            vec![("NATS_URL", "wss://localhost".to_owned())],
            "nats.url: is not one or more URLs".to_owned(),
        ),
    ] {
        let env = [("MONGODB_URI", in_uri("")), ("NATS_CLUSTER_ID", "SHOP".to_owned())];
        let env =
            env.into_iter().filter(|(name, _)| settings.iter().all(|(other, _)| other != name));
        let env = env.chain(settings.clone()).map(|(name, text)| (name.to_owned(), text)).collect();
        let error = Config::load(&Sources { env, ..Sources::default() }).unwrap_err().to_string();
        assert!(
            error.starts_with("1 mistake") && error.contains(&mistake),
            "{mistake:?} in {error}"
        );
    }
}
