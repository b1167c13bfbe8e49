package io.outboxd;

import com.mongodb.MongoBulkWriteException;
import com.mongodb.MongoException;
import com.mongodb.MongoWriteException;
import com.mongodb.WriteError;
import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoCollection;
import com.mongodb.client.MongoDatabase;
import io.outboxd.OutboxException.Code;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import org.bson.BsonArray;
import org.bson.BsonBoolean;
import org.bson.BsonDateTime;
import org.bson.BsonDocument;
import org.bson.BsonNull;
import org.bson.BsonObjectId;
import org.bson.BsonTimestamp;
import org.bson.BsonValue;
import org.bson.UuidRepresentation;

/**
 * A service's outbox. {@code outboxd migrate} makes its collections and their validators. Immutable; threads may share
 * it.
 *
 * <p>Every call needs a session with a transaction under way. An event is published once that transaction has
 * committed, and never if it rolls back. The relay publishes what is written as plain JSON.
 */
public final class Outbox {
    /**
     * The longest payload as published, in bytes: 1 MiB, the default {@code max_payload} of nats-server, less 32 KiB for
     * the headers.
     */
    public static final int DEFAULT_MAX_PAYLOAD = 1024 * 1024 - Names.MAX_HEADER_BYTES;

    private static final long LATEST_DELIVERY = 253_402_300_799_999L;
    private static final int DOCUMENT_VALIDATION_FAILURE = 121;

    private final MongoDatabase database;
    private final String collection;
    private final int maxPayload;
    private final Payloads payloads;

    /**
     * The outbox of a database, in the collection {@code outbox}.
     *
     * @param database the database of the records
     */
    public Outbox(MongoDatabase database) {
        this(database, "outbox", DEFAULT_MAX_PAYLOAD);
    }

    private Outbox(MongoDatabase database, String collection, int maxPayload) {
        this.database = database;
        this.collection = collection;
        this.maxPayload = maxPayload;
        this.payloads = new Payloads(database.getCodecRegistry());
    }

    /**
     * Returns the outbox in another collection.
     *
     * @param collection the name that the relay's configuration has
     * @return the outbox
     */
    public Outbox withCollection(String collection) {
        return new Outbox(database, collection, maxPayload);
    }

    /**
     * Returns the outbox with another limit. Raise it together with {@code max_payload} of nats-server, and keep it 32
     * KiB below that.
     *
     * @param bytes the longest payload as published
     * @return the outbox
     */
    public Outbox withMaxPayload(int bytes) {
        return new Outbox(database, collection, bytes);
    }

    /**
     * Writes an event. It carries the OpenTelemetry span of the calling thread in its headers, unless they have a
     * traceparent.
     *
     * @param session the session of the transaction
     * @param event the event
     * @return the id of the event: an {@code ObjectId}, or the one given
     * @throws OutboxException if the event is refused, or no transaction is under way
     */
    public Object enqueue(ClientSession session, Event event) {
        requireTransaction(session);
        BsonDocument document = document(event);
        explained(() -> to(collection).insertOne(session, document));
        return idOf(document);
    }

    /**
     * Writes events in one command. Events of one key are published in the order given. If one event is refused, none is
     * written.
     *
     * @param session the session of the transaction
     * @param events the events
     * @return the ids of the events
     * @throws OutboxException if an event is refused, or no transaction is under way
     */
    public List<Object> enqueueMany(ClientSession session, List<Event> events) {
        requireTransaction(session);
        List<BsonDocument> documents = new ArrayList<>();
        for (Event event : events) {
            try {
                documents.add(document(event));
            } catch (OutboxException e) {
                throw new OutboxException(e.code(), "event " + documents.size() + ": " + e.getMessage(), e);
            }
        }
        if (!documents.isEmpty()) {
            explained(() -> to(collection).insertMany(session, documents));
        }
        return documents.stream().map(Outbox::idOf).toList();
    }

    /**
     * Writes an event that is published at a time. MongoDB's clock decides when it is due; a time that has passed is due
     * at once.
     *
     * @param session the session of the transaction
     * @param event the event
     * @param deliverAt the time; anything below a millisecond is cut off
     * @return the id of the event, which {@link #cancel} and {@link #reschedule} take
     * @throws OutboxException if the event or the time is refused, or no transaction is under way
     */
    public Object schedule(ClientSession session, Event event, Instant deliverAt) {
        requireTransaction(session);
        BsonDateTime due = due(deliverAt);
        BsonDocument document = document(event).append("deliverAt", due);
        explained(() -> scheduled().insertOne(session, document));
        return idOf(document);
    }

