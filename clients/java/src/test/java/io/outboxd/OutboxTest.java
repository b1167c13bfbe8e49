package io.outboxd;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.mongodb.MongoWriteException;
import com.mongodb.client.ClientSession;
import com.mongodb.client.model.CreateCollectionOptions;
import com.mongodb.client.model.ValidationOptions;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanContext;
import io.opentelemetry.api.trace.TraceFlags;
import io.opentelemetry.api.trace.TraceState;
import io.opentelemetry.context.Scope;
import io.outboxd.OutboxException.Code;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.time.Instant;
import java.time.LocalDate;
import java.time.OffsetDateTime;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import org.bson.Document;
import org.bson.codecs.pojo.annotations.BsonId;
import org.bson.codecs.pojo.annotations.BsonProperty;
import org.bson.types.ObjectId;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestInstance;

/** What the conformance cases can't state: transactions, traces, Java's own types, the driver's errors. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class OutboxTest {
    record Ticket(String id, int version) {}

    public record Priced(UUID id, Instant at, BigDecimal price, long count, double rate) {}

    enum Colour {
        RED
    }

    record Line(@BsonProperty("sku") String article, BigDecimal price) {}

    record Order(
            @BsonId ObjectId id, UUID customer, Instant at, LocalDate day, List<Line> lines, Colour colour, float weight,
            Optional<String> note, long[] counts, String nothing) {}

    private static final Subject<Ticket> CREATED = Subject.of("ticket.created", Ticket.class);

    private World w;
    private Outbox outbox;

    @BeforeAll
    void start() throws Exception {
        w = new World("TICKETS_JAVA", "ticket.>");
        w.relay.kill(); // what is written stays
        outbox = new Outbox(w.db);
    }

    @AfterAll
    void stop() throws Exception {
        w.close();
    }

    private OutboxException refused(Code code, String words, Runnable call) {
        OutboxException e = assertThrows(OutboxException.class, call::run);
        assertEquals(code, e.code());
        assertTrue(e.getMessage().contains(words), e.getMessage());
        return e;
    }

    private Document stored(Object payload) {
        Object id = w.transaction(session -> outbox.enqueue(session, Event.of("ticket.stored", payload)));
        return w.collection("outbox").find(new Document("_id", id)).first();
    }

    private static void atOnce(int count, Callable<?> work) throws Exception {
        ExecutorService side = Executors.newFixedThreadPool(count);
        try {
            for (var one : side.invokeAll(java.util.Collections.nCopies(count, work))) {
                one.get();
            }
        } finally {
            side.shutdownNow();
        }
    }

    @Test
    void everyCallNeedsATransaction() {
        Event event = CREATED.event("t1", new Ticket("t1", 0));
        var message = new Message("g", "x", "ticket.a", Map.of(), new byte[0], "S", 1, 1, Instant.EPOCH);
        try (ClientSession ended = w.client.startSession()) {
            ended.startTransaction();
            w.collection("tickets").insertOne(ended, new Document());
            ended.commitTransaction();
            for (ClientSession session : new ClientSession[] {null, ended}) {
                List<Runnable> calls = List.of(
                        () -> outbox.enqueue(session, event),
                        () -> outbox.enqueueMany(session, List.of(event)),
                        () -> outbox.enqueueMany(session, List.of()),
                        () -> outbox.schedule(session, event, Instant.now()),
                        () -> outbox.cancel(session, "x"),
                        () -> outbox.reschedule(session, "x", Instant.now()),
                        () -> new Inbox(w.client, w.db).once(session, message, () -> {}));
                calls.forEach(call -> refused(Code.TRANSACTION, "outside a transaction", call));
            }
        }
        assertEquals(0, w.collection("outbox").countDocuments(new Document("key", "t1")));
    }

    @Test
    void theRecordAndTheEventAreThereOrNeither() {
        for (boolean fails : new boolean[] {true, false}) {
            Runnable work = () -> w.transaction(session -> {
                w.collection("tickets").insertOne(session, new Document("_id", "t2"));
                outbox.enqueue(session, CREATED.event("t2", new Ticket("t2", 0)));
                if (fails) {
                    throw new IllegalStateException("no luck");
                }
                return null;
            });
            if (fails) {
                assertThrows(IllegalStateException.class, work::run);
            } else {
                work.run();
            }
            assertEquals(fails ? 0 : 1, w.collection("outbox").countDocuments(new Document("key", "t2")));
            assertEquals(fails ? 0 : 1, w.collection("tickets").countDocuments(new Document("_id", "t2")));
        }
    }

    @Test
    void manyEventsAreWrittenInOrderOrNone() {
        List<Event> events = List.of(0, 1, 2).stream().map(n -> CREATED.event("m", new Ticket("m", n))).toList();
        List<Object> ids = w.transaction(session -> outbox.enqueueMany(session, events));
        List<Object> found = new ArrayList<>();
        w.collection("outbox").find(new Document("key", "m")).sort(new Document("ts", 1)).forEach(one -> found.add(one.get("_id")));
        assertEquals(ids, found);

        List<Event> bad = List.of(CREATED.event("n", new Ticket("n", 0)), CREATED.event("", new Ticket("n", 1)));
        refused(Code.KEY, "event 1: invalid key: it is empty", () -> w.transaction(s -> outbox.enqueueMany(s, bad)));
        assertEquals(0, w.collection("outbox").countDocuments(new Document("key", "n")));
    }

    @Test
    void aConflictIsRetried() throws Exception {
        w.collection("tickets").insertOne(new Document("_id", "c").append("n", 0));
        atOnce(8, () -> w.transaction(session -> {
            w.collection("tickets").updateOne(session, new Document("_id", "c"), new Document("$inc", new Document("n", 1)));
            return outbox.enqueue(session, CREATED.event("c", new Ticket("c", 0)));
        }));
        assertEquals(8, w.collection("outbox").countDocuments(new Document("key", "c")));
    }

    @Test
    void javasOwnTypesAreWrittenAsAJsonEncoderWould() {
        UUID customer = UUID.fromString("00112233-4455-6677-8899-aabbccddeeff");
        ObjectId id = new ObjectId();
        Instant at = Instant.ofEpochMilli(1_700_000_000_123L);
        var order = new Order(id, customer, at, LocalDate.of(2026, 1, 2), List.of(new Line("a", new BigDecimal("0.10"))),
                Colour.RED, 0.1f, Optional.of("x"), new long[] {1}, null);
        Document payload = stored(order).get("payload", Document.class);
        assertEquals(List.of("_id", "customer", "at", "day", "lines", "colour", "weight", "note", "counts", "nothing"),
                List.copyOf(payload.keySet()));
        assertEquals(id, payload.get("_id"));
        assertEquals(4, payload.get("customer", org.bson.types.Binary.class).getType());
        assertEquals(Date.from(at), payload.get("at"));
        assertEquals("2026-01-02", payload.get("day"));
        assertEquals(0.1, payload.get("weight"));
        assertEquals("RED", payload.get("colour"));
        assertEquals("x", payload.get("note"));
        assertEquals(List.of(1L), payload.get("counts"));
        assertTrue(payload.containsKey("nothing"));
        assertEquals("0.10", payload.getList("lines", Document.class).get(0).get("price").toString());
        assertTrue(payload.getList("lines", Document.class).get(0).containsKey("sku"));

        Map<String, Object> map = new LinkedHashMap<>();
        map.put("when", OffsetDateTime.parse("2026-01-02T03:04:05+01:00"));
        map.put("big", new BigInteger("9007199254740993"));
        map.put("letter", 'x');
        payload = stored(map).get("payload", Document.class);
        assertEquals("2026-01-02T03:04:05+01:00", payload.get("when"));
        assertEquals(9007199254740993L, payload.get("big"));
        assertEquals("x", payload.get("letter"));
        assertEquals("text", stored("text").get("payload"));
        assertInstanceOf(org.bson.types.Binary.class, stored(new byte[] {1}).get("payload"));
    }

    @Test
    void whatJsonLacksIsRefusedWithItsPath() {
        Map<String, Object> circle = new HashMap<>();
        circle.put("again", circle);
        Map<String, Object> values = new LinkedHashMap<>();
        values.put("payload.v[1].price is NaN", List.of(1, Map.of("price", Double.NaN)));
        values.put("payload.v is -Infinity", Float.NEGATIVE_INFINITY);
        values.put("payload.v is of type java.lang.Thread", Thread.currentThread());
        values.put("payload.v is of type regex", Pattern.compile("a"));
        values.put("payload.v is a whole number beyond 64 bits", BigInteger.ONE.shiftLeft(63));
        values.put("payload.v is a decimal of more than 34 digits", new BigDecimal("1." + "1".repeat(40)));
        values.put("payload.v is a date outside the years 0 to 9999", Instant.MAX);
        values.put("payload.v has half of a surrogate pair", "a\ud800");
        values.put("payload.v[\"x\\udc00\"] has half of a surrogate pair", Map.of("x\udc00", 1));
        values.put("payload.v[\"a\\u0000b\"] is named with a null character", Map.of("a\0b", 1));
        values.put("nested deeper than 100 levels", circle);
        values.forEach((words, value) -> refused(Code.PAYLOAD, words, () -> stored(Map.of("v", value))));
        refused(Code.PAYLOAD, "a payload is a document, an array, a string or binary", () -> stored(UUID.randomUUID()));
    }

    @Test
    void idsAndKeysAreObjectIdsUuidsOrText() {
        for (Object id : List.of(new ObjectId(), UUID.randomUUID(), "order-7")) {
            Event event = Event.of("ticket.created", Map.of()).withId(id).withKey(id);
            assertEquals(id, w.transaction(session -> outbox.enqueue(session, event)));
            assertEquals(1, w.collection("outbox").countDocuments(new Document("key", id.toString())));
        }
    }

    @Test
    void theValidatorIsPutInWords() {
        Document rule = Document.parse("{ $expr: { $cond: [{ $ne: ['$key', 'odd'] }, true, { $not: ['The key is odd.'] }] } }");
        Document schema = Document.parse("{ $jsonSchema: { required: ['shop'] } }");
        w.db.createCollection("strict", new CreateCollectionOptions().validationOptions(
                new ValidationOptions().validator(new Document("$and", List.of(schema, rule)))));
        Outbox strict = outbox.withCollection("strict");
        Event event = CREATED.event("odd", new Ticket("x", 0));
        var e = refused(Code.VALIDATOR, "shop is missing", () -> w.transaction(s -> strict.enqueue(s, event)));
        assertInstanceOf(MongoWriteException.class, e.getCause());
        refused(Code.VALIDATOR, "shop is missing", () -> w.transaction(s -> strict.enqueueMany(s, List.of(event, event))));
        w.db.runCommand(new Document("collMod", "strict").append("validator", rule));
        refused(Code.VALIDATOR, "The key is odd.", () -> w.transaction(s -> strict.enqueue(s, event)));

        Event twice = event.withId("twice");
        w.transaction(session -> outbox.enqueue(session, twice));
        assertThrows(MongoWriteException.class, () -> w.transaction(session -> outbox.enqueue(session, twice)));
    }

    @Test
    void theTraceIsCarriedUnlessTheEventNamesOne() {
        var state = TraceState.builder().put("vendor", "1").build();
        var span = Span.wrap(SpanContext.create(
                "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", TraceFlags.getSampled(), state));
        String parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        Event plain = Event.of("ticket.traced", Map.of());
        Event full = plain;
        Document all = new Document();
        for (int i = 0; i < 64; i++) {
            full = full.withHeader("h" + i, "v");
            all.append("h" + i, "v");
        }
        Map<Event, Document> wanted = Map.of(
                plain, new Document("traceparent", parent).append("tracestate", "vendor=1"),
                plain.withHeader("Traceparent", "mine"), new Document("Traceparent", "mine"),
                full, all);
        try (Scope scope = span.makeCurrent()) {
            wanted.forEach((event, headers) -> {
                Object id = w.transaction(session -> outbox.enqueue(session, event));
                assertEquals(headers, w.collection("outbox").find(new Document("_id", id)).first().get("headers"));
            });
        }
    }

    @Test
    void aDeadScheduledEventIsCancelledButNotRescheduled() {
        w.collection("outbox_scheduled").withDocumentClass(Document.class).insertOne(
                Document.parse("{ _id: 'dead', subject: 'ticket.a', payload: {}, isLocked: false, failures: [] }")
                        .append("ts", new org.bson.BsonTimestamp()).append("deadAt", new Date()).append("deliverAt", new Date()),
                new com.mongodb.client.model.InsertOneOptions().bypassDocumentValidation(true));
        assertEquals(false, w.transaction(session -> outbox.reschedule(session, "dead", Instant.now())));
        assertEquals(true, w.transaction(session -> outbox.cancel(session, "dead")));
    }

    @Test
    void anInboxExpiresItsIdsAndActsOnce() throws Exception {
        for (Duration ttl : List.of(Inbox.DEFAULT_TTL, Duration.ofHours(1), Duration.ofHours(1))) {
            new Inbox(w.client, w.db).withCollection("expiring").withTtl(ttl).create();
            Document index = w.collection("expiring").listIndexes().into(new ArrayList<>()).stream()
                    .filter(one -> one.get("name").equals("outboxd_expiry")).findFirst().orElseThrow();
            assertEquals(ttl.toSeconds(), index.get("expireAfterSeconds", Number.class).longValue());
        }
        assertThrows(IllegalArgumentException.class, () -> new Inbox(w.client, w.db).withTtl(Duration.ofMinutes(59)));

        Inbox inbox = new Inbox(w.client, w.db);
        inbox.create();
        w.db.createCollection("shipments");
        var message = new Message("g", "m1", "ticket.a", Map.of(), new byte[0], "S", 1, 1, Instant.EPOCH);
        atOnce(3, () -> {
            inbox.run(message, session -> w.collection("shipments").insertOne(session, new Document()));
            return null;
        });
        assertEquals(1, w.collection("shipments").countDocuments());
        var nameless = new Message("g", "", "ticket.a", Map.of(), new byte[0], "S", 1, 1, Instant.EPOCH);
        assertThrows(UnprocessableException.class, () -> inbox.run(nameless, session -> {}));
    }

    @Test
    void aReplicaWithoutATransactionTakesEachVersionOnce() throws Exception {
        Replica replica = new Replica(w.collection("copies"));
        atOnce(5, () -> {
            replica.apply(null, new Ticket("r", 0));
            return null;
        });
        assertEquals(1, w.collection("copies").countDocuments());
        for (Object bad : new Object[] {Map.of("id", "r"), Map.of("id", "r", "version", 1.5), Map.of("id", "", "version", 1),
            Map.of("version", 1), null, 7}) {
            assertThrows(UnprocessableException.class, () -> replica.apply(null, bad));
        }
    }

    @Test
    void aMessageIsReadAsJsonAndNotAsExtendedJson() {
        String text = "{\"id\":\"00112233-4455-6677-8899-aabbccddeeff\",\"at\":\"2023-11-14T22:13:20.1Z\",\"price\":\"0.10\","
                + "\"count\":5,\"rate\":1}";
        var codecs = w.db.getCodecRegistry();
        Priced priced = message(text).json(Priced.class, codecs);
        assertEquals(new Priced(UUID.fromString("00112233-4455-6677-8899-aabbccddeeff"), Instant.ofEpochMilli(1_700_000_000_100L),
                new BigDecimal("0.10"), 5, 1), priced);
        Document document = message("{\"$oid\":\"x\",\"$ref\":[1,2.5,\"\\u00e9\\n\",null,true,9007199254740993,{}]}").json(Document.class, codecs);
        assertEquals("x", document.get("$oid"));
        assertEquals(java.util.Arrays.asList(1, 2.5, "é\n", null, true, 9007199254740993L, new Document()), document.get("$ref"));

        for (String bad : List.of("", "{", "{a:1}", "{'a':1}", "{\"a\":01}", "{\"a\":1}x", "[1,]", "{\"a\":\"\u0001\"}", "nul", "-", "1.",
                "{\"id\":7}", "\"\\u00g0\"", "[".repeat(10_000))) {
            var e = assertThrows(UnprocessableException.class, () -> message(bad).json(Priced.class, codecs), bad);
            assertTrue(e.getMessage().startsWith("the payload can't be read: "), e.getMessage());
        }
    }

    private static Message message(String payload) {
        return new Message("g", "x", "a", Map.of(), payload.getBytes(StandardCharsets.UTF_8), "S", 1, 1, Instant.EPOCH);
    }
}
