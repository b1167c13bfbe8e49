package io.outboxd.listener;

import io.nats.client.Connection;
import io.nats.client.ConnectionListener;
import io.nats.client.ConsumerContext;
import io.nats.client.JetStreamApiException;
import io.nats.client.JetStreamStatusCheckedException;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.outboxd.Inbox;
import io.outboxd.Message;
import io.outboxd.Subject;
import io.outboxd.UnprocessableException;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;
import java.util.function.BiFunction;

/**
 * Applies the messages of a stream until it is closed; it reconnects for ever.
 *
 * <p>A listener is a durable pull consumer named by its group; all instances of a service share it. A message is acked
 * after the transaction of its handler has committed, with its id in the inbox. What a handler does decides what follows:
 *
 * <ul>
 *   <li>it returns: the message is acked
 *   <li>{@link io.outboxd.LaterException}: delivered again after a delay that grows; after 100 times put aside
 *   <li>{@link UnprocessableException}: put aside at once
 *   <li>another exception: delivered again after a delay that grows; after 10 times put aside
 *   <li>MongoDB can't be reached: the message is kept in hand, and tried again
 * </ul>
 *
 * <p>Put aside means written to {@code <inbox>_failed} with its reason, then acked.
 */
public final class Listener implements AutoCloseable {
    /** How long one request for messages stands; a stop waits no longer for it. */
    private static final Duration PULL = Duration.ofSeconds(1);
    /** The pause before a stream, a consumer or a connection that is missing is looked for again. */
    private static final Duration AGAIN = Duration.ofSeconds(1);

    private static final System.Logger LOG = System.getLogger(Listener.class.getName());

    private final Builder settings;
    private final Consumers.Wanted wanted;
    private final Worker worker;
    private final Stop stop = new Stop();
    private final CompletableFuture<Void> ready = new CompletableFuture<>();
    private final CompletableFuture<Void> ended = new CompletableFuture<>();
    private final Thread thread;
    private volatile boolean isLame;

    private Listener(Builder settings) {
        this.settings = settings;
        List<Subscription> all = List.copyOf(settings.subscriptions);
        wanted = new Consumers.Wanted(settings.stream, settings.group, Subscription.subjects(all), settings.ackWait,
                settings.maxAckPending);
        worker = new Worker(settings.inbox, settings.group, all, settings.maxDeliveries, settings.maxLater,
                settings.ackWait, settings.onProblem, stop);
        thread = new Thread(this::run, "outboxd-" + settings.group);
        thread.start();
    }

    /**
     * Begins a listener.
     *
     * @param inbox where the ids of handled messages are
     * @param stream the stream; the relay's NATS_CLUSTER_ID
     * @param group the name of the durable consumer, which all instances of a service share; it is made if it is missing
     * @return the settings
     */
    public static Builder builder(Inbox inbox, String stream, String group) {
        return new Builder(inbox, stream, group);
    }

    /**
     * Waits until the consumer is there.
     *
     * @param patience how long
     * @return this
     * @throws MisconfiguredException if it can't be, whatever is tried
     * @throws TimeoutException if it is not there by then
     * @throws InterruptedException if the thread was interrupted
     */
    public Listener awaitReady(Duration patience) throws TimeoutException, InterruptedException {
        try {
            ready.get(patience.toMillis(), TimeUnit.MILLISECONDS);
        } catch (ExecutionException e) {
            throw new MisconfiguredException(e.getCause().getMessage(), e.getCause());
        }
        return this;
    }

    /**
     * Returns what becomes of the listener.
     *
     * @return completes when the listener was closed; fails with a {@link MisconfiguredException} if it ended on its own
     */
    public CompletableFuture<Void> ended() {
        return ended.copy();
    }

    /** Lets the message in work end, acks it, and disconnects. Work that takes longer than {@code drain} is rolled back. */
    @Override
    public void close() {
        stop.stop();
        try {
            thread.join(settings.drain.toMillis());
            if (thread.isAlive()) {
                stop.isOverdue = true;
                thread.interrupt();
                thread.join();
            }
        } catch (InterruptedException e) {
            stop.isOverdue = true;
            thread.interrupt();
            Thread.currentThread().interrupt();
        }
    }

