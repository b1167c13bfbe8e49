import io.nats.client.Connection;
import io.nats.client.IterableConsumer;
import io.nats.client.Message;
import io.nats.client.Nats;
import io.nats.client.OrderedConsumerContext;
import io.nats.client.api.OrderedConsumerConfiguration;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import org.bson.Document;

/** Waits for an event in the stream; prints its subject, message id and payload. */
public final class Read {
    public static void main(String[] args) throws Exception {
        try (Connection nats = Nats.connect(System.getenv("NATS_URL"))) {
            OrderedConsumerContext consumer = nats.getStreamContext(System.getenv("NATS_CLUSTER_ID"))
                    .createOrderedConsumer(new OrderedConsumerConfiguration());
            try (IterableConsumer messages = consumer.iterate()) {
                System.out.println(find(messages, args[0]));
            }
        }
    }

    private static String find(IterableConsumer messages, String id) throws Exception {
        while (true) {
            Message message = messages.nextMessage(Duration.ofSeconds(30));
            if (message == null) {
                throw new IllegalStateException("no event " + id + " came in 30 s");
            }
            String messageId = message.getHeaders().getFirst("Nats-Msg-Id");
            if (messageId.endsWith("." + id)) {
                Document payload = Document.parse(new String(message.getData(), StandardCharsets.UTF_8));
                return new Document("subject", message.getSubject())
                        .append("Nats-Msg-Id", messageId)
                        .append("payload", payload)
                        .toJson();
            }
        }
    }
}
