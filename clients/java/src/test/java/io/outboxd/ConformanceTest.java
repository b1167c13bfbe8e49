package io.outboxd;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.nats.client.Connection;
import io.nats.client.JetStreamApiException;
import io.nats.client.Message;
import io.nats.client.api.ConsumerInfo;
import io.nats.client.impl.Headers;
import io.nats.client.impl.NatsMessage;
import io.outboxd.listener.Listener;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentLinkedDeque;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.bson.BsonArray;
import org.bson.BsonBoolean;
import org.bson.BsonDocument;
import org.bson.BsonValue;
import org.bson.Document;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/** The cases that every client passes, against a real MongoDB, relay and NATS. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ConformanceTest {
    private static final String STREAM = "CONFORMANCE_JAVA";

    private World w;

    @BeforeAll
    void start() throws Exception {
        w = new World(STREAM, "case", "case.>", "listened.>");
    }

    @AfterAll
    void stop() throws Exception {
        w.close();
    }

    /** Runs every case of a file, and fails once with all that differ. */
    private static void each(String file, Case run) throws Exception {
        List<String> failures = new ArrayList<>();
        List<BsonDocument> cases = Cases.of(file);
        assertTrue(cases.size() > 5, file);
        for (int i = 0; i < cases.size(); i++) {
            try {
                run.run(cases.get(i), i);
            } catch (Exception | AssertionError e) {
                String text = e.toString();
                failures.add(Cases.text(cases.get(i), "name") + ": " + text.substring(0, Math.min(500, text.length())));
            }
        }
        assertEquals(List.of(), failures, file);
    }

    private interface Case {
        void run(BsonDocument one, int at) throws Exception;
    }

    /** Returns the event of a case, or null if Java's types can't express it. */
    private static Event event(BsonDocument given) {
        Event event = Event.of(given.getString("subject").getValue(), given.get("payload"));
        if (given.containsKey("key")) {
            event = event.withKey(given.isNull("key") ? null : given.get("key"));
        }
        if (given.containsKey("id")) {
            event = event.withId(given.isNull("id") ? null : given.get("id"));
        }
        for (Map.Entry<String, BsonValue> header : given.getDocument("headers", new BsonDocument()).entrySet()) {
            if (!header.getValue().isString() && !header.getValue().isNull()) {
                return null;
            }
            event = event.withHeader(header.getKey(), header.getValue().isNull() ? null : header.getValue().asString().getValue());
        }
        return event;
    }

    @Test
    void events() throws Exception {
        Map<String, BsonDocument> sent = new HashMap<>();
        Outbox outbox = new Outbox(w.db);
        for (String file : List.of("subjects", "keys", "headers", "payloads")) {
            each(file, (one, i) -> {
                BsonDocument given = one.getDocument("event");
                Event event = event(given);
                if (event == null) {
                    assertTrue(one.getBoolean("dynamic").getValue(), "a case that this runner can't read");
                    return;
                }
                String refused = Cases.text(one, "refused");
                if (refused != null) {
                    OutboxException e = assertThrows(OutboxException.class, () -> w.transaction(s -> outbox.enqueue(s, event)));
                    assertTrue(e.getMessage().contains(refused), e.getMessage());
                    return;
                }

                Object[] id = new Object[1];
                BsonDocument stored = w.transaction(session -> {
                    id[0] = outbox.enqueue(session, event);
                    // Read in the transaction: afterwards the relay may have taken it.
                    BsonDocument byId = new BsonDocument("_id", Names.id(id[0]));
                    return w.db.getCollection("outbox", BsonDocument.class).find(session, byId).first();
                });
                assertEquals(comparable(wanted(one, given)), comparable(stored));
                String messageId = Cases.text(one, "messageId");
                sent.put(w.db.getName() + ".outbox." + (messageId == null ? id[0] : messageId), one);
            });
        }
        assertTrue(sent.size() > 80, sent.size() + " cases are to be published");
        published(sent);
    }

    private static BsonDocument wanted(BsonDocument one, BsonDocument given) {
        if (one.containsKey("document")) {
            return one.getDocument("document").clone();
        }
        BsonDocument wanted = new BsonDocument();
        for (String name : List.of("subject", "key", "payload", "headers")) {
            if (given.containsKey(name)) {
                wanted.append(name, given.get(name));
            }
        }
        return wanted.append("isLocked", BsonBoolean.TRUE).append("failures", new BsonArray());
    }

    /** The order of fields counts, but not that of headers; documents of BSON are equal in any order. */
    private static String comparable(BsonDocument document) {
        assertNotNull(document);
        document.remove("_id");
        document.remove("ts");
        if (document.containsKey("headers")) {
            document.put("headers", new BsonDocument(document.getDocument("headers").entrySet().stream()
                    .sorted(Map.Entry.comparingByKey())
                    .map(header -> new org.bson.BsonElement(header.getKey(), header.getValue()))
                    .toList()));
        }
        return document.toJson();
    }

    /** Reads the stream by requests, because jnats refuses headers beyond ASCII in what it receives. */
    private void published(Map<String, BsonDocument> sent) throws Exception {
        Map<String, BsonDocument> waiting = new HashMap<>(sent);
        for (int sequence = 1; !waiting.isEmpty(); sequence++) {
            BsonDocument message = stored(sequence, waiting);
            String headers = new String(decoded(message, "hdrs"), StandardCharsets.UTF_8);
            String id = headers.replaceFirst("(?s).*Nats-Msg-Id: *([^\r]*)\r.*", "$1");
            BsonDocument one = waiting.remove(id);
            if (one == null) {
                continue;
            }
            String encoded = Cases.text(one, "messageBase64");
            byte[] wanted = encoded != null ? Base64.getDecoder().decode(encoded)
                    : one.getString("message").getValue().getBytes(StandardCharsets.UTF_8);
            byte[] got = decoded(message, "data");
            assertArrayEquals(wanted, got, () -> one.get("name") + ": " + new String(got, StandardCharsets.UTF_8));
            Event event = event(one.getDocument("event"));
            assertEquals(event.subject(), Cases.text(message, "subject"));
            event.headers().forEach((name, value) -> assertTrue(
                    value == null || headers.contains("\r\n" + name + ": " + value + "\r\n")
                            || headers.contains("\r\n" + name + ":" + value + "\r\n"),
                    () -> one.get("name") + ": " + headers));
        }
    }

    private static byte[] decoded(BsonDocument message, String name) {
        return Base64.getDecoder().decode(message.containsKey(name) ? Cases.text(message, name) : "");
    }

    private BsonDocument stored(int sequence, Map<String, BsonDocument> waiting) throws Exception {
        BsonDocument[] found = new BsonDocument[1];
        byte[] request = ("{\"seq\":" + sequence + "}").getBytes(StandardCharsets.UTF_8);
        World.until("message " + sequence + " is there; not published: " + waiting.keySet(), () -> {
            Message answer = w.nats.request("$JS.API.STREAM.MSG.GET." + STREAM, request, Duration.ofSeconds(10));
            BsonDocument answered = Json.parse(answer.getData()).asDocument();
            found[0] = answered.getDocument("message", null);
            return found[0] != null;
        });
        return found[0];
    }

    @Test
    void scheduled() throws Exception {
        Outbox outbox = new Outbox(w.db).withCollection("timetable");
        each("scheduled", (one, i) -> {
            Instant at = Instant.ofEpochMilli(one.getDateTime("deliverAt").getValue());
            Event event = Event.of("case.a", Map.of());
            String refused = Cases.text(one, "refused");
            if (refused != null) {
                var e = assertThrows(OutboxException.class, () -> w.transaction(s -> outbox.schedule(s, event, at)));
                assertTrue(e.getMessage().contains(refused), e.getMessage());
                return;
            }
            Object id = w.transaction(session -> outbox.schedule(session, event, at));
            Document stored = w.collection("timetable_scheduled").find(new Document("_id", id)).first();
            assertEquals(List.of("_id", "ts", "subject", "payload", "isLocked", "failures", "deliverAt"),
                    List.copyOf(stored.keySet()));
            assertEquals(at, stored.getDate("deliverAt").toInstant());
            assertEquals(List.of(true, true, false), w.transaction(session -> List.of(
                    outbox.reschedule(session, id, Instant.ofEpochMilli(1)),
                    outbox.cancel(session, id),
                    outbox.cancel(session, id))));
        });
    }

    @Test
    void replicas() throws Exception {
        each("replicas", (one, i) -> {
            Replica replica = new Replica(w.collection("replica" + i));
            for (BsonValue given : one.getArray("messages")) {
                BsonDocument message = given.asDocument();
                BsonDocument record = message.getDocument("record");
                String verdict = "done";
                try {
                    w.transaction(session -> {
                        if (message.containsKey("removed")) {
                            replica.remove(session, record.get("id"), record.getNumber("version").longValue());
                        } else {
                            replica.apply(session, record);
                        }
                        return null;
                    });
                } catch (LaterException e) {
                    verdict = "later";
                }
                assertEquals(Cases.text(message, "verdict"), verdict, message.toJson());
            }

            BsonArray copies = new BsonArray();
            w.db.getCollection("replica" + i, BsonDocument.class).find().sort(new Document("_id", 1)).forEach(copy -> {
                if (copy.remove("removedAt") != null) {
                    copy.append("removed", BsonBoolean.TRUE);
                }
                copies.add(copy);
            });
            assertEquals(one.get("copies").toString(), copies.toString());
        });
    }

    @Test
    void inboxes() throws Exception {
        each("inboxes", (one, i) -> {
            Inbox inbox = new Inbox(w.client, w.db).withCollection("inbox" + i);
            inbox.create();
            for (BsonValue value : one.getArray("messages")) {
                BsonDocument given = value.asDocument();
                boolean[] ran = new boolean[1];
                var message = new io.outboxd.Message(Cases.text(given, "group"), Cases.text(given, "id"), "case.a", Map.of(),
                        new byte[0], STREAM, 1, 1, Instant.EPOCH);
                RuntimeException answer = switch (Cases.text(given, "work")) {
                    case "later" -> new LaterException();
                    case "error" -> new IllegalStateException("no luck");
                    default -> null;
                };
                RuntimeException thrown = null;
                try {
                    inbox.run(message, session -> {
                        ran[0] = true;
                        w.collection("effects" + i).insertOne(session, new Document("id", message.id()));
                        if (answer != null) {
                            throw answer;
                        }
                    });
                } catch (LaterException | IllegalStateException e) {
                    thrown = e;
                }
                assertEquals(given.getBoolean("ran").getValue(), ran[0], given.toJson());
                assertEquals(ran[0] ? answer : null, thrown);
            }
            BsonArray ids = new BsonArray();
            w.db.getCollection("inbox" + i, BsonDocument.class).find().sort(new Document("_id", 1)).forEach(document ->
                    ids.add(new BsonArray(List.of(document.getDocument("_id").get("group"), document.getDocument("_id").get("id")))));
            assertEquals(one.get("ids").toString(), ids.toString());
            assertEquals(one.getNumber("effects").longValue(), w.collection("effects" + i).countDocuments());
        });
    }

    @Test
    void listeners() throws Exception {
        ExecutorService side = Executors.newCachedThreadPool(); // most of it is waiting
        try {
            List<Future<?>> running = new ArrayList<>();
            List<BsonDocument> cases = Cases.of("listeners");
            for (int i = 0; i < cases.size(); i++) {
                int at = i;
                running.add(side.submit(() -> {
                    listened(cases.get(at), at);
                    return null;
                }));
            }
            for (Future<?> one : running) {
                one.get();
            }
        } finally {
            side.shutdownNow();
        }
    }

    private void listened(BsonDocument one, int i) throws Exception {
        String subject = "listened." + i;
        String group = "group" + i;
        String payload = Cases.text(one, "payload");
        w.nats.jetStream().publish(NatsMessage.builder().subject(subject).data(payload)
                .headers(new Headers().add("Nats-Msg-Id", "message-" + i)).build());
        w.db.createCollection("effect" + i);
        var answers = new ConcurrentLinkedDeque<>(one.getArray("answers").stream().map(a -> a.asString().getValue()).toList());

        int rounds = one.getBoolean("again", BsonBoolean.FALSE).getValue() ? 2 : 1;
        for (int round = 0; round < rounds; round++) {
            if (round > 0) { // a consumer that is made again gets everything again
                w.nats.jetStreamManagement().deleteConsumer(STREAM, group);
            }
            Inbox inbox = new Inbox(w.client, w.db).withCollection("listened" + i);
            try (Listener listener = Listener.builder(inbox, STREAM, group)
                    .nats(w.servers.natsUrl())
                    .maxDeliveries(3)
                    .maxLater(3)
                    .onProblem((text, cause) -> {})
                    .on(Subject.of(subject, Document.class), (session, message, document) -> {
                        String answer = answers.isEmpty() ? "called too often" : answers.remove();
                        w.collection("effect" + i).insertOne(session, new Document());
                        switch (answer) {
                            case "done" -> {}
                            case "later" -> throw new LaterException();
                            case "unprocessable" -> throw new UnprocessableException("it is never applied");
                            default -> throw new Exception("no luck");
                        }
                    })
                    .start()) {
                listener.awaitReady(Duration.ofSeconds(60));
                World.until(group + " has acked everything", () -> isIdle(w.nats, group));
            }
        }

        String name = Cases.text(one, "name");
        assertTrue(answers.isEmpty(), name);
        assertEquals(one.getNumber("effects").longValue(), w.collection("effect" + i).countDocuments(), name);
        List<Document> failed = w.all("listened" + i + "_failed");
        String reason = Cases.text(one, "failed");
        assertEquals(reason == null ? 0 : 1, failed.size(), name);
        if (reason != null) {
            assertTrue(failed.get(0).getString("reason").contains(reason), failed.get(0).toJson());
            assertEquals(subject, failed.get(0).getString("subject"));
            assertEquals(payload, new String(failed.get(0).get("payload", org.bson.types.Binary.class).getData(), StandardCharsets.UTF_8));
        }
    }

    private static boolean isIdle(Connection nats, String group) throws Exception {
        try {
            ConsumerInfo info = nats.jetStreamManagement().getConsumerInfo(STREAM, group);
            return info.getNumPending() == 0 && info.getNumAckPending() == 0 && info.getDelivered().getConsumerSequence() > 0;
        } catch (JetStreamApiException e) {
            return false;
        }
    }
}
