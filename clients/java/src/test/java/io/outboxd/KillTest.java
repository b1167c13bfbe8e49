package io.outboxd;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import com.mongodb.client.MongoDatabase;
import com.mongodb.client.model.FindOneAndUpdateOptions;
import com.mongodb.client.model.ReturnDocument;
import io.outboxd.listener.Listener;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.ThreadLocalRandom;
import org.bson.Document;
import org.junit.jupiter.api.Test;

/** Writers, consumers and the relay are killed in the middle of their work, again and again. */
class KillTest {
    private static final String STREAM = "KILLED_JAVA";
    private static final int RECORDS = 8;

    public record Copy(String id, int version, int amount) {}

    private static final Subject<Copy> CHANGED = Subject.of("record.changed", Copy.class);

    /** The part that the test has started this program as. */
    public static void main(String[] args) throws Exception {
        Thread guard = new Thread(() -> {
            try {
                System.in.transferTo(java.io.OutputStream.nullOutputStream());
            } catch (IOException e) {
                // It ended as well.
            }
            Runtime.getRuntime().halt(0); // a part ends with the test, however that ends
        });
        guard.setDaemon(true);
        guard.start();
        try (MongoClient client = MongoClients.create(args[1])) {
            MongoDatabase db = client.getDatabase(STREAM.toLowerCase());
            if (args[0].equals("writer")) {
                write(client, db);
            } else {
                consume(client, db, args[2]);
            }
        }
    }

    private static void write(MongoClient client, MongoDatabase db) throws Exception {
        Outbox outbox = new Outbox(db);
        var after = new FindOneAndUpdateOptions().returnDocument(ReturnDocument.AFTER);
        for (;;) {
            ThreadLocalRandom random = ThreadLocalRandom.current();
            String id = "r" + random.nextInt(RECORDS);
            Document change = new Document("$inc", new Document("version", 1)).append("$set", new Document("amount", random.nextInt(1000)));
            try (ClientSession session = client.startSession()) {
                session.withTransaction(() -> {
                    Document next = db.getCollection("records").findOneAndUpdate(session, new Document("_id", id), change, after);
                    Copy copy = new Copy(id, next.getInteger("version"), next.getInteger("amount"));
                    return outbox.enqueue(session, CHANGED.event(id, copy));
                });
            }
            System.out.println("wrote");
            Thread.sleep(20); // a consumer keeps up with this
        }
    }

    private static void consume(MongoClient client, MongoDatabase db, String nats) throws Exception {
        Replica replica = new Replica(db.getCollection("replicas"));
        try (Listener listener = Listener.builder(new Inbox(client, db), STREAM, "copier")
                .nats(nats)
                .ackWait(Duration.ofSeconds(1))
                .maxAckPending(8)
                .on(CHANGED, (session, message, copy) -> {
                    replica.apply(session, copy);
                    db.getCollection("applied").insertOne(session, new Document("record", copy.id()).append("version", copy.version()));
                })
                .start()) {
            listener.ended().get();
        }
    }

    /** A writer or a consumer, in a process of its own. */
    private static final class Part {
        private final Process process;
        private final BufferedReader lines;

        Part(World w, String name) throws IOException {
            String java = Path.of(System.getProperty("java.home"), "bin", "java").toString();
            process = new ProcessBuilder(java, "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", System.getProperty("java.class.path"), KillTest.class.getName(),
                    name, w.relay.mongodbUri(), w.servers.natsUrl()).redirectError(ProcessBuilder.Redirect.DISCARD).start();
            lines = process.inputReader();
        }

        void wrote(int count) throws IOException {
            for (int i = 0; i < count; i++) {
                assertTrue(lines.readLine() != null, "the writer ended");
            }
        }

        void kill() throws InterruptedException {
            process.destroyForcibly().waitFor();
        }
    }

    @Test
    void killsInMidLoadLeaveEqualReplicasAndEachVersionAppliedOnce() throws Exception {
        List<Part> parts = new ArrayList<>();
        try (World w = new World(STREAM, "record.>")) {
            // Until a transaction expires, the one of a killed process keeps its documents from all others.
            w.client.getDatabase("admin").runCommand(new Document("setParameter", 1).append("transactionLifetimeLimitSeconds", 2));
            w.db.createCollection("applied");
            w.db.createCollection("replicas");
            for (int i = 0; i < RECORDS; i++) {
                Copy first = new Copy("r" + i, 0, 0);
                w.transaction(session -> {
                    w.collection("records").insertOne(session, new Document("_id", first.id()).append("version", 0).append("amount", 0));
                    return new Outbox(w.db).enqueue(session, CHANGED.event(first.id(), first));
                });
            }
            try {
                killed(w, parts);
            } finally {
                for (Part part : parts) {
                    part.kill();
                }
            }
        }
    }

    private static Part started(World w, List<Part> parts, String name) throws IOException {
        Part part = new Part(w, name);
        parts.add(part);
        return part;
    }

    private static void killed(World w, List<Part> parts) throws Exception {
        Part consumer = started(w, parts, "consumer");
        Part writer = started(w, parts, "writer");
        for (int round = 0; round < 3; round++) {
            writer.wrote(20);
            long before = w.collection("applied").countDocuments();
            World.until("the consumer applies", () -> w.collection("applied").countDocuments() > before + 10);
            consumer.kill();
            writer.wrote(10);
            consumer = started(w, parts, "consumer");
            writer.wrote(10);
            w.relay.kill();
            writer.wrote(10);
            w.relay.start();
            writer.kill();
            writer = started(w, parts, "writer");
        }
        writer.wrote(20);
        writer.kill();

        World.until("the replicas are equal", () -> w.all("records").equals(w.all("replicas")));
        int versions = w.all("records").stream().mapToInt(record -> record.getInteger("version") + 1).sum();
        assertEquals(versions, w.collection("applied").countDocuments());
        assertEquals(List.of(), w.all("inbox_failed"));
        System.out.println(versions + " versions of " + RECORDS + " records, applied once each");
    }
}
