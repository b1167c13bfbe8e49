//! The tickets service: its requests, and what an order does to a ticket.

use bson::{doc, oid::ObjectId};
use serde_json::json;

use crate::support::{KEY, NatsServer, Ticketing, signed, token, until};

#[tokio::test]
async fn a_ticket_and_its_event_are_written_together() {
    let nats = NatsServer::taking("*").await;
    let tickets = Ticketing::start("tickets", &nats).await;
    let made = tickets.post("ann", "/api/tickets", json!({ "title": "Concert", "price": 5 })).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!((&made.body["version"], &made.body["price"]), (&json!(0), &json!(5.0)));
    let path = format!("/api/tickets/{}", made.id());
    let changed = tickets.put("ann", &path, json!({ "title": "Concert", "price": 10 })).await;
    assert_eq!((changed.status, &changed.body["version"]), (200, &json!(1)), "{changed:?}");
    assert_eq!(tickets.get("bob", &path).await.body, changed.body, "anyone may look");

    let mut events = tickets.records("outbox").find(doc! {}).sort(doc! { "ts": 1 }).await.unwrap();
    let mut said = Vec::new();
    while events.advance().await.unwrap() {
        let event = events.deserialize_current().unwrap();
        let payload = event.get_document("payload").unwrap();
        assert_eq!(event.get_str("key").unwrap(), made.id());
        said.push((
            event.get_str("subject").unwrap().to_owned(),
            payload.get_f64("price").unwrap(),
        ));
    }
    assert_eq!(said, [("ticket:created".to_owned(), 5.0), ("ticket:updated".to_owned(), 10.0)]);
}

#[tokio::test]
async fn a_bad_request_is_told_why_and_leaves_nothing() {
    let nats = NatsServer::taking("*").await;
    let tickets = Ticketing::start("tickets", &nats).await;
    let made = tickets.post("ann", "/api/tickets", json!({ "title": "Concert", "price": 5 })).await;
    let path = format!("/api/tickets/{}", made.id());
    let before = tickets.everything().await;

    for body in [
        json!({}),
        json!({ "title": "", "price": 5 }),
        json!({ "title": "x", "price": -1 }),
        json!({ "title": "x", "price": "5" }),
        json!({ "title": 5, "price": 5 }),
        json!({ "title": "x".repeat(10_000), "price": 5 }),
        json!([1]),
    ] {
        let refused = tickets.post("ann", "/api/tickets", body.clone()).await;
        assert_eq!(refused.status, 400, "{body}: {refused:?}");
        assert!(!refused.complaint().is_empty());
        assert_eq!(tickets.put("ann", &path, body.clone()).await.status, 400, "{body}");
    }
    let (good, json) =
        (format!("Bearer {}", token("ann", 600)), ("content-type", "application/json"));
    let expired = format!("Bearer {}", token("ann", -600));
    let ticket = r#"{"title":"x","price":5}"#;
    let forged = [
        signed("ann", 600, "HS256", "another key"),
        signed("ann", 600, "HS384", KEY),
        signed("ann", 600, "none", KEY),
        token("ann", 600).rsplit_once('.').expect("a signature").0.to_owned() + ".",
    ];
    for forged in forged {
        let forged = format!("Bearer {forged}");
        let headers = [json, ("authorization", forged.as_str())];
        let refused = tickets.raw("/api/tickets", &headers, ticket).await;
        assert_eq!(refused.status, 401, "{forged}: {refused:?}");
    }
    for (status, headers, body) in [
        (401, vec![json], ticket),
        (401, vec![json, ("authorization", "Bearer nonsense")], ticket),
        (401, vec![json, ("authorization", expired.as_str())], ticket),
        (400, vec![json, ("authorization", good.as_str())], "{not json"),
        (413, vec![json, ("authorization", good.as_str())], &"x".repeat(100_000)),
        (415, vec![("authorization", good.as_str())], ticket),
    ] {
        let refused = tickets.raw("/api/tickets", &headers, body).await;
        assert_eq!(refused.status, status, "{refused:?}");
        assert!(!refused.complaint().contains("nonsense"), "{refused:?}");
    }
    let edit = json!({ "title": "Mine now", "price": 1 });
    assert_eq!(tickets.put("bob", &path, edit.clone()).await.status, 403);
    assert_eq!(
        tickets.put("ann", &format!("/api/tickets/{}", ObjectId::new()), edit.clone()).await.status,
        404
    );
    assert_eq!(tickets.put("ann", "/api/tickets/5", edit).await.status, 400);
    assert_eq!(tickets.get("ann", "/nowhere").await.status, 404);
    assert_eq!(tickets.delete("ann", &path).await.status, 405);
    let stale = json!({ "title": "Concert", "price": 6, "version": 7 });
    assert_eq!(tickets.put("ann", &path, stale).await.status, 409);
    assert_eq!(tickets.everything().await, before, "a refused request writes nothing");
}

#[tokio::test]
async fn an_order_reserves_its_ticket_once_and_gives_it_free() {
    let nats = NatsServer::taking("*").await;
    let tickets = Ticketing::start("tickets", &nats).await;
    let made = tickets.post("ann", "/api/tickets", json!({ "title": "Concert", "price": 5 })).await;
    let path = format!("/api/tickets/{}", made.id());
    let order = ObjectId::new().to_hex();
    let says = |status: &str, version: u32| {
        json!({ "id": order, "userId": "bob", "status": status, "ticketId": made.id(), "version": version,
                "expiresAt": "2030-01-01T00:00:00Z" })
    };
    // Twice, as after a lost ack.
    tickets.hears("order:created", says("created", 0)).await;
    tickets.hears("order:created", says("created", 0)).await;
    let locked = until("the ticket is reserved", async || {
        let ticket = tickets.get("ann", &path).await;
        ticket.body["orderId"].is_string().then_some(ticket)
    })
    .await;
    assert_eq!((&locked.body["orderId"], &locked.body["version"]), (&json!(order), &json!(1)));
    let refused = tickets.put("ann", &path, json!({ "title": "Concert", "price": 9 })).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    until("both are heard", async || tickets.heard_all("tickets-service").await).await;
    assert_eq!(
        tickets.records("outbox").count_documents(doc! {}).await.unwrap(),
        2,
        "one event per change"
    );

    // What else happens to an order leaves the ticket as it is.
    tickets.hears("order:updated", says("awaiting:payment", 1)).await;
    tickets.hears("order:cancelled", says("cancelled", 2)).await;
    let free = until("the ticket is free", async || {
        let ticket = tickets.get("ann", &path).await;
        ticket.body["orderId"].is_null().then_some(ticket)
    })
    .await;
    assert_eq!(free.body["version"], json!(2));
    let changed = tickets.put("ann", &path, json!({ "title": "Concert", "price": 9 })).await;
    assert_eq!((changed.status, &changed.body["version"]), (200, &json!(3)), "{changed:?}");
}

#[tokio::test]
async fn what_cannot_be_read_is_put_aside_and_holds_nothing_up() {
    let nats = NatsServer::taking("*").await;
    let tickets = Ticketing::start("tickets", &nats).await;
    tickets.hears("order:created", json!({ "nonsense": true })).await;
    tickets.hears("someone:else", json!([])).await;
    until("both are done with", async || tickets.heard_all("tickets-service").await).await;
    assert!(tickets.everything().await.is_empty());
    let aside = tickets.records("inbox_failed").find_one(doc! {}).await.unwrap().unwrap();
    assert!(aside.get_str("reason").unwrap().starts_with("the payload can't be read: "), "{aside}");
    assert_eq!(aside.get_str("subject").unwrap(), "order:created");
}
