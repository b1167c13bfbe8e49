package io.outboxd;

import java.time.Instant;
import java.util.List;
import java.util.Map;
import org.bson.BsonDocument;
import org.bson.BsonDocumentReader;
import org.bson.BsonInvalidOperationException;
import org.bson.BsonSerializationException;
import org.bson.BsonValue;
import org.bson.UuidRepresentation;
import org.bson.codecs.DecoderContext;
import org.bson.codecs.configuration.CodecConfigurationException;
import org.bson.codecs.configuration.CodecRegistries;
import org.bson.codecs.configuration.CodecRegistry;

/**
 * One delivery of a message. The same message may be delivered more than once.
 *
 * @param group the durable consumer that got the message: the queue group of the service
 * @param id the header Nats-Msg-Id, the same in every delivery of this message; empty if it has none
 * @param subject the subject
 * @param headers the headers
 * @param payload the payload
 * @param stream the stream
 * @param sequence where the stream has it
 * @param deliveries how many times the group has got it: 1 the first time
 * @param publishedAt when the stream stored it
 */
public record Message(
        String group, String id, String subject, Map<String, List<String>> headers, byte[] payload, String stream,
        long sequence, long deliveries, Instant publishedAt) {

    /**
     * Returns the first value of a header, whose name may be written in any case.
     *
     * @param name the name
     * @return the value, or null
     */
    public String header(String name) {
        for (Map.Entry<String, List<String>> header : headers.entrySet()) {
            if (header.getKey().equalsIgnoreCase(name) && !header.getValue().isEmpty()) {
                return header.getValue().get(0);
            }
        }
        return null;
    }

    /**
     * Reads the payload, which is JSON, with codecs of the driver: those of a database read records, {@code Document}s
     * and whatever the service has codecs for. An {@code ObjectId}, a {@code UUID}, a time and a {@code BigDecimal} are
     * read from text.
     *
     * @param type the class of the payload
     * @param codecs the codecs of a database
     * @param <T> the type of the payload
     * @return the payload
     * @throws UnprocessableException if it can't be read, which another delivery would not change
     */
    public <T> T json(Class<T> type, CodecRegistry codecs) {
        try {
            BsonValue value = Json.parse(payload);
            CodecRegistry registry = CodecRegistries.fromRegistries(
                    CodecRegistries.fromCodecs(TextCodec.ALL),
                    CodecRegistries.withUuidRepresentation(codecs, UuidRepresentation.STANDARD));
            BsonDocumentReader reader = new BsonDocumentReader(new BsonDocument("v", value));
            reader.readStartDocument();
            reader.readBsonType();
            reader.readName();
            return registry.get(type).decode(reader, DecoderContext.builder().build());
        } catch (IllegalArgumentException | BsonInvalidOperationException | BsonSerializationException
                | CodecConfigurationException | java.time.DateTimeException e) {
            throw new UnprocessableException("the payload can't be read: " + e.getMessage(), e);
        }
    }
}
