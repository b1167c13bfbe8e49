//! The payments service: who may pay, that an order is paid once, and that no money is lost
//! whatever the provider does.

use bson::{Document, doc, oid::ObjectId};
use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, NatsServer, Ticketing, until};

const GROUP: &str = "payments-service";
const LATER: &str = "2099-01-01T00:00:00Z";

fn order(id: &ObjectId, status: &str, version: u32, expires_at: &str) -> Value {
    json!({ "id": id.to_hex(), "userId": "bob", "status": status, "expiresAt": expires_at,
            "ticketId": ObjectId::new().to_hex(), "price": 15.0, "version": version })
}

/// An order of bob's that the service has heard of.
async fn heard(payments: &Ticketing) -> ObjectId {
    let id = ObjectId::new();
    payments.hears("order:created", order(&id, "created", 0, LATER)).await;
    until("the order is here", async || {
        payments.records("orders").find_one(doc! { "_id": id }).await.unwrap()
    })
    .await;
    id
}

async fn pay(payments: &Ticketing, user: &str, order: &ObjectId, token: &str) -> Answer {
    let body = json!({ "orderId": order.to_hex(), "token": token });
    payments.post(user, "/api/payments", body).await
}

/// The order's charge once it has this status.
async fn charge(payments: &Ticketing, order: &ObjectId, status: &str) -> Document {
    until(&format!("the charge is {status}"), async || {
        let charges = payments.records("charges");
        charges.find_one(doc! { "orderId": order, "status": status }).await.unwrap()
    })
    .await
}

/// What the provider has written down: the state and the number of requests of each key.
async fn book(payments: &Ticketing) -> Vec<(String, i64)> {
    let mut entries =
        payments.records("test_provider").find(doc! {}).sort(doc! { "_id": 1 }).await.unwrap();
    let mut book = Vec::new();
    while entries.advance().await.unwrap() {
        let entry = entries.deserialize_current().unwrap();
        book.push((entry.get_str("state").unwrap().to_owned(), entry.get_i64("requests").unwrap()));
    }
    book
}

/// The events in the outbox: subject and version.
async fn events(payments: &Ticketing) -> Vec<(String, i64)> {
    let mut found = payments.records("outbox").find(doc! {}).sort(doc! { "ts": 1 }).await.unwrap();
    let mut events = Vec::new();
    while found.advance().await.unwrap() {
        let event = found.deserialize_current().unwrap();
        let version = event.get_document("payload").unwrap().get_i64("version").unwrap();
        events.push((event.get_str("subject").unwrap().to_owned(), version));
    }
    events
}

fn created() -> Vec<(String, i64)> {
    vec![("payment:created".to_owned(), 0)]
}

#[tokio::test]
async fn only_the_owner_of_an_open_order_can_pay() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let id = heard(&payments).await;
    let (cancelled, expired, paid) = (ObjectId::new(), ObjectId::new(), ObjectId::new());
    payments.hears("order:created", order(&cancelled, "created", 0, LATER)).await;
    payments.hears("order:cancelled", order(&cancelled, "cancelled", 1, LATER)).await;
    payments.hears("order:created", order(&expired, "created", 0, "2020-01-01T00:00:00Z")).await;
    payments.hears("order:created", order(&paid, "created", 0, LATER)).await;
    payments.hears("order:updated", order(&paid, "complete", 1, LATER)).await;
    until("all is heard", async || payments.heard_all(GROUP).await).await;

    let before = payments.everything().await;
    for (status, user, id) in [
        (403, "cid", &id),
        (404, "bob", &ObjectId::new()),
        (409, "bob", &cancelled),
        (409, "bob", &expired),
        (409, "bob", &paid),
        (403, "cid", &expired),
    ] {
        let refused = pay(&payments, user, id, "tok_visa").await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(!refused.complaint().is_empty());
    }
    for body in [
        json!({}),
        json!({ "orderId": id.to_hex() }),
        json!({ "orderId": "5", "token": "tok_visa" }),
        json!({ "orderId": id.to_hex(), "token": "" }),
        json!({ "orderId": id.to_hex(), "token": 5 }),
    ] {
        assert_eq!(payments.post("bob", "/api/payments", body.clone()).await.status, 400, "{body}");
    }
    let json = [("content-type", "application/json")];
    assert_eq!(payments.raw("/api/payments", &json, "{}").await.status, 401);
    let path = format!("/api/payments/{id}");
    assert_eq!(payments.get("bob", &path).await.status, 404, "there is no charge yet");
    assert_eq!(payments.get("cid", &path).await.status, 403);
    assert_eq!(payments.everything().await, before, "a refused request writes nothing");
    assert!(book(&payments).await.is_empty(), "the provider was not asked");
}

