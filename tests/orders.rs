//! The orders service: its requests, its copy of the tickets, and an order from status to status.

use bson::{Document, doc, oid::ObjectId};
use mongodb::options::ReadConcern;
use serde_json::{Value, json};

use crate::support::{NatsServer, Relay, Ticketing, token, until};

fn ticket(id: &ObjectId, price: u32, version: u32) -> Value {
    json!({ "id": id.to_hex(), "title": "Concert", "price": price, "userId": "ann", "version": version })
}

async fn copy(orders: &Ticketing, id: &ObjectId, version: i64) -> Document {
    let tickets = orders.records("tickets");
    until(&format!("version {version} is here"), async || {
        let found = tickets.find_one(doc! { "_id": id, "version": version });
        // What a majority has, a transaction that begins now sees too.
        found.read_concern(ReadConcern::majority()).await.unwrap()
    })
    .await
}

#[tokio::test]
async fn versions_are_applied_in_their_order_whatever_order_they_come_in() {
    let nats = NatsServer::taking("*").await;
    let orders = Ticketing::start("orders", &nats).await;
    let (early, late) = (ObjectId::new(), ObjectId::new());
    orders.hears("ticket:updated", ticket(&early, 15, 2)).await;
    orders.hears("ticket:updated", ticket(&early, 10, 1)).await;
    orders.hears("ticket:created", ticket(&late, 5, 0)).await;
    copy(&orders, &late, 0).await;
    assert!(
        orders.records("tickets").find_one(doc! { "_id": early }).await.unwrap().is_none(),
        "not before it is created"
    );

    orders.hears("ticket:created", ticket(&early, 5, 0)).await;
    assert_eq!(copy(&orders, &early, 2).await.get_f64("price").unwrap(), 15.0);
    // An older one that comes again is done, and changes nothing.
    orders.hears("ticket:updated", ticket(&early, 10, 1)).await;
    orders.hears("ticket:created", ticket(&early, 5, 0)).await;
    until("all are heard", async || orders.heard_all("orders-service").await).await;
    assert_eq!(copy(&orders, &early, 2).await.get_f64("price").unwrap(), 15.0);
}

#[tokio::test]
async fn an_order_has_one_owner_and_its_ticket_one_order() {
    let nats = NatsServer::taking("*").await;
    let orders = Ticketing::start("orders", &nats).await;
    let id = ObjectId::new();
    let wanted = json!({ "ticketId": id.to_hex() });
    let unknown = orders.post("bob", "/api/orders", wanted.clone()).await;
    assert_eq!(unknown.status, 404, "{unknown:?}");
    for body in [json!({}), json!({ "ticketId": 5 }), json!({ "ticketId": "5" })] {
        assert_eq!(orders.post("bob", "/api/orders", body.clone()).await.status, 400, "{body}");
    }
    orders.hears("ticket:created", ticket(&id, 5, 0)).await;
    copy(&orders, &id, 0).await;

    let made = orders.post("bob", "/api/orders", wanted.clone()).await;
    assert_eq!((made.status, &made.body["status"]), (201, &json!("created")), "{made:?}");
    let path = format!("/api/orders/{}", made.id());
    let before = orders.everything().await;
    assert_eq!(orders.post("cid", "/api/orders", wanted.clone()).await.status, 409);
    assert_eq!(orders.get("cid", &path).await.status, 403);
    assert_eq!(orders.delete("cid", &path).await.status, 403);
    assert_eq!(orders.delete("bob", &format!("/api/orders/{}", ObjectId::new())).await.status, 404);
    assert_eq!(orders.everything().await, before, "a refused request writes nothing");
    assert_eq!(orders.get("cid", "/api/orders").await.body, json!([]));

    let cancelled = orders.delete("bob", &path).await;
    assert_eq!(
        (cancelled.status, &cancelled.body["status"]),
        (200, &json!("cancelled")),
        "{cancelled:?}"
    );
    assert_eq!(cancelled.body["version"], json!(1));
    let before = orders.everything().await;
    assert_eq!(orders.delete("bob", &path).await.status, 200, "once more changes nothing");
    assert_eq!(orders.everything().await, before);
    assert_eq!(
        orders.post("cid", "/api/orders", wanted).await.status,
        201,
        "the ticket is free again"
    );
}