    private void run() {
        Connection nats = settings.connection;
        try {
            while (!stop.isStopped()) {
                try {
                    if (settings.connection == null && (nats == null || nats.getStatus() == Connection.Status.CLOSED)) {
                        nats = connect();
                    }
                    ConsumerContext consumer = setUp(nats);
                    ready.complete(null);
                    consume(nats, consumer);
                } catch (IOException | JetStreamApiException | JetStreamStatusCheckedException | RuntimeException e) {
                    if (e instanceof MisconfiguredException) {
                        throw (MisconfiguredException) e;
                    }
                    boolean isClosed = settings.connection != null && nats.getStatus() == Connection.Status.CLOSED;
                    if (isClosed && !stop.isStopped()) {
                        throw new MisconfiguredException("the connection to NATS is closed", e);
                    }
                    if (!stop.isStopped()) {
                        settings.onProblem.accept("not listening; trying again", e);
                        stop.pause(AGAIN);
                    }
                }
            }
            ended.complete(null);
        } catch (MisconfiguredException e) {
            settings.onProblem.accept("the listener has ended", e);
            ready.completeExceptionally(e);
            ended.completeExceptionally(e);
        } catch (InterruptedException e) {
            ended.complete(null); // close does that to work that is overdue
        } finally {
            worker.close();
            if (settings.connection == null && nats != null) {
                disconnect(nats);
            }
        }
    }

    private Connection connect() throws IOException, InterruptedException {
        ConnectionListener given = settings.nats.getConnectionListener();
        return Nats.connect(new Options.Builder(settings.nats)
                .maxReconnects(-1)
                .connectionListener((connection, event) -> {
                    if (event == ConnectionListener.Events.LAME_DUCK) {
                        // Without another server there is nowhere to go; then this one is left when it ends.
                        isLame = connection.getServers().size() > 1;
                    }
                    if (given != null) {
                        given.connectionEvent(connection, event, System.currentTimeMillis(), connection.getConnectedUrl());
                    }
                })
                .build());
    }

