//! Two orders that expire unless they are paid in time, and one payment.
//!
//! ```sh
//! MONGODB_URI='mongodb://localhost/?replicaSet=rs0' cargo run --package outboxd-client --example schedule
//! ```

use std::time::{Duration, SystemTime};

use bson::{Document, doc};
use mongodb::{Client, Database};
use outboxd_client::{Event, EventError, EventId, Outbox};

/// How long an order may be paid.
const TIME_TO_PAY: Duration = Duration::from_secs(15 * 60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::with_uri_str(std::env::var("MONGODB_URI")?).await?;
    let shop = client.database("shop");

    for order in ["order-7", "order-8"] {
        place(&shop, order).await?;
        println!("{order}: placed, expires in {} minutes", TIME_TO_PAY.as_secs() / 60);
    }
    let is_paid = pay(&shop, "order-7").await?;
    println!("order-7: {}", if is_paid { "paid in time" } else { "too late" });

    Ok(())
}

// readme
/// Saves an order and schedules its expiry, both or neither.
pub async fn place(shop: &Database, order: &str) -> mongodb::error::Result<()> {
    let outbox = Outbox::new(shop, "outbox");
    let mut session = shop.client().start_session().await?;
    let transaction = session.start_transaction();

    let place = async |session: &mut mongodb::ClientSession| {
        let orders = shop.collection::<Document>("orders");
        orders.insert_one(doc! { "_id": order, "paid": false }).session(&mut *session).await?;

        let event = expired(order).map_err(mongodb::error::Error::custom)?;
        outbox.schedule(session, event, SystemTime::now() + TIME_TO_PAY).await?;
        Ok(())
    };
    transaction.and_run2(place).await
}

/// Takes a payment, unless the order has expired.
pub async fn pay(shop: &Database, order: &str) -> mongodb::error::Result<bool> {
    let outbox = Outbox::new(shop, "outbox");
    let mut session = shop.client().start_session().await?;
    let transaction = session.start_transaction();

    // Runs again when the relay moves the event at the same moment.
    let pay = async |session: &mut mongodb::ClientSession| {
        let expiry = expiry(order).map_err(mongodb::error::Error::custom)?;
        if !outbox.cancel(session, &expiry).await? {
            return Ok(false);
        }

        let orders = shop.collection::<Document>("orders");
        let paid = doc! { "$set": { "paid": true } };
        orders.update_one(doc! { "_id": order }, paid).session(&mut *session).await?;
        Ok(true)
    };
    transaction.and_run2(pay).await
}

fn expired(order: &str) -> Result<Event, EventError> {
    Event::new("order.expired", &doc! { "id": order })?.key(order)?.with_id(expiry(order)?)
}

/// An id that follows from the order's, so that nobody has to store it.
fn expiry(order: &str) -> Result<EventId, EventError> {
    EventId::string(format!("{order}-expired"))
}
// end
