//! The program of `docs/writers` that schedules an event and cancels it.

use bson::{DateTime, Document, doc};

use super::scheduled;
use crate::support::{NatsServer, Relay, Scene};
use crate::writers::{Language, Line, NODE};

const PLACE: Line = &["node", "schedule.js", "place"];
const PAY: Line = &["node", "schedule.js", "pay"];

#[tokio::test]
async fn node_schedules_what_the_relay_delivers_unless_it_is_cancelled() {
    let language: &'static Language = &NODE;
    let Some(program) = language.prepared().await else { return };
    let nats = NatsServer::taking("order.expired").await;
    let scene = Scene::alone(&nats).await;
    let _relay = Relay::leading(&scene, &[]).await;

    for order in ["1", "2"] {
        assert_eq!(program.run(PLACE, &scene, order).await.unwrap(), "placed");
    }
    assert_eq!(program.run(PAY, &scene, "1").await.unwrap(), "true");
    assert_eq!(program.run(PAY, &scene, "1").await.unwrap(), "false", "it was paid");
    let orders = scene.database.collection::<Document>("orders");
    let paid = orders.find_one(doc! { "paid": true }).await.unwrap().expect("one was paid");
    assert_eq!(paid.get_str("_id").unwrap(), "1");

    let now = doc! { "$set": { "deliverAt": DateTime::now() } };
    let due = scheduled(&scene).update_one(doc! { "_id": "2-expired" }, now).await.unwrap();
    assert_eq!(due.modified_count, 1);
    crate::support::until("the other one is delivered", async || {
        (scene.messages().await.len() == 1).then_some(())
    })
    .await;
    assert_eq!(scene.messages().await[0].payload, r#"{"id":"2"}"#);
    assert_eq!(program.run(PAY, &scene, "2").await.unwrap(), "false", "it has expired");
}