    /** Sends the acks that are under way first. */
    private void disconnect(Connection nats) {
        Thread.interrupted(); // by close, if the work was overdue
        try {
            nats.flush(Duration.ofSeconds(1));
        } catch (TimeoutException | InterruptedException | RuntimeException e) {
            settings.onProblem.accept("the last acks may not have reached NATS; those messages come again", e);
        }
        try {
            nats.close();
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    /** Finds or makes the inbox and the durable consumer. */
    private ConsumerContext setUp(Connection nats) throws IOException, JetStreamApiException {
        Duration window = nats.jetStreamManagement().getStreamInfo(settings.stream).getConfiguration().getDuplicateWindow();
        Duration ttl = settings.inbox.ttl();
        if (window != null && ttl.compareTo(window) <= 0) {
            throw new MisconfiguredException("the inbox forgets ids after " + ttl.toSeconds() + " s, and the stream "
                    + settings.stream + " drops duplicates for " + window.toSeconds() + " s; raise Inbox.withTtl");
        }
        settings.inbox.create();
        return Consumers.settle(nats, wanted);
    }

    private void consume(Connection nats, ConsumerContext consumer)
            throws IOException, JetStreamApiException, JetStreamStatusCheckedException, InterruptedException {
        while (!stop.isStopped()) {
            if (isLame) {
                isLame = false;
                nats.forceReconnect();
            }
            if (nats.getStatus() == Connection.Status.CLOSED) {
                throw new IOException("the connection to NATS is closed");
            }

            var message = consumer.next(PULL);
            if (message != null) {
                worker.handle(message);
            } else if (!stop.isStopped()) {
                consumer.getConsumerInfo(); // fails if the consumer was deleted; then it is made again
            }
        }
    }

    /** The settings of a listener. */
    public static final class Builder {
        private final Inbox inbox;
        private final String stream;
        private final String group;
        private final List<Subscription> subscriptions = new ArrayList<>();
        private Connection connection;
        private Options nats;
        private BiFunction<byte[], Class<?>, Object> decode;
        private int maxAckPending = 1;
        private Duration ackWait = Duration.ofSeconds(30);
        private int maxDeliveries = 10;
        private int maxLater = 100;
        private Duration drain = Duration.ofSeconds(10);
        private BiConsumer<String, Throwable> onProblem = (text, cause) -> LOG.log(System.Logger.Level.WARNING, text, cause);

        private Builder(Inbox inbox, String stream, String group) {
            this.inbox = Objects.requireNonNull(inbox, "inbox");
            this.stream = named(stream);
            this.group = named(group);
        }

        private static String named(String name) {
            boolean isName = name != null && !name.isEmpty() && name.chars().noneMatch(c -> c <= ' ' || ".*>/\\".indexOf(c) >= 0);
            if (!isName) {
                throw new IllegalArgumentException("\"" + name + "\" names no stream or group: a name has no spaces, dots, "
                        + "wildcards or slashes");
            }
            return name;
        }

        /**
         * Sets where NATS is.
         *
         * @param url one address, or several with commas between them
         * @return this
         */
        public Builder nats(String url) {
            return nats(new Options.Builder().server(url).connectionName(group).build());
        }

        /**
         * Sets where NATS is, with options such as credentials.
         *
         * @param options the options of the connection
         * @return this
         */
        public Builder nats(Options options) {
            nats = Objects.requireNonNull(options, "options");
            return this;
        }

        /**
         * Shares a connection, which stays open. Make it with {@code maxReconnects(-1)}.
         *
         * @param shared the connection
         * @return this
         */
        public Builder nats(Connection shared) {
            connection = Objects.requireNonNull(shared, "shared");
            return this;
        }

        /**
         * Handles the messages of a subject, whose payloads are JSON of its type. A payload that isn't is put aside. Only
         * the subjects of handlers are delivered; the first handler whose subject matches is taken.
         *
         * @param subject the subject, which may have wildcards
         * @param handler what to do
         * @param <T> the type of the payloads
         * @return this
         */
        public <T> Builder on(Subject<T> subject, Handler<? super T> handler) {
            return add(Subscription.of(subject, handler, this::decoded));
        }

        /**
         * Handles the messages of a subject, whatever their payloads are.
         *
         * @param subject the subject, which may have wildcards
         * @param handler what to do; its payload is the message
         * @return this
         */
        public Builder onMessage(String subject, Handler<Message> handler) {
            return add(new Subscription(subject, handler));
        }

        private Builder add(Subscription subscription) {
            if (!Subscription.isPattern(subscription.subject())) {
                throw new IllegalArgumentException("\"" + subscription.subject() + "\" is no subject");
            }
            subscriptions.add(subscription);
            return this;
        }

        private <T> T decoded(Message message, Class<T> type) {
            if (decode == null) {
                return message.json(type, inbox.database().getCodecRegistry());
            }
            try {
                return type.cast(decode.apply(message.payload(), type));
            } catch (RuntimeException e) {
                throw new UnprocessableException("the payload can't be read: " + e.getMessage(), e);
            }
        }

        /**
         * Reads payloads with a library of the service instead of the codecs of the inbox's database.
         *
         * @param decode makes an object of a class from bytes; what it throws has the message put aside
         * @return this
         */
        public Builder decoder(BiFunction<byte[], Class<?>, Object> decode) {
            this.decode = Objects.requireNonNull(decode, "decode");
            return this;
        }

        /**
         * Sets how many messages may be out without an ack, of all instances together; 1. With 1 a message is delivered
         * once the one before it is acked, so that messages are applied in the order of the stream. Raise it only if the
         * handlers bear another order, as {@link io.outboxd.Replica} does by versions.
         *
         * @param messages how many
         * @return this
         */
        public Builder maxAckPending(int messages) {
            maxAckPending = positive(messages, "maxAckPending");
            return this;
        }

        /**
         * Sets when the server gives the message of a dead instance to another one; 30 s.
         *
         * @param time how long after the last sign of life
         * @return this
         */
        public Builder ackWait(Duration time) {
            positive(time.toMillis() > 0 ? 1 : 0, "ackWait");
            ackWait = time;
            return this;
        }

        /**
         * Sets how many deliveries may fail before a message is put aside; 10.
         *
         * @param deliveries how many
         * @return this
         */
        public Builder maxDeliveries(int deliveries) {
            maxDeliveries = positive(deliveries, "maxDeliveries");
            return this;
        }

        /**
         * Sets how many times a message may be later before it is put aside; 100, which is about 15 minutes.
         *
         * @param times how many
         * @return this
         */
        public Builder maxLater(int times) {
            maxLater = positive(times, "maxLater");
            return this;
        }

        /**
         * Sets how long a stop waits for the message in work; 10 s.
         *
         * @param time how long
         * @return this
         */
        public Builder drain(Duration time) {
            positive(time.toMillis() > 0 ? 1 : 0, "drain");
            drain = time;
            return this;
        }

        /**
         * Sets what hears of trouble that is tried again, and of messages that were put aside; the logger of this class.
         *
         * @param report takes a sentence, and the exception or null
         * @return this
         */
        public Builder onProblem(BiConsumer<String, Throwable> report) {
            onProblem = Objects.requireNonNull(report, "report");
            return this;
        }

        private static int positive(int number, String name) {
            if (number <= 0) {
                throw new IllegalArgumentException(name + " is not above 0");
            }
            return number;
        }

        /**
         * Starts the listener, in a thread of its own.
         *
         * @return the listener; close it
         */
        public Listener start() {
            if (subscriptions.isEmpty()) {
                throw new IllegalStateException("a listener needs a handler");
            }
            if (nats == null && connection == null) {
                throw new IllegalStateException("a listener needs the address of NATS");
            }
            return new Listener(this);
        }
    }
}
