//! The orders service: its requests, and its copy of the tickets.

use bson::{Document, doc, oid::ObjectId};
use mongodb::options::ReadConcern;
use serde_json::{Value, json};

use crate::support::{NatsServer, Relay, Ticketing, until};

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
