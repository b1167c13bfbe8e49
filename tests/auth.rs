//! The auth service: accounts, sessions, and what a stranger doesn't learn.

use bson::doc;
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, NatsServer, Ticketing};

fn account(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password })
}

async fn send(auth: &Ticketing, verb: &str, email: &str, password: &str) -> Answer {
    let json = [("content-type", "application/json")];
    auth.raw(&format!("/api/users/{verb}"), &json, &account(email, password).to_string()).await
}

fn cookie(answer: &Answer) -> (String, Vec<String>) {
    let all: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(all.len(), 1, "{answer:?}");
    let mut parts = all[0].to_str().unwrap().split("; ").map(str::to_owned);
    (parts.next().unwrap(), parts.collect())
}

#[tokio::test]
async fn an_account_has_a_session_as_a_cookie_no_script_can_read_and_as_a_token() {
    let nats = NatsServer::taking("*").await;
    let auth = Ticketing::start("auth", &nats).await;
    let made = send(&auth, "signup", " Ann@Example.com", "correct horse").await;
    assert_eq!((made.status, &made.body["email"]), (201, &json!("ann@example.com")), "{made:?}");
    assert_eq!(made.headers["cache-control"], "no-store");
    let (session, flags) = cookie(&made);
    assert_eq!(flags, ["Path=/", "Max-Age=86400", "HttpOnly", "SameSite=Lax", "Secure"]);
    let token = made.body["token"].as_str().unwrap();
    assert_eq!(session, format!("session={token}"));

    let me = json!({ "currentUser": { "id": made.id(), "email": "ann@example.com" } });
    let (bearer, other) = (format!("Bearer {token}"), format!("theme=dark; {session}; a=b"));
    for header in [("authorization", bearer.as_str()), ("cookie", &session), ("cookie", &other)] {
        let shown = auth.get_with("/api/users/currentuser", &[header]).await;
        assert_eq!((shown.status, &shown.body), (200, &me), "{header:?}");
    }
    let nobody = json!({ "currentUser": null });
    let forged = format!("session={}x", token);
    let wrong = [("cookie", session.as_str()), ("authorization", "Bearer nonsense")];
    for headers in [&[][..], &[("cookie", forged.as_str())], &wrong] {
        assert_eq!(auth.get_with("/api/users/currentuser", headers).await.body, nobody);
    }

    let out = auth.raw("/api/users/signout", &[("cookie", &session)], "").await;
    let (session, flags) = cookie(&out);
    assert_eq!((out.status, session.as_str(), flags[1].as_str()), (200, "session=", "Max-Age=0"));
    assert_eq!(flags[2..], ["HttpOnly", "SameSite=Lax", "Secure"]);
    let again = send(&auth, "signin", "ann@example.com", "correct horse").await;
    assert_eq!((again.status, again.id()), (200, made.id()));
    assert_eq!(cookie(&again).1.len(), 5);

    let user = auth.records("users").find_one(doc! {}).await.unwrap().unwrap();
    assert!(user.get_str("passwordHash").unwrap().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    let event = auth.records("outbox").find_one(doc! {}).await.unwrap().unwrap();
    let payload = doc! { "id": made.id(), "version": 0_i64 };
    assert_eq!(event.get_document("payload").unwrap(), &payload, "nobody else needs the address");
    let everything = format!("{:?}", auth.everything().await);
    assert!(!everything.contains("correct horse"));
}

#[tokio::test]
async fn only_for_trying_out_does_the_cookie_go_over_http() {
    let nats = NatsServer::taking("*").await;
    let auth = Ticketing::start_with("auth", &nats, &[("COOKIE_SECURE", "false")]).await;
    let made = send(&auth, "signup", "ann@example.com", "correct horse").await;
    assert_eq!(cookie(&made).1, ["Path=/", "Max-Age=86400", "HttpOnly", "SameSite=Lax"]);
}

#[tokio::test]
async fn a_stranger_does_not_learn_from_sign_in_who_has_an_account() {
    let nats = NatsServer::taking("*").await;
    let auth = Ticketing::start("auth", &nats).await;
    assert_eq!(send(&auth, "signup", "ann@example.com", "correct horse").await.status, 201);
    let shown = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("date");
        // Seconds that are left.
        let waits = headers.remove("retry-after").is_some();
        (answer.status, headers, answer.body.clone(), waits)
    };

    // Up to the limit on attempts, and over it.
    for attempt in 1..=12 {
        let hers = send(&auth, "signin", "ann@example.com", "wrong horse").await;
        let nobodys = send(&auth, "signin", "bob@example.com", "wrong horse").await;
        assert_eq!(shown(&hers), shown(&nobodys));
        assert_eq!(hers.status, if attempt <= 10 { 401 } else { 429 }, "{attempt}: {hers:?}");
        assert!(!hers.headers.contains_key("set-cookie"));
    }
}

