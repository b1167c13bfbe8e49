package io.outboxd;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.mongodb.ConnectionString;
import com.mongodb.MongoClientSettings;
import com.mongodb.MongoException;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import io.nats.client.JetStreamApiException;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.nats.client.api.AckPolicy;
import io.nats.client.api.ConsumerConfiguration;
import io.nats.client.api.DeliverPolicy;
import io.nats.client.api.StreamConfiguration;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import io.opentelemetry.api.trace.Span;
import io.outboxd.listener.Handler;
import io.outboxd.listener.Listener;
import io.outboxd.listener.MisconfiguredException;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.IntStream;
import org.bson.Document;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/** The listener under faults: a lost consumer, a broken connection, long work, a stop. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ListenerTest {
    public record Odd(int n) {}

    private static final String STREAM = "WORK_JAVA";
    private static final Duration PATIENCE = Duration.ofSeconds(60);

    private World w;

    @BeforeAll
    void start() throws Exception {
        w = new World(STREAM, "work.>");
    }

    @AfterAll
    void stop() throws Exception {
        w.close();
    }

    private Listener.Builder listener(String group) {
        return Listener.builder(new Inbox(w.client, w.db), STREAM, group).nats(w.servers.natsUrl()).onProblem((text, cause) -> {});
    }

    private void publish(String subject, String payload, String id) throws Exception {
        Headers headers = new Headers().add("Nats-Msg-Id", id);
        w.nats.jetStream().publish(NatsMessage.builder().subject(subject).data(payload).headers(headers).build());
    }

    private void idle(String group) throws Exception {
        World.until(group + " has acked everything", () -> {
            try {
                var info = w.nats.jetStreamManagement().getConsumerInfo(STREAM, group);
                return info.getNumPending() == 0 && info.getNumAckPending() == 0 && info.getDelivered().getConsumerSequence() > 0;
            } catch (JetStreamApiException e) {
                return false;
            }
        });
    }

    private static Handler<Message> into(List<String> heard) {
        return (session, message, same) -> heard.add(new String(message.payload(), StandardCharsets.UTF_8));
    }

    /** Passes connections on to the server. */
    private final class Proxy implements AutoCloseable {
        final ServerSocket accepting = new ServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
        final List<Socket> clients = new CopyOnWriteArrayList<>();
        final AtomicInteger left = new AtomicInteger();
        final URI server = URI.create(w.servers.natsUrl());
        /** How many connections are refused as if their credentials were wrong. */
        final AtomicInteger refusals;

        Proxy(int refusals) throws IOException {
            this.refusals = new AtomicInteger(refusals);
            new Thread(this::accept, "proxy").start();
        }

        String url() {
            return "nats://" + host();
        }

        String host() {
            return "127.0.0.1:" + accepting.getLocalPort();
        }

        private void accept() {
            try {
                for (;;) {
                    Socket client = accepting.accept();
                    if (refusals.getAndDecrement() > 0) {
                        refuse(client);
                        continue;
                    }
                    Socket upstream = new Socket(server.getHost(), server.getPort());
                    clients.add(client);
                    new Thread(() -> copy(upstream, client, () -> {})).start();
                    new Thread(() -> copy(client, upstream, left::incrementAndGet)).start();
                }
            } catch (IOException e) {
                // It was closed.
            }
        }

        private void refuse(Socket client) throws IOException {
            try (client) {
                client.getOutputStream().write(("INFO {\"server_id\":\"s\",\"version\":\"2.15.1\",\"proto\":1,\"headers\":true,"
                        + "\"max_payload\":1048576,\"auth_required\":true}\r\n").getBytes(StandardCharsets.UTF_8));
                if (client.getInputStream().read(new byte[4096]) > 0) {
                    client.getOutputStream().write("-ERR 'Authorization Violation'\r\n".getBytes(StandardCharsets.UTF_8));
                }
            }
        }

        private static void copy(Socket from, Socket to, Runnable end) {
            try (from; to) {
                from.getInputStream().transferTo(to.getOutputStream());
            } catch (IOException e) {
                // One of them ended.
            } finally {
                end.run();
            }
        }

        @Override
        public void close() throws IOException {
            accepting.close();
        }
    }

    @Test
    void makesItsConsumerAgainAndSurvivesACutConnection() throws Exception {
        List<String> heard = new CopyOnWriteArrayList<>();
        try (Proxy proxy = new Proxy(0);
                Listener listener = listener("lost").nats(proxy.url()).ackWait(Duration.ofSeconds(1)).onMessage("work.lost", into(heard)).start()) {
            publish("work.lost", "1", "lost-1");
            World.until("1 is heard", () -> heard.equals(List.of("1")));
            idle("lost");
            w.nats.jetStreamManagement().deleteConsumer(STREAM, "lost");
            publish("work.lost", "2", "lost-2");
            World.until("2 is heard, and 1 is not heard again", () -> heard.equals(List.of("1", "2")));

            for (Socket client : proxy.clients) { // as a network that breaks
                client.close();
            }
            publish("work.lost", "3", "lost-3");
            World.until("3 is heard", () -> heard.equals(List.of("1", "2", "3")));
            idle("lost");
        }
    }

    @Test
    void leavesAServerThatIsAboutToStop() throws Exception {
        List<String> heard = new CopyOnWriteArrayList<>();
        try (Proxy proxy = new Proxy(0);
                Listener listener = listener("lame").nats(proxy.url()).ackWait(Duration.ofSeconds(1)).onMessage("work.lame", into(heard)).start()) {
            publish("work.lame", "1", "lame-1");
            idle("lame");

            // A server says so in an INFO of its own accord; here the proxy says it.
            String info = "INFO {\"server_id\":\"other\",\"version\":\"2.15.1\",\"proto\":1,\"headers\":true,\"jetstream\":true,"
                    + "\"max_payload\":1048576,\"ldm\":true,\"connect_urls\":[\"" + proxy.host() + "\",\"" + proxy.server.getAuthority() + "\"]}\r\n";
            for (Socket client : proxy.clients) {
                client.getOutputStream().write(info.getBytes(StandardCharsets.UTF_8));
            }
            World.until("it has left", () -> proxy.left.get() > 0);
            publish("work.lame", "2", "lame-2");
            World.until("both are heard", () -> heard.equals(List.of("1", "2")));
        }
    }

    @Test
    void connectsAgainAfterRefusedCredentialsAndEndsWhenItsConnectionIsClosed() throws Exception {
        List<String> heard = new CopyOnWriteArrayList<>();
        try (Proxy proxy = new Proxy(4);
                Listener listener = listener("credentials")
                        .nats(new Options.Builder().server(proxy.url()).userInfo("a", "b").reconnectWait(Duration.ofMillis(50)).build())
                        .onMessage("work.credentials", into(heard)).start()) {
            publish("work.credentials", "1", "credentials-1");
            World.until("it is heard", () -> heard.equals(List.of("1")));
        }

        var shared = Nats.connect(w.servers.natsUrl());
        try (Listener listener = listener("credentials").nats(shared).onMessage("work.credentials", into(heard)).start()) {
            listener.awaitReady(PATIENCE);
            shared.close();
            var e = assertThrows(java.util.concurrent.ExecutionException.class, () -> listener.ended().get(30, TimeUnit.SECONDS));
            assertTrue(e.getMessage().contains("the connection to NATS is closed"), e.getMessage());
        }
    }

    @Test
    void keepsAMessageWhileMongodbHasNoPrimary() throws Exception {
        // A driver that gives up soon, so that the listener hears of it.
        var settings = MongoClientSettings.builder().applyConnectionString(new ConnectionString(w.relay.mongodbUri()))
                .applyToClusterSettings(cluster -> cluster.serverSelectionTimeout(300, TimeUnit.MILLISECONDS)).build();
        List<Long> deliveries = new CopyOnWriteArrayList<>();
        w.db.createCollection("outage");
        try (MongoClient impatient = MongoClients.create(settings)) {
            var db = impatient.getDatabase(w.db.getName());
            Handler<Message> handler = (session, message, same) -> {
                if (deliveries.isEmpty()) {
                    try {
                        impatient.getDatabase("admin").runCommand(new Document("replSetStepDown", 5).append("force", true));
                    } catch (MongoException e) {
                        // The connection may end with it.
                    }
                }
                deliveries.add(message.deliveries());
                db.getCollection("outage").insertOne(session, new Document());
            };
            try (Listener listener = Listener.builder(new Inbox(impatient, db), STREAM, "outage").nats(w.servers.natsUrl())
                    .maxDeliveries(1).onProblem((text, cause) -> {}).onMessage("work.outage", handler).start()) {
                listener.awaitReady(PATIENCE);
                publish("work.outage", "1", "outage");
                idle("outage");
            }
        }
        assertTrue(deliveries.size() > 1 && deliveries.stream().allMatch(count -> count == 1), deliveries.toString());
        assertEquals(1, w.collection("outage").countDocuments());
        assertEquals(0, w.collection("inbox_failed").countDocuments(new Document("subject", "work.outage")));
    }

    @Test
    void keepsLongWorkInHand() throws Exception {
        AtomicInteger runs = new AtomicInteger();
        publish("work.long", "1", "long");
        Listener.Builder builder = listener("long").ackWait(Duration.ofSeconds(1)).onMessage("work.long", (session, message, same) -> {
            runs.incrementAndGet();
            Thread.sleep(2500);
        });
        try (Listener one = builder.start(); Listener other = builder.start()) {
            idle("long");
        }
        assertEquals(1, runs.get());
    }

    @Test
    void endsItsWorkBeforeItStopsOrDropsIt() throws Exception {
        CountDownLatch begun = new CountDownLatch(1);
        CountDownLatch ended = new CountDownLatch(1);
        publish("work.stop", "1", "stop");
        try (Listener listener = listener("stop").onMessage("work.stop", (session, message, same) -> {
            begun.countDown();
            Thread.sleep(500);
            ended.countDown();
        }).start()) {
            begun.await();
        }
        assertEquals(0, ended.getCount());
        assertEquals(0, w.nats.jetStreamManagement().getConsumerInfo(STREAM, "stop").getNumAckPending());

        CountDownLatch stuck = new CountDownLatch(1);
        publish("work.drain", "1", "drain");
        try (Listener listener = listener("drain").drain(Duration.ofMillis(200)).onMessage("work.drain", (session, message, same) -> {
            stuck.countDown();
            Thread.sleep(600_000);
        }).start()) {
            stuck.await();
        }
        assertEquals(0, w.collection("inbox").countDocuments(new Document("_id.group", "drain")));
        List<String> heard = new CopyOnWriteArrayList<>();
        try (Listener listener = listener("drain").onMessage("work.drain", into(heard)).start()) {
            World.until("another instance hears it", () -> heard.equals(List.of("1")));
        }
    }

    @Test
    void keepsTheOrderBehindAMessageThatFails() throws Exception {
        List<String> wanted = IntStream.range(0, 20).mapToObj(Integer::toString).toList();
        for (String n : wanted) {
            publish("work.order", n, "order-" + n);
        }
        List<String> heard = new CopyOnWriteArrayList<>();
        AtomicInteger failures = new AtomicInteger(2);
        Listener.Builder builder = listener("order").onMessage("work.order", (session, message, same) -> {
            String n = new String(message.payload(), StandardCharsets.UTF_8);
            if (n.equals("5") && failures.getAndDecrement() > 0) {
                throw new Exception("no luck");
            }
            heard.add(n);
        });
        try (Listener one = builder.start(); Listener two = builder.start(); Listener three = builder.start()) {
            World.until("all are heard", () -> heard.size() >= 20);
        }
        assertEquals(wanted, heard);
    }

    @Test
    void continuesTheTraceAndGivesHeadersAndTheId() throws Exception {
        String parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        Headers headers = new Headers().add("Nats-Msg-Id", "traced").add("traceparent", parent);
        w.nats.jetStream().publish(NatsMessage.builder().subject("work.trace").data("1").headers(headers).build());
        CompletableFuture<List<String>> got = new CompletableFuture<>();
        try (Listener listener = listener("trace").onMessage("work.trace", (session, message, same) ->
                got.complete(List.of(message.id(), message.header("Traceparent"), Span.current().getSpanContext().getTraceId()))).start()) {
            assertEquals(List.of("traced", parent, "4bf92f3577b34da6a3ce929d0e0e4736"), got.get(60, TimeUnit.SECONDS));
        }
    }

    @Test
    void isRefusedWhatCannotWork() throws Exception {
        Handler<Message> nothing = (session, message, same) -> {};
        var manager = w.nats.jetStreamManagement();
        manager.addStream(StreamConfiguration.builder().name("LONG_JAVA").subjects("long").duplicateWindow(Duration.ofHours(2))
                .consumerLimits(io.nats.client.api.ConsumerLimits.builder().maxAckPending(2).build()).build());
        manager.createConsumer(STREAM, ConsumerConfiguration.builder().durable("push").deliverSubject("somewhere").build());
        manager.createConsumer(STREAM, ConsumerConfiguration.builder().durable("none").ackPolicy(AckPolicy.None).build());

        Inbox inbox = new Inbox(w.client, w.db);
        assertThrows(IllegalArgumentException.class, () -> Listener.builder(inbox, "a b", "x"));
        assertThrows(IllegalArgumentException.class, () -> Listener.builder(inbox, STREAM, "a.b"));
        assertThrows(IllegalArgumentException.class, () -> listener("x").onMessage("work..far", nothing));
        assertThrows(IllegalArgumentException.class, () -> listener("x").ackWait(Duration.ZERO));
        assertThrows(IllegalStateException.class, () -> listener("x").start());
        assertThrows(IllegalStateException.class, () -> Listener.builder(inbox, STREAM, "x").onMessage("a", nothing).start());

        Inbox hour = inbox.withCollection("short").withTtl(Duration.ofHours(1));
        ends("raise Inbox.withTtl", Listener.builder(hour, "LONG_JAVA", "x").onMessage("long", nothing));
        ends("is a push consumer", listener("push").onMessage("work.x", nothing));
        ends("needs explicit acks", listener("none").onMessage("work.x", nothing));
        ends("NATS refuses the consumer", Listener.builder(inbox, "LONG_JAVA", "x").onMessage("long", nothing).maxAckPending(5));
    }

    private void ends(String words, Listener.Builder builder) throws Exception {
        try (Listener listener = builder.nats(w.servers.natsUrl()).onProblem((text, cause) -> {}).start()) {
            var e = assertThrows(MisconfiguredException.class, () -> listener.awaitReady(PATIENCE));
            assertTrue(e.getMessage().contains(words), e.getMessage());
        }
    }

    @Test
    void writesItsConsumerOnlyIfASettingDiffers() throws Exception {
        var manager = w.nats.jetStreamManagement();
        manager.createConsumer(STREAM, ConsumerConfiguration.builder().durable("kept").description("ours").ackPolicy(AckPolicy.Explicit)
                .deliverPolicy(DeliverPolicy.New).maxAckPending(7).backoff(Duration.ofSeconds(1)).maxDeliver(5).build());
        AtomicInteger writes = new AtomicInteger();
        var watch = w.nats.createDispatcher(message -> {
            if (message.getSubject().contains(".CREATE.")) {
                writes.incrementAndGet();
            }
        });
        watch.subscribe("$JS.API.CONSUMER.>");
        Handler<Message> nothing = (session, message, same) -> {};
        List<ConsumerConfiguration> seen = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            try (Listener listener = listener("kept").onMessage("work.kept", nothing).onMessage("work.more", nothing).start()) {
                listener.awaitReady(PATIENCE);
            }
            seen.add(manager.getConsumerInfo(STREAM, "kept").getConsumerConfiguration());
            w.nats.flush(Duration.ofSeconds(5));
        }
        ConsumerConfiguration first = seen.get(0);
        assertEquals("ours", first.getDescription());
        assertEquals(DeliverPolicy.New, first.getDeliverPolicy());
        assertEquals(1, first.getMaxAckPending());
        assertEquals(-1, first.getMaxDeliver());
        assertEquals(Duration.ofSeconds(30), first.getAckWait());
        assertTrue(first.getBackoff().isEmpty());
        assertEquals(List.of("work.kept", "work.more"), first.getFilterSubjects());
        assertEquals(first.toJson(), seen.get(1).toJson());
        assertEquals(1, writes.get());
        w.nats.closeDispatcher(watch);
    }

    @Test
    void takesSubjectsWithWildcardsAndPutsUnreadablePayloadsAside() throws Exception {
        List<String> first = new CopyOnWriteArrayList<>();
        List<String> rest = new CopyOnWriteArrayList<>();
        publish("work.wild.1", "a", "wild-1");
        publish("work.wild.1.2", "b", "wild-2");
        publish("work.odd", "no JSON", "odd");
        try (Listener listener = listener("wild").onMessage("work.wild.*", into(first)).onMessage("work.wild.>", into(rest))
                .on(Subject.of("work.odd", Odd.class), (session, message, odd) -> {}).start()) {
            idle("wild");
        }
        assertEquals(List.of("a"), first);
        assertEquals(List.of("b"), rest);
        Document failed = w.collection("inbox_failed").find(new Document("_id.id", "odd")).first();
        assertTrue(failed.getString("reason").startsWith("the payload can't be read: it is no JSON"), failed.toJson());
        assertEquals("odd", failed.get("headers", Document.class).getString("Nats-Msg-Id"));
    }
}
