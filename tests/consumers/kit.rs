//! The kit: servers for the tests of a service.

use bson::doc;
use futures_util::StreamExt;
use outboxd_client::kit::{Kit, KitError, Programs};
use outboxd_client::{Event, Outbox};

use crate::support::{ALONE, OUTBOXD, until};

#[tokio::test]
async fn the_kit_starts_servers_and_a_relay_that_can_be_killed_and_started_again() {
    let _alone = ALONE.lock().await;
    let programs = Programs { outboxd: Some(OUTBOXD.into()), ..Programs::default() };
    let kit = Kit::start_with(programs).await.unwrap();
    let mut relay = kit.relay("shop", "SHOP", &["order.>"]).await.unwrap();
    let client = mongodb::Client::with_uri_str(kit.mongodb_uri()).await.unwrap();
    let shop = client.database("shop");
    let nats = async_nats::connect(kit.nats_url()).await.unwrap();
    let mut orders = nats.subscribe("order.>").await.unwrap();

    let place = async |id: &str| {
        let outbox = Outbox::new(&shop, "outbox");
        let mut session = client.start_session().await.unwrap();
        session.start_transaction().await.unwrap();
        let order = doc! { "_id": id };
        shop.collection::<bson::Document>("orders")
            .insert_one(&order)
            .session(&mut session)
            .await
            .unwrap();
        let event = Event::new("order.placed", &order).unwrap().key(id).unwrap();
        outbox.enqueue(&mut session, event).await.unwrap();
        session.commit_transaction().await.unwrap();
    };
    place("1").await;
    assert_eq!(&orders.next().await.unwrap().payload[..], br#"{"_id":"1"}"#);

    // A relay that is killed before it has deleted an event publishes it again.
    let outbox = shop.collection::<bson::Document>("outbox");
    let left = async || outbox.count_documents(doc! {}).await.ok();
    until("the outbox is empty", async || left().await.filter(|left| *left == 0)).await;
    relay.kill();
    place("2").await;
    relay.start_again().unwrap();
    assert_eq!(&orders.next().await.unwrap().payload[..], br#"{"_id":"2"}"#);

    let error = kit.relay("shop", "not a stream", &["order.>"]).await.unwrap_err();
    assert!(matches!(error, KitError::Start { program: "outboxd", .. }), "{error:?}");
}
