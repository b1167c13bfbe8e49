package io.outboxd;

import io.outboxd.OutboxException.Code;
import java.lang.reflect.Array;
import java.lang.reflect.RecordComponent;
import java.math.BigDecimal;
import java.math.BigInteger;
import java.time.Instant;
import java.time.format.DateTimeFormatter;
import java.time.temporal.Temporal;
import java.util.Date;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.regex.Pattern;
import org.bson.BsonArray;
import org.bson.BsonBinary;
import org.bson.BsonBoolean;
import org.bson.BsonDateTime;
import org.bson.BsonDecimal128;
import org.bson.BsonDocument;
import org.bson.BsonDocumentWriter;
import org.bson.BsonDouble;
import org.bson.BsonInt32;
import org.bson.BsonInt64;
import org.bson.BsonInvalidOperationException;
import org.bson.BsonNull;
import org.bson.BsonObjectId;
import org.bson.BsonString;
import org.bson.BsonSymbol;
import org.bson.BsonValue;
import org.bson.UuidRepresentation;
import org.bson.codecs.Codec;
import org.bson.codecs.EncoderContext;
import org.bson.codecs.configuration.CodecConfigurationException;
import org.bson.codecs.configuration.CodecRegistries;
import org.bson.codecs.configuration.CodecRegistry;
import org.bson.codecs.pojo.annotations.BsonId;
import org.bson.codecs.pojo.annotations.BsonIgnore;
import org.bson.codecs.pojo.annotations.BsonProperty;
import org.bson.types.Binary;
import org.bson.types.Decimal128;
import org.bson.types.ObjectId;

/** Writes a payload as BSON that the relay publishes as expected, and refuses what JSON lacks with its path. */
final class Payloads {
    /** Deepest nesting of documents and arrays. */
    private static final int MAX_DEPTH = 100;
    /** The dates that RFC 3339 can write. */
    private static final long EARLIEST = -62_167_219_200_000L;
    private static final long LATEST = 253_402_300_799_999L;

    private static final Pattern PLAIN_NAME = Pattern.compile("[A-Za-z_$][A-Za-z0-9_$]{0,63}");

    private final CodecRegistry codecs;

    Payloads(CodecRegistry codecs) {
        this.codecs = CodecRegistries.withUuidRepresentation(codecs, UuidRepresentation.STANDARD);
    }

    /** Returns a payload as a document, an array, a string or binary. */
    BsonValue payload(Object payload) {
        if (payload instanceof BsonBinary binary) {
            return binary;
        }
        BsonValue made = convert(payload, "payload", 0);
        if (made.isDocument() || made.isArray() || made.isString() && payload instanceof CharSequence
                || made.isString() && payload instanceof BsonString
                || made.isBinary() && (payload instanceof byte[] || payload instanceof Binary)) {
            return made;
        }
        String kind = payload == null ? "null" : payload.getClass().getSimpleName();
        throw refused("it is of type " + kind + "; a payload is a document, an array, a string or binary");
    }

    /** Returns a record as a document. */
    BsonDocument document(Object record) {
        BsonValue made = convert(record, "record", 0);
        if (!made.isDocument()) {
            throw refused("it is no document");
        }
        return made.asDocument();
    }

    private static OutboxException refused(String reason) {
        return new OutboxException(Code.PAYLOAD, "invalid payload: " + reason);
    }

    private static OutboxException notJson(String path, String what) {
        return refused(path + " is " + what + "; it has no plain form in JSON");
    }

    private BsonValue convert(Object value, String path, int depth) {
        if (value == null) {
            return BsonNull.VALUE;
        }
        if (value instanceof BsonValue bson) {
            return checked(bson, path, depth);
        }
        BsonValue plain = plain(value, path);
        if (plain != null) {
            return plain;
        }
        if (value instanceof Optional<?> optional) {
            return convert(optional.orElse(null), path, depth);
        }

        boolean isNesting = value instanceof Map || value instanceof Iterable || value instanceof Record
                || value.getClass().isArray();
        if (isNesting && depth >= MAX_DEPTH) {
            throw refused("it is nested deeper than 100 levels");
        }
        if (value instanceof Map<?, ?> map) {
            BsonDocument made = new BsonDocument();
            map.forEach((name, inner) -> {
                String text = fieldName(name, path);
                String at = inside(path, text);
                made.append(text, convert(inner, at, depth + 1));
            });
            return made;
        }
        if (value instanceof Iterable<?> items) {
            BsonArray made = new BsonArray();
            for (Object item : items) {
                made.add(convert(item, path + "[" + made.size() + "]", depth + 1));
            }
            return made;
        }
        if (value.getClass().isArray()) {
            BsonArray made = new BsonArray();
            for (int i = 0; i < Array.getLength(value); i++) {
                made.add(convert(Array.get(value, i), path + "[" + i + "]", depth + 1));
            }
            return made;
        }
        return value instanceof Record record ? components(record, path, depth) : encoded(value, path, depth);
    }

