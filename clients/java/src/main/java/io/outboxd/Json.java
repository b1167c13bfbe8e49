package io.outboxd;

import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import org.bson.BsonArray;
import org.bson.BsonBoolean;
import org.bson.BsonDocument;
import org.bson.BsonDouble;
import org.bson.BsonInt32;
import org.bson.BsonInt64;
import org.bson.BsonNull;
import org.bson.BsonString;
import org.bson.BsonValue;

/**
 * Reads JSON (RFC 8259) as BSON. The driver's own reader takes fields such as {@code $ref} and {@code $oid} as its
 * Extended JSON, which a payload is not.
 */
final class Json {
    /** Deepest nesting: that of a payload, and as much again for other writers. */
    private static final int MAX_DEPTH = 200;

    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Returns the value, or throws an IllegalArgumentException that names the place. */
    static BsonValue parse(byte[] bytes) {
        Json json;
        try {
            json = new Json(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString());
        } catch (CharacterCodingException e) {
            throw new IllegalArgumentException("it is not UTF-8", e);
        }
        BsonValue value = json.value(0);
        json.skipSpace();
        if (json.at < json.text.length()) {
            throw json.unexpected();
        }
        return value;
    }

    private IllegalArgumentException unexpected() {
        String found = at < text.length() ? "`" + text.charAt(at) + "`" : "an end";
        return new IllegalArgumentException("it is no JSON: " + found + " at character " + at);
    }

    private void skipSpace() {
        while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) {
            at++;
        }
    }

    private boolean takes(char wanted) {
        skipSpace();
        if (at < text.length() && text.charAt(at) == wanted) {
            at++;
            return true;
        }
        return false;
    }

    private void demand(char wanted) {
        if (!takes(wanted)) {
            throw unexpected();
        }
    }

    private BsonValue value(int depth) {
        if (depth > MAX_DEPTH) {
            throw new IllegalArgumentException("it is nested deeper than " + MAX_DEPTH + " levels");
        }
        if (takes('{')) {
            return document(depth);
        }
        if (takes('[')) {
            return array(depth);
        }
        if (takes('"')) {
            return new BsonString(string());
        }
        for (String word : new String[] {"true", "false", "null"}) {
            if (text.startsWith(word, at)) {
                at += word.length();
                return word.equals("null") ? BsonNull.VALUE : BsonBoolean.valueOf(word.equals("true"));
            }
        }
        return number();
    }

    private BsonDocument document(int depth) {
        BsonDocument made = new BsonDocument();
        if (takes('}')) {
            return made;
        }
        do {
            demand('"');
            String name = string();
            demand(':');
            made.append(name, value(depth + 1));
        } while (takes(','));
        demand('}');
        return made;
    }

    private BsonArray array(int depth) {
        BsonArray made = new BsonArray();
        if (takes(']')) {
            return made;
        }
        do {
            made.add(value(depth + 1));
        } while (takes(','));
        demand(']');
        return made;
    }

    /** Reads the rest of a string, whose first quote was taken. */
    private String string() {
        StringBuilder made = new StringBuilder();
        for (;;) {
            if (at >= text.length() || text.charAt(at) < 0x20) {
                throw unexpected();
            }
            char c = text.charAt(at++);
            if (c == '"') {
                return made.toString();
            }
            made.append(c == '\\' ? escaped() : c);
        }
    }

    private char escaped() {
        if (at >= text.length()) {
            throw unexpected();
        }
        int plain = "\"\\/bfnrt".indexOf(text.charAt(at));
        if (plain >= 0) {
            at++;
            return "\"\\/\b\f\n\r\t".charAt(plain);
        }
        if (text.charAt(at) != 'u' || at + 5 > text.length()) {
            throw unexpected();
        }
        int code = 0;
        for (int i = 1; i <= 4; i++) {
            int digit = Character.digit(text.charAt(at + i), 16);
            if (digit < 0 || text.charAt(at + i) > 'f') {
                throw unexpected();
            }
            code = code * 16 + digit;
        }
        at += 5;
        return (char) code;
    }

    private BsonValue number() {
        int start = at;
        boolean isNegative = at < text.length() && text.charAt(at) == '-';
        if (isNegative) {
            at++;
        }
        int first = at;
        digits();
        if (text.charAt(first) == '0' && at > first + 1) {
            throw unexpected();
        }

        boolean isWhole = true;
        if (at < text.length() && text.charAt(at) == '.') {
            at++;
            digits();
            isWhole = false;
        }
        if (at < text.length() && (text.charAt(at) == 'e' || text.charAt(at) == 'E')) {
            at++;
            if (at < text.length() && (text.charAt(at) == '+' || text.charAt(at) == '-')) {
                at++;
            }
            digits();
            isWhole = false;
        }

        String number = text.substring(start, at);
        if (isWhole) {
            try {
                long value = Long.parseLong(number);
                return value == (int) value ? new BsonInt32((int) value) : new BsonInt64(value);
            } catch (NumberFormatException e) {
                return new BsonDouble(Double.parseDouble(number)); // beyond 64 bits
            }
        }
        return new BsonDouble(Double.parseDouble(number));
    }

    private void digits() {
        int start = at;
        while (at < text.length() && text.charAt(at) >= '0' && text.charAt(at) <= '9') {
            at++;
        }
        if (at == start) {
            throw unexpected();
        }
    }
}
