//! The expiration service: the end of an order's time is scheduled, and taken back once it doesn't
//! matter.

use std::time::{Duration, SystemTime};

use bson::{DateTime, Document, doc, oid::ObjectId};
use serde_json::{Value, json};

use crate::support::{NatsServer, Relay, Ticketing, until};

const GROUP: &str = "expiration-service";

fn order(id: &ObjectId, status: &str, version: u32, expires_at: DateTime) -> Value {
    let expires_at = expires_at.try_to_rfc3339_string().unwrap();
    json!({ "id": id.to_hex(), "userId": "bob", "status": status, "expiresAt": expires_at,
            "ticketId": ObjectId::new().to_hex(), "price": 15.0, "version": version })
}

fn payment(order: &ObjectId) -> Value {
    json!({ "id": ObjectId::new().to_hex(), "orderId": order.to_hex(), "userId": "bob",
            "amount": 15.0, "status": "taken", "version": 0 })
}

fn within(time: Duration) -> DateTime {
    DateTime::from_system_time(SystemTime::now() + time)
}

async fn expiration(service: &Ticketing, order: &ObjectId, status: &str) -> Document {
    until(&format!("it is {status}"), async || {
        let found = service.records("expirations");
        found.find_one(doc! { "orderId": order, "status": status }).await.unwrap()
    })
    .await
}

#[tokio::test]
async fn an_order_that_nobody_settles_expires_at_its_time_and_the_others_never() {
    let nats = NatsServer::taking("*").await;
    let service = Ticketing::start("expiration", &nats).await;
    let (open, cancelled, paid) = (ObjectId::new(), ObjectId::new(), ObjectId::new());
    let at = within(Duration::from_secs(3));
    let later = within(Duration::from_secs(3600));
    service.hears("order:created", order(&open, "created", 0, at)).await;
    // Twice, as after a lost ack.
    service.hears("order:created", order(&open, "created", 0, at)).await;
    service.hears("order:created", order(&cancelled, "created", 0, later)).await;
    service.hears("order:created", order(&paid, "created", 0, later)).await;
    service.hears("order:updated", order(&paid, "awaiting:payment", 1, later)).await;
    service.hears("order:cancelled", order(&cancelled, "cancelled", 1, later)).await;
    service.hears("payment:created", payment(&paid)).await;

    expiration(&service, &cancelled, "cancelled").await;
    expiration(&service, &paid, "cancelled").await;
    let scheduled = service.records("outbox_scheduled");
    let left = scheduled.find_one(doc! {}).await.unwrap().unwrap();
    assert_eq!(left.get_str("_id").unwrap(), format!("expiration-{open}"), "the others are gone");
    assert_eq!(scheduled.count_documents(doc! {}).await.unwrap(), 1);

    let _relay = Relay::leading(&service.scene, &[]).await;
    let complete = expiration(&service, &open, "complete").await;
    assert!(DateTime::now() >= at, "not before its time");
    let messages = service.scene.messages().await;
    let said: Vec<_> =
        messages.iter().filter(|message| message.subject == "expiration:complete").collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let payload: Value = serde_json::from_str(&said[0].payload).unwrap();
    let id = complete.get_object_id("_id").unwrap().to_hex();
    assert_eq!(
        (&payload["id"], &payload["orderId"], &payload["version"]),
        (&json!(id), &json!(open.to_hex()), &json!(0))
    );
}

#[tokio::test]
async fn an_end_that_is_heard_before_the_beginning_waits_for_it() {
    let nats = NatsServer::taking("*").await;
    let service = Ticketing::start("expiration", &nats).await;
    let (cancelled, paid) = (ObjectId::new(), ObjectId::new());
    let later = within(Duration::from_secs(3600));
    service.hears("order:cancelled", order(&cancelled, "cancelled", 1, later)).await;
    service.hears("payment:created", payment(&paid)).await;
    service.hears("order:created", order(&cancelled, "created", 0, later)).await;
    service.hears("order:created", order(&paid, "created", 0, later)).await;

    expiration(&service, &cancelled, "cancelled").await;
    expiration(&service, &paid, "cancelled").await;
    let left = service.records("outbox_scheduled").count_documents(doc! {}).await.unwrap();
    assert_eq!(left, 0, "nothing is due any more");
    until("all is heard", async || service.heard_all(GROUP).await).await;
}