    /** Returns a value of Java's own and BSON's own types that hold no others, or null. */
    private static BsonValue plain(Object value, String path) {
        if (value instanceof CharSequence || value instanceof Character) {
            return text(value.toString(), path);
        } else if (value instanceof Boolean bool) {
            return BsonBoolean.valueOf(bool);
        } else if (value instanceof Integer || value instanceof Short || value instanceof Byte) {
            return new BsonInt32(((Number) value).intValue());
        } else if (value instanceof Long number) {
            return new BsonInt64(number);
        } else if (value instanceof Float) {
            // The shortest digits that name it, as a JSON encoder writes it.
            return finite(Double.parseDouble(value.toString()), path);
        } else if (value instanceof Double number) {
            return finite(number, path);
        } else if (value instanceof BigInteger number) {
            if (number.bitLength() > 63) {
                throw notJson(path, "a whole number beyond 64 bits");
            }
            return new BsonInt64(number.longValue());
        } else if (value instanceof BigDecimal number) {
            return decimal(number, path);
        } else if (value instanceof Decimal128 number) {
            return decimal(number, path);
        } else if (value instanceof ObjectId id) {
            return new BsonObjectId(id);
        } else if (value instanceof UUID uuid) {
            return new BsonBinary(uuid, UuidRepresentation.STANDARD);
        } else if (value instanceof byte[] bytes) {
            return new BsonBinary(bytes);
        } else if (value instanceof Binary binary) {
            return new BsonBinary(binary.getType(), binary.getData());
        } else if (value instanceof Enum<?> constant) {
            return new BsonString(constant.name());
        }
        return time(value, path);
    }

    private static BsonValue time(Object value, String path) {
        if (value instanceof Date date) {
            return date(date.getTime(), path);
        } else if (value instanceof Instant instant) {
            try {
                return date(instant.toEpochMilli(), path);
            } catch (ArithmeticException e) {
                throw notJson(path, "a date outside the years 0 to 9999");
            }
        } else if (value instanceof java.time.OffsetDateTime || value instanceof java.time.ZonedDateTime) {
            return new BsonString(DateTimeFormatter.ISO_OFFSET_DATE_TIME.format((Temporal) value));
        } else if (value instanceof java.time.LocalDateTime dateTime) {
            return new BsonString(DateTimeFormatter.ISO_LOCAL_DATE_TIME.format(dateTime));
        } else if (value instanceof Temporal || value instanceof java.time.temporal.TemporalAmount) {
            return new BsonString(value.toString());
        }
        return null;
    }

    /** Returns what the codec of the database writes. */
    private BsonValue encoded(Object value, String path, int depth) {
        BsonDocument made = new BsonDocument();
        try (BsonDocumentWriter writer = new BsonDocumentWriter(made)) {
            @SuppressWarnings("unchecked")
            Codec<Object> codec = (Codec<Object>) codecs.get(value.getClass());
            writer.writeStartDocument();
            writer.writeName("v");
            codec.encode(writer, value, EncoderContext.builder().build());
            writer.writeEndDocument();
        } catch (CodecConfigurationException | BsonInvalidOperationException e) {
            throw new OutboxException(Code.PAYLOAD, "invalid payload: " + path + " is of type " + value.getClass().getName()
                    + ", for which the database has no codec", e);
        }
        return checked(made.get("v"), path, depth);
    }

    private BsonDocument components(Record record, String path, int depth) {
        BsonDocument made = new BsonDocument();
        for (RecordComponent component : record.getClass().getRecordComponents()) {
            if (annotation(record, component, BsonIgnore.class) != null) {
                continue;
            }
            BsonProperty property = annotation(record, component, BsonProperty.class);
            String name = property == null || property.value().isEmpty() ? component.getName() : property.value();
            if (annotation(record, component, BsonId.class) != null) {
                name = "_id";
            }
            Object value;
            try {
                component.getAccessor().setAccessible(true); // of a record that is private or local
                value = component.getAccessor().invoke(record);
            } catch (ReflectiveOperationException | RuntimeException e) {
                throw new OutboxException(Code.PAYLOAD, "invalid payload: " + inside(path, name) + " can't be read", e);
            }
            made.append(name, convert(value, inside(path, name), depth + 1));
        }
        return made;
    }

