import com.mongodb.ConnectionString;
import com.mongodb.client.ClientSession;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import com.mongodb.client.MongoDatabase;
import java.util.List;
import org.bson.BsonTimestamp;
import org.bson.Document;
import org.bson.types.ObjectId;

/** Writes an order and its event in one transaction; prints the event's id. */
public final class Write {
    public static void main(String[] args) {
        String number = args[0];
        ConnectionString uri = new ConnectionString(System.getenv("MONGODB_URI"));

        Document order = new Document("_id", number).append("total", 25).append("version", 0);
        Document event = new Document("_id", new ObjectId())
                .append("ts", new BsonTimestamp(0, 0)) // the server fills it: the order within a key
                .append("subject", "order.placed")
                .append("key", number) // the record's id
                .append("payload", new Document("id", number).append("total", 25).append("version", 0))
                .append("isLocked", true)
                .append("failures", List.of());

        try (MongoClient client = MongoClients.create(uri); ClientSession session = client.startSession()) {
            MongoDatabase db = client.getDatabase(uri.getDatabase());
            session.withTransaction(() -> {
                // May run more than once. What an earlier run wrote is rolled back, so nothing is there twice.
                db.getCollection("orders").insertOne(session, order);
                return db.getCollection("outbox").insertOne(session, event);
            });
        }
        System.out.println(event.getObjectId("_id"));
    }
}
