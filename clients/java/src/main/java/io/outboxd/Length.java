package io.outboxd;

import java.math.BigDecimal;
import java.math.MathContext;
import java.time.Instant;
import java.util.Map;
import org.bson.BsonDocument;
import org.bson.BsonSymbol;
import org.bson.BsonValue;

/** How many bytes a checked payload has as the relay publishes it. */
final class Length {
    private Length() {}

    static long published(BsonValue payload) {
        if (payload.isString()) {
            return Names.bytes(payload.asString().getValue());
        }
        return payload.isBinary() ? payload.asBinary().getData().length : json(payload);
    }

    private static long json(BsonValue value) {
        switch (value.getBsonType()) {
            case DOCUMENT:
                BsonDocument document = value.asDocument();
                long length = 2 + Math.max(0, document.size() - 1);
                for (Map.Entry<String, BsonValue> field : document.entrySet()) {
                    length += text(field.getKey()) + 1 + json(field.getValue());
                }
                return length;
            case ARRAY:
                return 2 + Math.max(0, value.asArray().size() - 1)
                        + value.asArray().stream().mapToLong(Length::json).sum();
            case STRING:
                return text(value.asString().getValue());
            case SYMBOL:
                return text(((BsonSymbol) value).getSymbol());
            case BOOLEAN:
                return value.asBoolean().getValue() ? 4 : 5;
            case INT32:
                return Integer.toString(value.asInt32().getValue()).length();
            case INT64:
                return Long.toString(value.asInt64().getValue()).length();
            case DOUBLE:
                return number(value.asDouble().getValue());
            case OBJECT_ID:
                return 26;
            case DATE_TIME:
                return date(value.asDateTime().getValue());
            case DECIMAL128:
                return 2 + value.asDecimal128().getValue().toString().length();
            case BINARY:
                int bytes = value.asBinary().getData().length;
                return Names.isUuid(value.asBinary()) ? 38 : 2 + (bytes + 2) / 3 * 4;
            default:
                return 4; // null
        }
    }

    private static long text(String text) {
        long length = 2 + Names.bytes(text);
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t') {
                length += 1;
            } else if (c < 0x20) {
                length += 5;
            }
        }
        return length;
    }

    private static int date(long millis) {
        int fraction = (int) Math.floorMod(millis, 1000L);
        int digits = fraction == 0 ? 0 : fraction % 100 == 0 ? 2 : fraction % 10 == 0 ? 3 : 4;
        return 2 + Instant.ofEpochSecond(Math.floorDiv(millis, 1000L)).toString().length() + digits;
    }

    /** The length of a double as `JSON.stringify` writes it. */
    private static int number(double number) {
        if (number == 0) {
            return 1; // minus zero, too
        }
        // Before Java 19, toString may write one digit more than is needed.
        BigDecimal shortest = new BigDecimal(Double.toString(Math.abs(number))).stripTrailingZeros();
        BigDecimal shorter = shortest.round(new MathContext(Math.max(1, shortest.precision() - 1)));
        if (shorter.doubleValue() == Math.abs(number)) {
            shortest = shorter.stripTrailingZeros();
        }

        int sign = number < 0 ? 1 : 0;
        int digits = shortest.precision();
        int exponent = digits - shortest.scale() - 1;
        if (exponent >= 21 || exponent < -6) {
            int point = digits > 1 ? 1 : 0;
            return sign + digits + point + 2 + Integer.toString(Math.abs(exponent)).length();
        }
        return sign + shortest.toPlainString().length();
    }
}