#[tokio::test]
async fn of_many_orders_at_once_one_gets_the_ticket() {
    let nats = NatsServer::taking("*").await;
    let orders = Ticketing::start("orders", &nats).await;
    let id = ObjectId::new();
    orders.hears("ticket:created", ticket(&id, 5, 0)).await;
    copy(&orders, &id, 0).await;
    let body = json!({ "ticketId": id.to_hex() });
    let users: Vec<String> = (0..20).map(|n| format!("user-{n}")).collect();
    let requests = users.iter().map(|user| orders.post(user, "/api/orders", body.clone()));
    let mut statuses: Vec<u16> =
        futures_util::future::join_all(requests).await.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [[201].as_slice(), &[409; 19]].concat());
    assert_eq!(orders.records("outbox").count_documents(doc! {}).await.unwrap(), 1);
}

#[tokio::test]
async fn both_services_and_their_relays_agree_on_a_ticket() {
    let nats = NatsServer::taking("*").await;
    let tickets = Ticketing::start("tickets", &nats).await;
    let orders = tickets.beside("orders").await;
    let _relays =
        [Relay::leading(&tickets.scene, &[]).await, Relay::leading(&orders.scene, &[]).await];

    let made = tickets.post("ann", "/api/tickets", json!({ "title": "Concert", "price": 5 })).await;
    let id = ObjectId::parse_str(made.id()).unwrap();
    copy(&orders, &id, 0).await;
    let order = orders.post("bob", "/api/orders", json!({ "ticketId": made.id() })).await;
    assert_eq!(order.status, 201, "{order:?}");
    let reserved = copy(&orders, &id, 1).await;
    assert_eq!(reserved.get_object_id("orderId").unwrap().to_hex(), order.id());
    let path = format!("/api/tickets/{}", made.id());
    assert_eq!(
        tickets.put("ann", &path, json!({ "title": "Concert", "price": 9 })).await.status,
        409
    );
    assert_eq!(orders.delete("bob", &format!("/api/orders/{}", order.id())).await.status, 200);
    assert!(copy(&orders, &id, 2).await.get("orderId").is_none());
    assert_eq!(
        tickets.put("ann", &path, json!({ "title": "Concert", "price": 9 })).await.status,
        200
    );
    assert_eq!(copy(&orders, &id, 3).await.get_f64("price").unwrap(), 9.0);
    tickets.scene.drained().await;
    orders.scene.drained().await;
}

/// An order of bob's for a ticket at 5.
async fn placed(orders: &Ticketing) -> (ObjectId, ObjectId) {
    let id = ObjectId::new();
    orders.hears("ticket:created", ticket(&id, 5, 0)).await;
    copy(orders, &id, 0).await;
    let made = orders.post("bob", "/api/orders", json!({ "ticketId": id.to_hex() })).await;
    assert_eq!((made.status, &made.body["price"]), (201, &json!(5.0)), "{made:?}");
    (id, ObjectId::parse_str(made.id()).unwrap())
}

fn reserved(ticket_id: &ObjectId, order: &ObjectId) -> Value {
    let mut reserved = ticket(ticket_id, 5, 1);
    reserved["orderId"] = json!(order.to_hex());
    reserved
}

fn about(order: &ObjectId) -> Value {
    // What is true of a payment and of an expiration.
    json!({ "id": ObjectId::new().to_hex(), "orderId": order.to_hex(), "userId": "bob",
            "amount": 5.0, "status": "taken", "expiresAt": "2026-01-01T00:00:00Z", "version": 0 })
}

/// The order once it has this status, and the events about it.
async fn becomes(orders: &Ticketing, order: &ObjectId, status: &str) -> Vec<(String, i64, String)> {
    until(&format!("the order is {status}"), async || {
        let found = orders.records("orders");
        found.find_one(doc! { "_id": order, "status": status }).await.unwrap()
    })
    .await;
    until("all is heard", async || orders.heard_all("orders-service").await).await;

    let about = doc! { "payload.id": order.to_hex() };
    let mut found = orders.records("outbox").find(about).sort(doc! { "ts": 1 }).await.unwrap();
    let mut events = Vec::new();
    while found.advance().await.unwrap() {
        let event = found.deserialize_current().unwrap();
        let payload = event.get_document("payload").unwrap();
        events.push((
            event.get_str("subject").unwrap().to_owned(),
            payload.get_i64("version").unwrap(),
            payload.get_str("status").unwrap().to_owned(),
        ));
    }
    events
}

