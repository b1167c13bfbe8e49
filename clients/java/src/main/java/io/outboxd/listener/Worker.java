package io.outboxd.listener;

import io.nats.client.impl.NatsJetStreamMetaData;
import io.outboxd.Inbox;
import io.outboxd.LaterException;
import io.outboxd.Message;
import io.outboxd.UnprocessableException;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.ScheduledFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;

/** Applies messages one after another, and answers the server. */
final class Worker implements AutoCloseable {
    private static final long FIRST_WAIT = 250;
    private static final long LONGEST_WAIT = 10_000;
    /** Bounds the counts of messages that were later. */
    private static final int MOST_LATERS = 10_000;

    private final Inbox inbox;
    private final String group;
    private final List<Subscription> subscriptions;
    private final int maxDeliveries;
    private final int maxLater;
    private final long beat;
    private final BiConsumer<String, Throwable> onProblem;
    private final Stop stop;
    /** How often a message was later, by its sequence. Those deliveries are no failures. */
    private final Map<Long, Integer> laters = new HashMap<>();

    private final ScheduledExecutorService heart = Executors.newSingleThreadScheduledExecutor(work -> {
        Thread thread = new Thread(work, "outboxd-heartbeat");
        thread.setDaemon(true);
        return thread;
    });

    Worker(Inbox inbox, String group, List<Subscription> subscriptions, int maxDeliveries, int maxLater, Duration ackWait,
            BiConsumer<String, Throwable> onProblem, Stop stop) {
        this.inbox = inbox;
        this.group = group;
        this.subscriptions = subscriptions;
        this.maxDeliveries = maxDeliveries;
        this.maxLater = maxLater;
        this.beat = Math.max(100, ackWait.toMillis() / 3);
        this.onProblem = onProblem;
        this.stop = stop;
    }

    @Override
    public void close() {
        heart.shutdownNow();
    }

    /** Applies a message. While it is in work, the server hears that it is alive. */
    void handle(io.nats.client.Message message) throws InterruptedException {
        if (stop.isStopped()) {
            message.nak();
            return;
        }
        ScheduledFuture<?> beating = heart.scheduleAtFixedRate(message::inProgress, beat, beat, TimeUnit.MILLISECONDS);
        try {
            settle(message, read(message));
        } finally {
            beating.cancel(false);
        }
    }

    private void settle(io.nats.client.Message message, Message m) throws InterruptedException {
        int late = laters.getOrDefault(m.sequence(), 0);
        if (m.deliveries() > (long) maxDeliveries + maxLater) {
            putAside(message, m, "it was delivered again and again, and never answered", null);
            return;
        }

        for (int tries = 0; ; tries++) {
            try {
                apply(m);
                laters.remove(m.sequence());
                message.ack();
                return;
            } catch (RuntimeException e) {
                if (stop.isOverdue) {
                    onProblem.accept(m.subject() + " did not end in time; it comes again", e);
                    Thread.interrupted();
                    message.nak();
                    return;
                }
                if (!Outages.isOutage(e)) {
                    failed(message, m, late, e);
                    return;
                }
                // No fault of the message: it stays in hand, and no delivery is used up.
                onProblem.accept("MongoDB is not reached; " + m.subject() + " waits", e);
                stop.pause(wait(tries));
                if (stop.isStopped()) {
                    message.nak();
                    return;
                }
            }
        }
    }

    private void failed(io.nats.client.Message message, Message m, int late, RuntimeException e)
            throws InterruptedException {
        Throwable reason = e instanceof HandlerFailure ? e.getCause() : e;
        long failures = m.deliveries() - late;
        if (reason instanceof LaterException) {
            if (late + 1 >= maxLater) {
                putAside(message, m, reason.getMessage(), null);
                return;
            }
            if (laters.size() >= MOST_LATERS) {
                laters.clear();
            }
            laters.put(m.sequence(), late + 1);
            message.nakWithDelay(wait(late));
        } else if (reason instanceof UnprocessableException || failures >= maxDeliveries) {
            putAside(message, m, reason.getMessage() == null ? reason.toString() : reason.getMessage(), reason);
        } else {
            onProblem.accept(m.subject() + " was not applied; trying again", reason);
            message.nakWithDelay(wait((int) failures + 1));
        }
    }

    /** Runs the handler in a transaction, in a span of the trace that the message carries. */
    private void apply(Message m) {
        for (Subscription one : subscriptions) {
            if (one.matches(m.subject())) {
                Tracing.run(m, () -> inbox.run(m, session -> {
                    try {
                        one.handler().handle(session, m, m);
                    } catch (Exception e) {
                        if (stop.isOverdue) {
                            Thread.interrupted(); // or the driver could not abort the transaction
                        }
                        throw e instanceof RuntimeException known ? known : new HandlerFailure(e);
                    }
                }));
                return;
            }
        }
    }

    /** Writes a message to {@code <inbox>_failed} and acks it. Until that is written, the message stays in hand. */
    private void putAside(io.nats.client.Message message, Message m, String reason, Throwable cause)
            throws InterruptedException {
        for (int tries = 0; ; tries++) {
            try {
                inbox.putAside(m, reason);
                break;
            } catch (RuntimeException e) {
                onProblem.accept(m.subject() + " is not put aside; trying again", e);
                stop.pause(wait(tries));
                if (stop.isStopped()) {
                    message.nak();
                    return;
                }
            }
        }
        laters.remove(m.sequence());
        onProblem.accept(m.subject() + " was put aside: " + reason, cause);
        message.ack();
    }

    private Message read(io.nats.client.Message message) {
        NatsJetStreamMetaData place = message.metaData();
        Map<String, List<String>> headers = message.hasHeaders() ? message.getHeaders().toMap() : Map.of();
        List<String> ids = headers.getOrDefault("Nats-Msg-Id", List.of());
        byte[] payload = message.getData() == null ? new byte[0] : message.getData();
        return new Message(group, ids.isEmpty() ? "" : ids.get(0), message.getSubject(), headers, payload,
                place.getStream(), place.streamSequence(), place.deliveredCount(), place.timestamp().toInstant());
    }

    static Duration wait(int tries) {
        return Duration.ofMillis(Math.min(LONGEST_WAIT, FIRST_WAIT << Math.min(tries, 10)));
    }

    /** Carries a checked exception of a handler through the driver. */
    private static final class HandlerFailure extends RuntimeException {
        private static final long serialVersionUID = 1;

        HandlerFailure(Exception cause) {
            super(cause);
        }
    }
}
