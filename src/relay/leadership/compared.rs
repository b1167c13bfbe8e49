//! What a comparison of the stream with the watermark leads to. A loss ends the leadership, so that
//! no event of before it is in hand.

use futures_util::FutureExt as _;

use super::Leadership;
use super::comparing::compared;
use crate::relay::ports::EventBus;
use crate::relay::watermark::{Compared, Rewound};

impl<B: EventBus> Leadership<B> {
    /// Begins a comparison, unless the stream was compared over this connection.
    pub(super) fn compare(&mut self) {
        let connection = self.publisher.bus.connection();
        let is_needed = connection != 0 && !self.publisher.clearance.is_granted(connection);

        if is_needed && self.comparing.under_way.is_empty() {
            self.comparing.under_way.push(compared(self.publisher.clone()).boxed());
        }
    }

    /// Takes the result of a comparison. Returns what the stream has lost.
    pub(super) fn compared(&mut self, connection: u64, compared: Compared) -> Option<Rewound> {
        let back = self.comparing.back.take();
        let Compared { loss, now } = compared;

        let back = back.map(|back| Rewound { created_ms: now.created_ms, ..back });
        if let Some(loss) = loss.or(back) {
            self.publisher.bus.set_hurt(true);
            return Some(loss);
        }

        self.publisher.term.reached.note(connection, now.sequence);
        self.publisher.term.newest.begin(now);
        self.publisher.clearance.grant(connection);

        // There may be another connection by now.
        self.compare();
        None
    }

    /// Reports what the acks have shown of the stream.
    pub(super) fn report_stream(&mut self) {
        if let Some(back) = self.publisher.bus.rewound() {
            self.comparing.back = Some(back);
            self.publisher.clearance.withdraw();
        }

        self.compare();
        self.report_forged();
    }

    pub(super) fn report_forged(&self) {
        if let Some(forged) = self.publisher.bus.forged() {
            self.events.forged.increment(forged.signs);
            self.verdicts.forged(&self.config.stream.name, &forged);
        }
    }
}
