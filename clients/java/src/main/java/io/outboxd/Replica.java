package io.outboxd;

import com.mongodb.ErrorCategory;
import com.mongodb.MongoWriteException;
import com.mongodb.client.ClientSession;
import com.mongodb.client.FindIterable;
import com.mongodb.client.MongoCollection;
import com.mongodb.client.model.Projections;
import java.util.Collections;
import org.bson.BsonDateTime;
import org.bson.BsonDocument;
import org.bson.BsonInt32;
import org.bson.BsonInt64;
import org.bson.BsonValue;

/**
 * Copies of another service's records, kept in the order of their versions, in whichever order the messages come. The
 * first version of a record is 0, and each change raises it by one. Immutable; threads may share it.
 *
 * <p>A copy that was removed stays as <code>{ _id, version, removedAt }</code>, so that a message that comes again does
 * not bring it back. The copies that live are those where <code>{ removedAt: null }</code>.
 */
public final class Replica {
    private final MongoCollection<BsonDocument> copies;
    private final Payloads payloads;

    /**
     * The replica in a collection.
     *
     * @param copies the collection
     */
    public Replica(MongoCollection<?> copies) {
        this.copies = copies.withDocumentClass(BsonDocument.class);
        this.payloads = new Payloads(copies.getCodecRegistry());
    }

    /**
     * Stores a version of a record. Returns once this version or a newer one is stored, now or before.
     *
     * @param session the session of a transaction, or null
     * @param record a record, a map or a document with a {@code version}, and with an {@code _id} or, instead, an {@code
     *     id}
     * @throws LaterException if the version before it is missing
     * @throws UnprocessableException if it has no id or no version
     */
    public void apply(ClientSession session, Object record) {
        BsonDocument fields;
        try {
            fields = payloads.document(record);
        } catch (OutboxException e) {
            throw new UnprocessableException("the record can't be stored: " + e.getMessage(), e);
        }
        String name = fields.containsKey("_id") ? "_id" : "id";
        BsonDocument stored = new BsonDocument("_id", id(fields.remove(name)));
        stored.putAll(fields);
        store(session, stored, version(fields.get("version")));
    }

    /**
     * Removes the copy of a record.
     *
     * @param session the session of a transaction, or null
     * @param id the id of the record
     * @param version the version of the removal: the last one plus one
     * @throws LaterException if the version before it is missing
     * @throws UnprocessableException if the id or the version can't be one
     */
    public void remove(ClientSession session, Object id, long version) {
        BsonDocument removed = new BsonDocument("_id", id(payloads.document(Collections.singletonMap("id", id)).get("id")));
        removed.append("version", version == (int) version ? new BsonInt32((int) version) : new BsonInt64(version));
        removed.append("removedAt", new BsonDateTime(System.currentTimeMillis()));
        store(session, removed, version(removed.get("version")));
    }

    private static BsonValue id(BsonValue id) {
        if (id == null || id.isNull() || id.isString() && id.asString().getValue().isEmpty()) {
            throw new UnprocessableException("the record has no field id");
        }
        return id;
    }

    private static long version(BsonValue version) {
        long number = -1;
        if (version != null && (version.isInt32() || version.isInt64())) {
            number = version.asNumber().longValue();
        } else if (version != null && version.isDouble()) {
            double value = version.asDouble().getValue();
            number = value == Math.rint(value) && value < 1L << 53 ? (long) value : -1;
        }
        if (number < 0) {
            throw new UnprocessableException("the version is " + version + ", and not a whole number from 0 on");
        }
        return number;
    }

    private void store(ClientSession session, BsonDocument stored, long version) {
        BsonDocument byId = new BsonDocument("_id", stored.get("_id"));

        // A loop, for callers without a transaction: another one may write between the two steps.
        for (;;) {
            FindIterable<BsonDocument> finding = session == null ? copies.find(byId) : copies.find(session, byId);
            BsonDocument found = finding.projection(Projections.include("version")).first();
            long last = found == null ? -1 : found.getNumber("version").longValue();
            if (last >= version) {
                return;
            }
            if (last != version - 1) {
                throw new LaterException();
            }

            if (found == null) {
                try {
                    insert(session, stored);
                    return;
                } catch (MongoWriteException e) {
                    // In a transaction this error has ended it.
                    if (session != null || e.getError().getCategory() != ErrorCategory.DUPLICATE_KEY) {
                        throw e;
                    }
                }
            } else if (replace(session, byId.clone().append("version", found.get("version")), stored)) {
                return;
            }
        }
    }

    private void insert(ClientSession session, BsonDocument stored) {
        if (session == null) {
            copies.insertOne(stored);
        } else {
            copies.insertOne(session, stored);
        }
    }

    private boolean replace(ClientSession session, BsonDocument filter, BsonDocument stored) {
        var result = session == null ? copies.replaceOne(filter, stored) : copies.replaceOne(session, filter, stored);
        return result.getMatchedCount() == 1;
    }
}
