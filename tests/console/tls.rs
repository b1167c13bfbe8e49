//! The console over TLS.

use reqwest::Certificate;

use super::{Console, OPERATOR, start};
use crate::support::pki::Authority;
use crate::support::{Scene, free_ports};

#[tokio::test]
async fn with_a_certificate_the_console_speaks_tls_and_nothing_else() {
    let (scene, authority) = (Scene::new().await, Authority::new());
    let server = authority.server(&["localhost", "127.0.0.1"]);
    let ca = std::fs::read(authority.file()).expect("the authority's certificate");
    let settings =
        [("OUTBOXD_CONSOLE__TLS_CERT", &*server.cert), ("OUTBOXD_CONSOLE__TLS_KEY", &*server.key)];

    let listen = format!("127.0.0.1:{}", free_ports(1)[0]);
    let console = Console {
        child: Some(start(&scene, &listen, &settings)),
        url: format!("https://{listen}"),
        authority: Some(Certificate::from_pem(&ca).expect("a certificate")),
    };

    console.answers().await;

    // A browser sends the cookie over TLS alone.
    let answer = console.stranger().post("/sign-in", &[("token", OPERATOR)]).await;
    let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie").to_owned();
    assert!(cookie.contains("; Secure"), "{cookie}");
    assert!(console.person(OPERATOR).await.page("/").await.contains("alice"));

    let plain = reqwest::get(format!("http://{listen}/sign-in")).await;
    assert!(plain.is_err(), "{plain:?}");

    // Whoever does not know the authority does not talk to it.
    let stranger = Console { child: None, url: console.url.clone(), authority: None };
    let client = &stranger.stranger().client;
    assert!(client.get(format!("{}/sign-in", stranger.url)).send().await.is_err());
}