#[tokio::test]
async fn attempts_are_limited_for_each_address_also_at_once_and_with_the_right_password() {
    let nats = NatsServer::taking("*").await;
    let auth = Ticketing::start("auth", &nats).await;
    for email in ["ann@example.com", "bob@example.com"] {
        assert_eq!(send(&auth, "signup", email, "correct horse").await.status, 201);
    }

    // The right password makes up for wrong ones before it.
    for _ in 0..3 {
        for _ in 0..9 {
            assert_eq!(send(&auth, "signin", "ann@example.com", "wrong horse").await.status, 401);
        }
        assert_eq!(send(&auth, "signin", "ann@example.com", "correct horse").await.status, 200);
    }

    let guesses = (0..20).map(|n| {
        let (auth, guess) = (&auth, format!("wrong horse {n}"));
        let verb = if n % 2 == 0 { "signin" } else { "signup" };
        async move { send(auth, verb, "Ann@example.com", &guess).await.status }
    });
    let refused = join_all(guesses).await.into_iter().filter(|status| *status == 429).count();
    assert_eq!(refused, 10, "ten guesses, by whatever door");
    let locked = send(&auth, "signin", "ann@example.com", "correct horse").await;
    assert_eq!(locked.status, 429, "{locked:?}");
    let wait: u64 = locked.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=900).contains(&wait), "{wait}");
    assert_eq!(send(&auth, "signin", "bob@example.com", "correct horse").await.status, 200);

    // Its time is over.
    let past = doc! { "$set": { "until": bson::DateTime::from_millis(0) } };
    auth.records("attempts").update_many(doc! {}, past).await.unwrap();
    assert_eq!(send(&auth, "signin", "ann@example.com", "correct horse").await.status, 200);
}

#[tokio::test]
async fn an_address_has_one_account_whoever_asks_and_however_often() {
    let nats = NatsServer::taking("*").await;
    let auth = Ticketing::start("auth", &nats).await;
    let requests = (0..8).map(|_| send(&auth, "signup", "ann@example.com", "correct horse"));
    let answers = join_all(requests).await;
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(created, 1, "{answers:?}");
    assert!(answers.iter().all(|answer| answer.id() == answers[0].id()), "{answers:?}");
    assert_eq!(auth.records("users").count_documents(doc! {}).await.unwrap(), 1);
    assert_eq!(auth.records("outbox").count_documents(doc! {}).await.unwrap(), 1);

    let before = auth.everything().await;
    let other = send(&auth, "signup", "ANN@example.com", "wrong horse").await;
    assert_eq!(other.status, 400, "{other:?}");
    assert!(!other.headers.contains_key("set-cookie"));
    for (email, password) in [
        ("ann", "correct horse"),
        ("@example.com", "correct horse"),
        ("a b@example.com", "correct horse"),
        ("bob@example.com", "short"),
        ("bob@example.com", &"x".repeat(129)),
    ] {
        let refused = send(&auth, "signup", email, password).await;
        assert_eq!(refused.status, 400, "{email} {password}");
        assert!(refused.body["errors"][0]["field"].is_string(), "{refused:?}");
    }
    let json = [("content-type", "application/json")];
    assert_eq!(auth.raw("/api/users/signup", &json, "{}").await.status, 400);
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(auth.raw("/api/users/signin", &form, "email=a").await.status, 415);
    assert_eq!(auth.everything().await, before, "a refused request writes nothing");
}