fn events(expected: &[(&str, &str)]) -> Vec<(String, i64, String)> {
    let versions = (0..).zip(expected);
    let event = |(version, (subject, status)): (i64, &(&str, &str))| {
        ((*subject).to_owned(), version, (*status).to_owned())
    };
    versions.map(event).collect()
}

const CREATED: (&str, &str) = ("order:created", "created");
const WAITS: (&str, &str) = ("order:updated", "awaiting:payment");
const COMPLETE: (&str, &str) = ("order:updated", "complete");
const CANCELLED: (&str, &str) = ("order:cancelled", "cancelled");

#[tokio::test]
async fn a_paid_order_is_complete_and_nothing_cancels_it() {
    let nats = NatsServer::taking("*").await;
    let orders = Ticketing::start("orders", &nats).await;
    let (ticket, order) = placed(&orders).await;
    orders.hears("ticket:updated", reserved(&ticket, &order)).await;
    assert_eq!(becomes(&orders, &order, "awaiting:payment").await, events(&[CREATED, WAITS]));

    for _ in 0..2 {
        orders.hears("payment:created", about(&order)).await;
    }
    let expected = events(&[CREATED, WAITS, COMPLETE]);
    assert_eq!(becomes(&orders, &order, "complete").await, expected);
    orders.hears("expiration:complete", about(&order)).await;
    let refused = orders.delete("bob", &format!("/api/orders/{order}")).await;
    assert_eq!((refused.status, refused.complaint()), (409, "the order is paid"));
    assert_eq!(becomes(&orders, &order, "complete").await, expected, "it stays, without an event");
    let wanted = json!({ "ticketId": ticket.to_hex() });
    assert_eq!(orders.post("cid", "/api/orders", wanted).await.status, 409, "the ticket is sold");
}

#[tokio::test]
async fn an_order_expires_unless_it_is_paid_and_a_late_payment_does_not_bring_it_back() {
    let nats = NatsServer::taking("*").await;
    let orders = Ticketing::start("orders", &nats).await;
    let (_, early) = placed(&orders).await;
    let (ticket, late) = placed(&orders).await;
    let (_, own) = placed(&orders).await;
    orders.hears("ticket:updated", reserved(&ticket, &late)).await;
    becomes(&orders, &late, "awaiting:payment").await;
    assert_eq!(orders.delete("bob", &format!("/api/orders/{own}")).await.status, 200);

    for order in [&early, &late, &own] {
        for _ in 0..2 {
            orders.hears("expiration:complete", about(order)).await;
        }
        orders.hears("payment:created", about(order)).await;
    }
    let (created, waited) = (events(&[CREATED, CANCELLED]), events(&[CREATED, WAITS, CANCELLED]));
    assert_eq!(becomes(&orders, &early, "cancelled").await, created);
    assert_eq!(becomes(&orders, &late, "cancelled").await, waited);
    assert_eq!(becomes(&orders, &own, "cancelled").await, created);

    // Its reservation is heard only now.
    let (ticket, order) = placed(&orders).await;
    orders.hears("payment:created", about(&order)).await;
    orders.hears("ticket:updated", reserved(&ticket, &order)).await;
    copy(&orders, &ticket, 1).await;
    assert_eq!(becomes(&orders, &order, "complete").await, events(&[CREATED, COMPLETE]));
    let wanted = json!({ "ticketId": ticket.to_hex() });
    assert_eq!(orders.post("cid", "/api/orders", wanted).await.status, 409);
}

#[tokio::test]
async fn how_long_an_order_reserves_its_ticket_is_a_setting_and_a_cookie_tells_who_asks() {
    let nats = NatsServer::taking("*").await;
    let env = [("ORDER_EXPIRES_AFTER", "90s")];
    let orders = Ticketing::start_with("orders", &nats, &env).await;
    let (_, order) = placed(&orders).await;
    let path = format!("/api/orders/{order}");
    let cookie = |user: &str| format!("session={}", token(user, 600));
    let shown = orders.get_with(&path, &[("cookie", &cookie("bob"))]).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    assert_eq!(orders.get_with(&path, &[("cookie", &cookie("cid"))]).await.status, 403);
    assert_eq!(orders.get_with(&path, &[]).await.status, 401);

    let expires = shown.body["expiresAt"].as_str().unwrap();
    let expires = bson::DateTime::parse_rfc3339_str(expires).unwrap().timestamp_millis();
    let begun = order.timestamp().timestamp_millis();
    assert!((89_000..=92_000).contains(&(expires - begun)), "{expires} {begun}");
}
