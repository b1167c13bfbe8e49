package io.outboxd;

import java.math.BigDecimal;
import java.time.Instant;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.LocalTime;
import java.time.OffsetDateTime;
import java.util.Date;
import java.util.List;
import java.util.UUID;
import java.util.function.Function;
import org.bson.BsonReader;
import org.bson.BsonType;
import org.bson.BsonWriter;
import org.bson.codecs.Codec;
import org.bson.codecs.DecoderContext;
import org.bson.codecs.EncoderContext;
import org.bson.codecs.configuration.CodecConfigurationException;
import org.bson.types.Decimal128;
import org.bson.types.ObjectId;

/** Reads a value that the relay publishes as text, and leaves other values to the codec that the database has. */
final class TextCodec<T> implements Codec<T> {
    /** The types that are text in JSON. */
    static final List<TextCodec<?>> ALL = List.of(
            new TextCodec<>(ObjectId.class, ObjectId::new),
            new TextCodec<>(UUID.class, UUID::fromString),
            new TextCodec<>(Instant.class, text -> OffsetDateTime.parse(text).toInstant()),
            new TextCodec<>(Date.class, text -> Date.from(OffsetDateTime.parse(text).toInstant())),
            new TextCodec<>(OffsetDateTime.class, OffsetDateTime::parse),
            new TextCodec<>(LocalDate.class, LocalDate::parse),
            new TextCodec<>(LocalDateTime.class, LocalDateTime::parse),
            new TextCodec<>(LocalTime.class, LocalTime::parse),
            new TextCodec<>(BigDecimal.class, BigDecimal::new),
            new TextCodec<>(Decimal128.class, Decimal128::parse));

    private final Class<T> type;
    private final Function<String, T> read;

    private TextCodec(Class<T> type, Function<String, T> read) {
        this.type = type;
        this.read = read;
    }

    @Override
    public T decode(BsonReader reader, DecoderContext context) {
        BsonType given = reader.getCurrentBsonType();
        if (given == BsonType.STRING) {
            return read.apply(reader.readString());
        }
        boolean isNumber = given == BsonType.INT32 || given == BsonType.INT64 || given == BsonType.DOUBLE;
        if (isNumber && (type == BigDecimal.class || type == Decimal128.class)) {
            String number = given == BsonType.INT32 ? Integer.toString(reader.readInt32())
                    : given == BsonType.INT64 ? Long.toString(reader.readInt64()) : Double.toString(reader.readDouble());
            return read.apply(number);
        }
        throw new CodecConfigurationException("a " + type.getSimpleName() + " is text, and this is of type " + given);
    }

    @Override
    public void encode(BsonWriter writer, T value, EncoderContext context) {
        writer.writeString(value.toString());
    }

    @Override
    public Class<T> getEncoderClass() {
        return type;
    }
}
