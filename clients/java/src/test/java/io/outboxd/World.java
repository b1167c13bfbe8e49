package io.outboxd;

import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import com.mongodb.client.MongoCollection;
import com.mongodb.client.MongoDatabase;
import io.nats.client.Connection;
import io.nats.client.Nats;
import io.nats.client.Options;
import io.outboxd.testing.Servers;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.function.Function;
import org.bson.Document;

/** Servers, a relay and connections to them. */
final class World implements AutoCloseable {
    final Servers servers = Servers.start();
    final Servers.Relay relay;
    final MongoClient client;
    final MongoDatabase db;
    final Connection nats;
    final String stream;

    World(String stream, String... subjects) throws Exception {
        this.stream = stream;
        relay = servers.relay(stream.toLowerCase(), stream, subjects);
        client = MongoClients.create(relay.mongodbUri());
        db = client.getDatabase(stream.toLowerCase());
        nats = Nats.connect(new Options.Builder().server(servers.natsUrl()).maxReconnects(-1).build());
    }

    <T> T transaction(Function<ClientSession, T> work) {
        try (ClientSession session = client.startSession()) {
            return session.withTransaction(() -> work.apply(session));
        }
    }

    MongoCollection<Document> collection(String name) {
        return db.getCollection(name);
    }

    List<Document> all(String name) {
        return collection(name).find().sort(new Document("_id", 1)).into(new ArrayList<>());
    }

    static void until(String what, Callable<Boolean> done) throws Exception {
        long end = System.nanoTime() + 90_000_000_000L;
        while (!done.call()) {
            if (System.nanoTime() > end) {
                throw new AssertionError("not within 90 s: " + what);
            }
            Thread.sleep(50);
        }
    }

    @Override
    public void close() throws Exception {
        nats.close();
        client.close();
        servers.close();
    }
}
