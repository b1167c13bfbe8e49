package io.outboxd;

import com.mongodb.MongoCommandException;
import com.mongodb.ReadConcern;
import com.mongodb.TransactionOptions;
import com.mongodb.WriteConcern;
import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoCollection;
import com.mongodb.client.MongoDatabase;
import com.mongodb.client.model.IndexOptions;
import com.mongodb.client.model.UpdateOptions;
import java.time.Duration;
import java.util.Date;
import java.util.Objects;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import org.bson.BsonDateTime;
import org.bson.BsonDocument;
import org.bson.BsonInt32;
import org.bson.BsonString;
import org.bson.Document;
import org.bson.types.Binary;

/**
 * The ids of the messages that a service has handled. Immutable; threads, services and queue groups may share it.
 *
 * <p>A message may come again: when a consumer dies between its commit and its ack, or when the relay publishes an event
 * again after the stream's duplicate window. Every delivery has the same id. So the id is a document of a small
 * collection, written in the transaction of the work: either both are there, or neither. Ids expire by a TTL index.
 *
 * <pre>
 * {@literal <inbox>}         { _id: { group, id }, at }
 * {@literal <inbox>}_failed  messages that could not be applied, each with its reason
 * </pre>
 */
public final class Inbox {
    /** How long ids are kept. */
    public static final Duration DEFAULT_TTL = Duration.ofDays(30);

    /**
     * The shortest time that ids may be kept. The stream's duplicate window is 30 minutes as {@code outboxd migrate} makes
     * it.
     */
    public static final Duration MIN_TTL = Duration.ofHours(1);

    private static final String EXPIRY_INDEX = "outboxd_expiry";
    private static final int MAX_REASON = 2000;
    private static final int NAMESPACE_EXISTS = 48;
    private static final int INDEX_OPTIONS_CONFLICT = 85;

    private final MongoClient client;
    private final MongoDatabase database;
    private final String collection;
    private final Duration ttl;

    /**
     * The inbox of a database, in the collection {@code inbox}.
     *
     * @param client the client, for sessions
     * @param database the database that the work writes to, or another one of the same cluster
     */
    public Inbox(MongoClient client, MongoDatabase database) {
        this(client, database, "inbox", DEFAULT_TTL);
    }

    private Inbox(MongoClient client, MongoDatabase database, String collection, Duration ttl) {
        this.client = Objects.requireNonNull(client, "client");
        this.database = Objects.requireNonNull(database, "database");
        this.collection = Objects.requireNonNull(collection, "collection");
        this.ttl = ttl;
        if (ttl.compareTo(MIN_TTL) < 0) {
            throw new IllegalArgumentException("ids are kept for at least " + MIN_TTL.toSeconds() + " s; this one is "
                    + ttl.toSeconds() + " s");
        }
    }

    /**
     * Returns the inbox in another collection.
     *
     * @param collection the name
     * @return the inbox
     */
    public Inbox withCollection(String collection) {
        return new Inbox(client, database, collection, ttl);
    }

    /**
     * Returns the inbox with another time that ids are kept: longer than a message may take to come again, which is longer
     * than the stream's duplicate window, and longer than the service may be down.
     *
     * @param ttl the time
     * @return the inbox
     */
    public Inbox withTtl(Duration ttl) {
        return new Inbox(client, database, collection, ttl);
    }

    /**
     * Returns how long ids are kept.
     *
     * @return the time
     */
    public Duration ttl() {
        return ttl;
    }

    /**
     * Returns the database that the inbox is in.
     *
     * @return the database
     */
    public MongoDatabase database() {
        return database;
    }

