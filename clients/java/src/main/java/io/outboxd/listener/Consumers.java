package io.outboxd.listener;

import io.nats.client.Connection;
import io.nats.client.ConsumerContext;
import io.nats.client.JetStreamApiException;
import io.nats.client.JetStreamManagement;
import io.nats.client.api.AckPolicy;
import io.nats.client.api.ConsumerConfiguration;
import io.nats.client.api.DeliverPolicy;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * Finds the durable consumer and makes it if it is missing. Of one that is there already, only what the order and the
 * acks depend on is changed, and only if it differs.
 */
final class Consumers {
    private static final int CONSUMER_NOT_FOUND = 10014;
    /** The code of what the server refuses for ever: settings that can't be. */
    private static final int BAD_REQUEST = 400;

    private Consumers() {}

    /** What a listener needs. */
    record Wanted(String stream, String group, List<String> subjects, Duration ackWait, int maxAckPending) {
        ConsumerConfiguration over(ConsumerConfiguration.Builder settings) {
            return settings.filterSubjects(subjects)
                    .ackWait(ackWait)
                    .maxAckPending(maxAckPending)
                    .maxDeliver(-1)
                    .backoff(new Duration[0]) // it would replace ackWait
                    .build();
        }

        boolean is(ConsumerConfiguration there) {
            List<String> current = new ArrayList<>(there.getFilterSubjects() == null ? List.of() : there.getFilterSubjects());
            Collections.sort(current);
            boolean hasBackoff = there.getBackoff() != null && !there.getBackoff().isEmpty();
            return current.equals(subjects) && ackWait.equals(there.getAckWait()) && !hasBackoff
                    && there.getMaxAckPending() == maxAckPending && there.getMaxDeliver() == -1;
        }
    }

    static ConsumerContext settle(Connection nats, Wanted wanted) throws IOException, JetStreamApiException {
        JetStreamManagement manager = nats.jetStreamManagement();
        try {
            ConsumerConfiguration there = found(manager, wanted);
            if (there == null) {
                manager.createConsumer(wanted.stream, wanted.over(ConsumerConfiguration.builder()
                        .durable(wanted.group)
                        .ackPolicy(AckPolicy.Explicit)
                        .deliverPolicy(DeliverPolicy.All)));
            } else if (!wanted.is(there)) {
                manager.updateConsumer(wanted.stream, wanted.over(ConsumerConfiguration.builder(there)));
            }
            return nats.getConsumerContext(wanted.stream, wanted.group);
        } catch (JetStreamApiException e) {
            if (e.getErrorCode() == BAD_REQUEST) {
                throw new MisconfiguredException("NATS refuses the consumer " + wanted.group + ": " + e.getMessage(), e);
            }
            throw e;
        }
    }

    private static ConsumerConfiguration found(JetStreamManagement manager, Wanted wanted)
            throws IOException, JetStreamApiException {
        ConsumerConfiguration there;
        try {
            there = manager.getConsumerInfo(wanted.stream, wanted.group).getConsumerConfiguration();
        } catch (JetStreamApiException e) {
            if (e.getApiErrorCode() != CONSUMER_NOT_FOUND) {
                throw e;
            }
            return null;
        }

        String consumer = "consumer " + wanted.group + " of stream " + wanted.stream;
        if (there.getDeliverSubject() != null && !there.getDeliverSubject().isEmpty()) {
            throw new MisconfiguredException(consumer + " is a push consumer; choose another group");
        }
        if (there.getAckPolicy() != AckPolicy.Explicit) {
            throw new MisconfiguredException(consumer + " has the ack policy " + there.getAckPolicy()
                    + ", and a listener needs explicit acks; choose another group");
        }
        return there;
    }
}
