import com.mongodb.client.MongoClients;
import io.outboxd.Inbox;
import io.outboxd.Outbox;
import io.outboxd.Subject;
import io.outboxd.listener.Listener;
import io.outboxd.testing.Servers;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Writes an event and hears it, without OpenTelemetry on the class path. */
public class Check {
    public record Order(String id, int total) {}

    public static void main(String[] args) throws Exception {
        var placed = Subject.of("order.placed", Order.class);
        var heard = new CompletableFuture<Order>();
        try (var servers = Servers.start()) {
            var relay = servers.relay("shop", "SHOP", "order.>");
            try (var client = MongoClients.create(relay.mongodbUri())) {
                var db = client.getDatabase("shop");
                try (var session = client.startSession();
                        var listener = Listener.builder(new Inbox(client, db), "SHOP", "shipping")
                                .nats(servers.natsUrl())
                                .on(placed, (transaction, message, order) -> heard.complete(order))
                                .start()) {
                    session.withTransaction(() -> new Outbox(db).enqueue(session, placed.event("1", new Order("1", 25))));
                    System.out.println(heard.get(60, TimeUnit.SECONDS));
                }
            }
        }
    }
}
