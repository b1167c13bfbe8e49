//! Takes the money for an order: once, however often it is asked, and never without a trace.
//!
//! The provider isn't part of a transaction, so it may have taken the money and this service not
//! know: it answered too late, the transaction after it failed, or the process died in between.
//! Hence the order of things:
//!
//! 1. The charge is written down as `intended`, committed by a majority, with the token.
//! 2. The provider is asked, with an idempotency key that is derived from the order.
//! 3. Its answer is written down, and `payment:created` with it, in one transaction.
//!
//! | what goes wrong | what follows |
//! | --- | --- |
//! | the process dies after 1 | `recover` asks the provider, which takes it now, for the first time |
//! | the process dies after 2, or transaction 3 gives up | `recover` asks again with the same key, and gets the same answer: nothing is taken twice, and what was taken gets its event |
//! | the provider answers too late or not at all | 202 and `intended`; `recover` asks again until there is an answer |
//! | the request is sent again, or twice at once | it finds the charge; while that is `intended`, it asks with the same key, and one of both writes the answer down |
//! | the order is cancelled or expires meanwhile | the charge is `refunding`: the provider is told to give back what it took, or never to take it, until it has confirmed that |
//! | the provider declines | the next request is another attempt, with another key |
//!
//! `recover` runs from the start on, in every instance. Two that ask at once are no worse than one.

use std::sync::Arc;
use std::time::Duration;

use bson::DateTime;
use bson::oid::ObjectId;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::charge::Charge;
use super::provider::{Provider, ProviderError};
use super::store::{Answer, OrderCopy, Store};
use crate::messages::ChargeStatus;
use crate::refusal::ApiError;
use crate::status::OrderStatus;

/// How long the provider may take to answer a request.
const PROVIDER_TIME: Duration = Duration::from_secs(2);
/// How often it is looked for charges that nobody settled.
const LOOK: Duration = Duration::from_secs(1);
/// From which age on nobody is at a charge any more, and it is asked about again.
const ABANDONED: Duration = Duration::from_secs(3);
/// How often a request that others overtake begins again.
const TRIES: usize = 5;

#[derive(Clone)]
pub(crate) struct Till {
    store: Store,
    provider: Arc<dyn Provider>,
}

/// What came of a request to pay.
pub(crate) enum Paid {
    Now(Charge),
    Before(Charge),
    /// The provider has not answered.
    Pending(Charge),
}

impl Till {
    pub(crate) fn new(store: Store, provider: Arc<dyn Provider>) -> Self {
        Self { store, provider }
    }

    /// Pays `user`'s order.
    pub(crate) async fn pay(
        &self,
        order: ObjectId,
        user: &str,
        token: &str,
    ) -> Result<Paid, ApiError> {
        for _ in 0..TRIES {
            let order = self.order(order, user).await?;
            let charge = match self.store.charge_of(order.id).await? {
                Some(charge) if charge.status == ChargeStatus::Taken => {
                    return Ok(Paid::Before(charge));
                }
                charge => {
                    may_be_paid(&order)?;
                    charge
                }
            };

            let intended = match charge {
                None => self.store.intend(&order, token).await?,
                Some(last) if last.status == ChargeStatus::Declined => {
                    self.store.intend_again(&last, token).await?
                }
                charge => charge,
            };

            match intended {
                Some(charge) if charge.status == ChargeStatus::Intended => {
                    return outcome(self.ask(charge).await?);
                }
                // Someone else is faster.
                _ => {}
            }
        }

        Err(ApiError::busy())
    }

    /// The charge of `user`'s order.
    pub(crate) async fn charge_of(&self, order: ObjectId, user: &str) -> Result<Charge, ApiError> {
        let order = self.order(order, user).await?;
        let charge = self.store.charge_of(order.id).await?;
        charge.ok_or_else(|| ApiError::not_found("charge"))
    }

    /// Asks about what nobody settled, until the service stops.
    pub(crate) async fn recover(self) {
        loop {
            match self.store.unsettled(ABANDONED).await {
                Ok(charges) => {
                    for charge in charges {
                        self.recover_one(charge).await;
                    }
                }
                Err(error) => warn!(%error, "the unsettled charges can't be read"),
            }
            sleep(LOOK).await;
        }
    }

    async fn recover_one(&self, charge: Charge) {
        let order = charge.order_id;
        match self.ask(charge).await {
            Ok(charge) => info!(%order, status = ?charge.status, "asked about a charge again"),
            Err(error) => warn!(%order, %error, "a charge can't be settled; trying again"),
        }
    }

    /// Asks the provider about a charge and writes its answer down. Without an answer the charge
    /// stays as it is.
    async fn ask(&self, charge: Charge) -> Result<Charge, ApiError> {
        let asked = async {
            match charge.status {
                ChargeStatus::Refunding => {
                    self.provider.refund(charge.key()).await.map(|()| Answer::GivenBack)
                }
                _ => self.provider.charge(charge.request()).await.map(Answer::Taken),
            }
        };

        let answer = match timeout(PROVIDER_TIME, asked).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(ProviderError::Declined(reason))) => Answer::Declined(reason),
            Ok(Err(error @ ProviderError::Unknown(_))) => {
                warn!(order = %charge.order_id, %error, "a charge is unsettled");
                return Ok(charge);
            }
            Err(_) => {
                warn!(order = %charge.order_id, "the provider did not answer in time");
                return Ok(charge);
            }
        };

        Ok(self.store.settle(&charge, answer).await?)
    }

    async fn order(&self, id: ObjectId, user: &str) -> Result<OrderCopy, ApiError> {
        match self.store.order(id).await? {
            None => Err(ApiError::not_found("order")),
            Some(order) if order.user_id != user => {
                Err(ApiError::forbidden("the order is someone else's"))
            }
            Some(order) => Ok(order),
        }
    }
}

/// Whether money may be taken for this order now. The clock decides too: that an order has expired
/// may not have been heard yet.
fn may_be_paid(order: &OrderCopy) -> Result<(), ApiError> {
    if order.status == OrderStatus::Cancelled {
        return Err(ApiError::conflict("the order is cancelled"));
    }
    if !order.status.is_payable() {
        return Err(ApiError::conflict("the order is paid"));
    }
    if order.expires_at <= DateTime::now() {
        return Err(ApiError::conflict("the order has expired"));
    }
    Ok(())
}

fn outcome(charge: Charge) -> Result<Paid, ApiError> {
    match charge.status {
        ChargeStatus::Taken => Ok(Paid::Now(charge)),
        ChargeStatus::Intended => Ok(Paid::Pending(charge)),
        ChargeStatus::Declined => Err(ApiError::declined(charge.reason.unwrap_or_default())),
        ChargeStatus::Refunding | ChargeStatus::Refunded => {
            Err(ApiError::conflict("the order was cancelled; nothing is taken"))
        }
    }
}