#[tokio::test]
async fn an_order_is_paid_once_however_often_and_by_however_many_requests() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let id = heard(&payments).await;
    let answers = join_all((0..20).map(|_| pay(&payments, "bob", &id, "tok_visa"))).await;
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.id() == answers[0].id()));
    let again = pay(&payments, "bob", &id, "tok_declined").await;
    assert_eq!(
        (again.status, again.id()),
        (200, answers[0].id()),
        "it is paid, whatever the token"
    );

    let entries = book(&payments).await;
    assert!(matches!(&entries[..], [(state, _)] if state == "taken"), "{entries:?}");
    assert_eq!(events(&payments).await, created());
    let stored = charge(&payments, &id, "taken").await;
    assert_eq!(stored.get_f64("amount").unwrap(), 15.0);
    assert!(stored.get("token").is_none(), "it has served its purpose");
    let event = payments.records("outbox").find_one(doc! {}).await.unwrap().unwrap();
    let told = doc! { "id": again.id(), "orderId": id.to_hex(), "userId": "bob", "amount": 15.0,
    "status": "taken", "version": 0_i64 };
    assert_eq!(event.get_document("payload").unwrap(), &told, "built from the charge as stored");

    // Once its order is complete, it is still the answer.
    payments.hears("order:updated", order(&id, "complete", 1, LATER)).await;
    until("all is heard", async || payments.heard_all(GROUP).await).await;
    let again = pay(&payments, "bob", &id, "tok_visa").await;
    assert_eq!((again.status, again.id()), (200, answers[0].id()));
    assert_eq!(payments.get("bob", &format!("/api/payments/{id}")).await.body, again.body);
}

#[tokio::test]
async fn after_the_provider_has_declined_the_owner_can_pay_another_way() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let id = heard(&payments).await;
    for token in ["tok_declined", "tok_of_nobody"] {
        let declined = pay(&payments, "bob", &id, token).await;
        assert_eq!((declined.status, declined.complaint()), (402, "the card was declined"));
    }
    assert_eq!(events(&payments).await, []);
    let answers = join_all((0..5).map(|_| pay(&payments, "bob", &id, "tok_visa"))).await;
    assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)), "{answers:?}");
    let states: Vec<_> = book(&payments).await.into_iter().map(|(state, _)| state).collect();
    assert_eq!(states, ["declined", "declined", "taken"], "each attempt has its own key");
    assert_eq!(events(&payments).await, created());
}

#[tokio::test]
async fn a_provider_that_does_not_answer_is_asked_again_under_the_same_key() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let (taken, lost) = (heard(&payments).await, heard(&payments).await);
    let (one, two) = tokio::join!(
        pay(&payments, "bob", &taken, "tok_timeout"),
        pay(&payments, "bob", &lost, "tok_outage")
    );
    for pending in [one, two] {
        assert_eq!((pending.status, &pending.body["status"]), (202, &json!("intended")));
        assert!(pending.body.get("version").is_none(), "nothing is announced yet");
    }

    for id in [&taken, &lost] {
        charge(&payments, id, "taken").await;
        assert_eq!(pay(&payments, "bob", id, "tok_visa").await.status, 200);
    }
    assert_eq!(book(&payments).await, [("taken".to_owned(), 2), ("taken".to_owned(), 2)]);
    assert_eq!(events(&payments).await, [created(), created()].concat());
}

#[tokio::test]
async fn what_was_taken_while_the_service_died_is_found_and_announced_after_its_start() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let (known, unknown) = (heard(&payments).await, heard(&payments).await);

    // Killed after the provider took the money, before its answer.
    let is_taken =
        until("the provider has it", async || (book(&payments).await.len() == 1).then_some(()));
    tokio::select! {
        answer = pay(&payments, "bob", &known, "tok_timeout") => panic!("{answer:?}"),
        () = is_taken => {}
    }
    let payments = payments.killed_and_started("payments").await;
    let settled = charge(&payments, &known, "taken").await;
    assert_eq!(book(&payments).await, [("taken".to_owned(), 2)]);
    assert_eq!(events(&payments).await, created());

    // Killed before the provider was asked: as the first step leaves it.
    let mut intended = settled.clone();
    intended.insert("_id", ObjectId::new());
    intended.insert("orderId", unknown);
    intended.extend(doc! { "status": "intended", "token": "tok_visa" });
    intended.remove("version");
    payments.records("charges").insert_one(intended).await.unwrap();
    charge(&payments, &unknown, "taken").await;
    assert_eq!(book(&payments).await.len(), 2);
    assert_eq!(events(&payments).await, [created(), created()].concat());
}

#[tokio::test]
async fn money_for_an_order_that_was_cancelled_meanwhile_goes_back() {
    let nats = NatsServer::taking("*").await;
    let payments = Ticketing::start("payments", &nats).await;
    let [taken, pending, never] =
        [heard(&payments).await, heard(&payments).await, heard(&payments).await];
    assert_eq!(pay(&payments, "bob", &taken, "tok_visa").await.status, 201);
    let (one, two) = tokio::join!(
        pay(&payments, "bob", &pending, "tok_timeout"),
        pay(&payments, "bob", &never, "tok_outage")
    );
    assert_eq!((one.status, two.status), (202, 202));

    for id in [&taken, &pending, &never] {
        payments.hears("order:cancelled", order(id, "cancelled", 1, LATER)).await;
    }
    for id in [&taken, &pending, &never] {
        let stored = until("the charge is settled", async || {
            let charge = payments.records("charges").find_one(doc! { "orderId": id }).await;
            let charge = charge.unwrap().unwrap();
            (charge.get_str("status").unwrap() == "refunded").then_some(charge)
        })
        .await;
        // Whether it was taken before the cancellation was heard is a matter of luck.
        let version = stored.get_i64("version").ok();
        assert!(id != &taken || version == Some(1), "{stored}");
        let refused = pay(&payments, "bob", id, "tok_visa").await;
        assert_eq!(refused.status, 409, "{refused:?}");
    }
    let entries = book(&payments).await;
    assert!(entries.iter().all(|(state, _)| state == "refunded"), "{entries:?}");

    let events = events(&payments).await;
    let count = |subject: &str| events.iter().filter(|(it, _)| it == subject).count();
    assert_eq!(count("payment:created"), count("payment:refunded"), "{events:?}");
}