    /** An annotation that has fields, methods or parameters as its targets is on one of these. */
    private static <A extends java.lang.annotation.Annotation> A annotation(
            Record record, RecordComponent component, Class<A> type) {
        A found = component.getAccessor().getAnnotation(type);
        if (found != null) {
            return found;
        }
        try {
            return record.getClass().getDeclaredField(component.getName()).getAnnotation(type);
        } catch (NoSuchFieldException e) {
            return null;
        }
    }

    /** Checks a value of BSON. */
    private BsonValue checked(BsonValue value, String path, int depth) {
        switch (value.getBsonType()) {
            case STRING:
                return text(value.asString().getValue(), path);
            case SYMBOL:
                text(((BsonSymbol) value).getSymbol(), path);
                return value;
            case DOUBLE:
                return finite(value.asDouble().getValue(), path);
            case DECIMAL128:
                return decimal(value.asDecimal128().getValue(), path);
            case DATE_TIME:
                return date(value.asDateTime().getValue(), path);
            case UNDEFINED:
                return BsonNull.VALUE;
            case DOCUMENT:
                if (depth >= MAX_DEPTH) {
                    throw refused("it is nested deeper than 100 levels");
                }
                BsonDocument made = new BsonDocument();
                value.asDocument().forEach((name, inner) -> {
                    String text = fieldName(name, path);
                    made.append(text, checked(inner, inside(path, text), depth + 1));
                });
                return made;
            case ARRAY:
                return convert(new java.util.ArrayList<Object>(value.asArray()), path, depth);
            case REGULAR_EXPRESSION:
                throw notJson(path, "of type regex");
            case TIMESTAMP:
                throw notJson(path, "of type timestamp");
            case JAVASCRIPT:
                throw notJson(path, "of type javascript");
            case JAVASCRIPT_WITH_SCOPE:
                throw notJson(path, "of type javascriptWithScope");
            case MIN_KEY:
                throw notJson(path, "of type minKey");
            case MAX_KEY:
                throw notJson(path, "of type maxKey");
            case DB_POINTER:
                throw notJson(path, "of type dbPointer");
            default:
                return value;
        }
    }

    private static BsonString text(String text, String path) {
        if (!Names.isWellFormed(text)) {
            throw refused(path + " has half of a surrogate pair; it has no plain form in JSON");
        }
        return new BsonString(text);
    }

    private static String fieldName(Object name, String path) {
        if (!(name instanceof String || name instanceof Enum || name instanceof Number || name instanceof UUID)) {
            String kind = name == null ? "null" : name.getClass().getName();
            throw notJson(path, "a map by " + kind);
        }
        String text = name instanceof Enum<?> constant ? constant.name() : name.toString();
        String at = inside(path, text);
        if (text.indexOf('\0') >= 0) {
            throw notJson(at, "named with a null character");
        }
        text(text, at);
        return text;
    }

    private static BsonDouble finite(double number, String path) {
        if (Double.isNaN(number) || Double.isInfinite(number)) {
            throw notJson(path, Double.toString(number));
        }
        return new BsonDouble(number);
    }

    private static BsonValue decimal(BigDecimal number, String path) {
        try {
            return new BsonDecimal128(new Decimal128(number));
        } catch (NumberFormatException e) {
            throw notJson(path, "a decimal of more than 34 digits");
        }
    }

    private static BsonValue decimal(Decimal128 number, String path) {
        if (number.isNaN() || number.isInfinite()) {
            throw notJson(path, "a decimal " + number);
        }
        return new BsonDecimal128(number);
    }

    private static BsonDateTime date(long millis, String path) {
        if (millis < EARLIEST || millis > LATEST) {
            throw notJson(path, "a date outside the years 0 to 9999");
        }
        return new BsonDateTime(millis);
    }

    private static String inside(String path, String name) {
        return PLAIN_NAME.matcher(name).matches()
                ? path + "." + name
                : path + "[" + quoted(name.substring(0, Math.min(64, name.length()))) + "]";
    }

    static String quoted(String text) {
        StringBuilder made = new StringBuilder("\"");
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') {
                made.append('\\').append(c);
            } else if (c < 0x20 || Character.isSurrogate(c)) {
                made.append(String.format("\\u%04x", (int) c));
            } else {
                made.append(c);
            }
        }
        return made.append('"').toString();
    }
}