    /**
     * Takes a scheduled event back.
     *
     * <p>While the relay moves the event, this call or the commit fails with the driver's label
     * TransientTransactionError, and {@code withTransaction} runs the transaction again.
     *
     * @param session the session of the transaction
     * @param id the id of the event
     * @return true: once the transaction has committed, the event is never published; false: it is published or about to
     *     be, was cancelled before, or was never scheduled
     * @throws OutboxException if no transaction is under way
     */
    public boolean cancel(ClientSession session, Object id) {
        requireTransaction(session);
        BsonDocument filter = new BsonDocument("_id", Names.id(id));
        return scheduled().deleteOne(session, filter).getDeletedCount() > 0;
    }

    /**
     * Gives a scheduled event another time.
     *
     * @param session the session of the transaction
     * @param id the id of the event
     * @param deliverAt the time
     * @return false: no event with this id waits for its time, and nothing changed
     * @throws OutboxException if the time is refused, or no transaction is under way
     */
    public boolean reschedule(ClientSession session, Object id, Instant deliverAt) {
        requireTransaction(session);
        BsonDocument waiting = new BsonDocument("_id", Names.id(id)).append("deadAt", BsonNull.VALUE);
        BsonDocument later = new BsonDocument("$set", new BsonDocument("deliverAt", due(deliverAt)));
        return explained(() -> scheduled().updateOne(session, waiting, later)).getMatchedCount() > 0;
    }

    private MongoCollection<BsonDocument> to(String name) {
        return database.getCollection(name, BsonDocument.class);
    }

    private MongoCollection<BsonDocument> scheduled() {
        return to(collection + "_scheduled");
    }

    private BsonDocument document(Event event) {
        BsonDocument document = new BsonDocument("_id", event.hasId() ? Names.id(event.id()) : new BsonObjectId())
                // The server fills an empty timestamp with its cluster time: the order within a key.
                .append("ts", new BsonTimestamp())
                .append("subject", Names.subject(event.subject()));
        if (event.hasKey()) {
            document.append("key", Names.key(event.key()));
        }

        BsonValue payload = payloads.payload(event.payload());
        long length = Length.published(payload);
        if (length > maxPayload) {
            throw new OutboxException(Code.TOO_LONG, "payload of " + length + " bytes is over the limit of " + maxPayload
                    + "; store the content elsewhere and publish a reference");
        }
        document.append("payload", payload);

        BsonDocument headers = Names.headers(event.headers(), Trace.current());
        if (!headers.isEmpty()) {
            document.append("headers", headers);
        }
        return document.append("isLocked", BsonBoolean.TRUE).append("failures", new BsonArray());
    }

    private static Object idOf(BsonDocument document) {
        BsonValue id = document.get("_id");
        if (id.isObjectId()) {
            return id.asObjectId().getValue();
        }
        if (id.isString()) {
            return id.asString().getValue();
        }
        return id.asBinary().asUuid(UuidRepresentation.STANDARD);
    }

    private static void requireTransaction(ClientSession session) {
        if (session == null || !session.hasActiveTransaction()) {
            throw new OutboxException(Code.TRANSACTION, "the outbox was called outside a transaction; start one on the "
                    + "session, write the record and the event in it, and commit both");
        }
    }

    private static BsonDateTime due(Instant at) {
        boolean isInRange = at != null && !at.isBefore(Instant.EPOCH)
                && !at.isAfter(Instant.ofEpochMilli(LATEST_DELIVERY).plusNanos(999_999));
        if (!isInRange) {
            throw new OutboxException(Code.DELIVER_AT,
                    "invalid time of delivery: it is " + (at == null ? "null" : "outside the years 1970 to 9999"));
        }
        return new BsonDateTime(at.toEpochMilli());
    }

    /** Puts the validator's reasons in words, and leaves every other exception as it is. */
    private static <T> T explained(Supplier<T> write) {
        try {
            return write.get();
        } catch (MongoWriteException e) {
            throw explained(e, List.of(e.getError()));
        } catch (MongoBulkWriteException e) {
            throw explained(e, e.getWriteErrors());
        }
    }

    private static RuntimeException explained(MongoException e, List<? extends WriteError> errors) {
        for (WriteError error : errors) {
            if (error.getCode() == DOCUMENT_VALIDATION_FAILURE) {
                List<String> reasons = Names.reasons(error.getDetails());
                String words = reasons.isEmpty() ? "it names no rule" : String.join("; ", reasons);
                return new OutboxException(Code.VALIDATOR, "the validator of the collection refuses the event: " + words, e);
            }
        }
        return e;
    }
}