    /**
     * Makes both collections and the index that lets ids expire, if they are missing, and changes the expiry if it is
     * another one. A listener calls this when it starts.
     */
    public void create() {
        for (String name : new String[] {collection, collection + "_failed"}) {
            try {
                database.createCollection(name);
            } catch (MongoCommandException e) {
                if (e.getErrorCode() != NAMESPACE_EXISTS) {
                    throw e;
                }
            }
        }

        BsonDocument byTime = new BsonDocument("at", new BsonInt32(1));
        failed().createIndex(byTime, new IndexOptions().name("outboxd_at"));
        try {
            ids().createIndex(byTime, new IndexOptions().name(EXPIRY_INDEX).expireAfter(ttl.toSeconds(), TimeUnit.SECONDS));
        } catch (MongoCommandException e) {
            if (e.getErrorCode() != INDEX_OPTIONS_CONFLICT) {
                throw e;
            }
            Document index = new Document("name", EXPIRY_INDEX).append("expireAfterSeconds", ttl.toSeconds());
            database.runCommand(new Document("collMod", collection).append("index", index));
        }
    }

    /**
     * Runs work in the transaction of a session, unless the message was handled before. The id and the work commit
     * together. An exception of the work is thrown; let it out of the transaction, so that the id is not kept.
     *
     * @param session the session of the transaction
     * @param message the message
     * @param work what to do once
     * @return whether the work ran
     * @throws OutboxException if no transaction is under way
     */
    public boolean once(ClientSession session, Message message, Runnable work) {
        if (session == null || !session.hasActiveTransaction()) {
            throw new OutboxException(OutboxException.Code.TRANSACTION, "once was called outside a transaction; start one "
                    + "on the session, or call run, which starts one itself");
        }
        if (message.id() == null || message.id().isEmpty()) {
            throw new UnprocessableException("the message has no Nats-Msg-Id; only a message with an id, such as outboxd "
                    + "gives to each, can be handled once");
        }

        // Not an insert: a duplicate key would end the transaction.
        BsonDocument at = new BsonDocument("at", new BsonDateTime(System.currentTimeMillis()));
        var written = ids().updateOne(session, byId(message.group(), message.id()), new BsonDocument("$setOnInsert", at),
                new UpdateOptions().upsert(true));
        if (written.getUpsertedId() == null) {
            return false;
        }
        work.run();
        return true;
    }

    /**
     * Handles a message in a transaction of its own: it runs work unless the message was handled before, and commits the
     * id together with the work. An exception of the work rolls both back. If another transaction changes the same
     * records, the work runs again.
     *
     * @param message the message
     * @param work what to do once, with the session for every write
     */
    public void run(Message message, Consumer<ClientSession> work) {
        TransactionOptions options = TransactionOptions.builder()
                .readConcern(ReadConcern.SNAPSHOT)
                .writeConcern(WriteConcern.MAJORITY)
                .build();
        try (ClientSession session = client.startSession()) {
            session.withTransaction(() -> once(session, message, () -> work.accept(session)), options);
        }
    }

    /**
     * Writes a message that could not be applied to {@code <inbox>_failed}, with the reason. The same message is there
     * once. If this fails, the message must not be acked.
     *
     * @param message the message
     * @param reason why it could not be applied
     */
    public void putAside(Message message, String reason) {
        boolean hasId = message.id() != null && !message.id().isEmpty();
        String id = hasId ? message.id() : message.stream() + ":" + message.sequence();
        Document headers = new Document();
        message.headers().forEach((name, values) -> headers.append(name, values.isEmpty() ? "" : values.get(0)));
        int length = reason == null ? 0 : Math.min(reason.length(), MAX_REASON);
        Document failed = new Document("at", new Date())
                .append("subject", message.subject())
                .append("payload", new Binary(message.payload()))
                .append("headers", headers)
                .append("stream", message.stream())
                .append("sequence", message.sequence())
                .append("deliveries", (int) message.deliveries())
                .append("reason", reason == null ? "it has no reason" : reason.substring(0, length));
        failed().updateOne(byId(message.group(), id), new Document("$set", failed), new UpdateOptions().upsert(true));
    }

    private MongoCollection<BsonDocument> ids() {
        return database.getCollection(collection, BsonDocument.class);
    }

    private MongoCollection<Document> failed() {
        return database.getCollection(collection + "_failed").withWriteConcern(WriteConcern.MAJORITY);
    }

    private static BsonDocument byId(String group, String id) {
        return new BsonDocument("_id", new BsonDocument("group", new BsonString(group)).append("id", new BsonString(id)));
    }
}
