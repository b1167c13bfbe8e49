package io.outboxd;

import io.outboxd.OutboxException.Code;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import org.bson.BsonBinary;
import org.bson.BsonBinarySubType;
import org.bson.BsonDocument;
import org.bson.BsonObjectId;
import org.bson.BsonString;
import org.bson.BsonValue;
import org.bson.UuidRepresentation;
import org.bson.types.Binary;
import org.bson.types.ObjectId;

/** Checks subjects, keys, ids and headers. */
final class Names {
    /** Longest subject, key and string id, in bytes. */
    private static final int MAX_BYTES = 255;

    private static final int MAX_HEADERS = 64;
    static final int MAX_HEADER_BYTES = 32 * 1024;
    private static final String TOKEN = "!#$%&'*+-.^_`|~";

    private Names() {}

    static BsonString subject(String subject) {
        String reason = null;
        if (subject == null) {
            reason = "it is null, not text";
        } else if (subject.isEmpty()) {
            reason = "it is empty";
        } else if (bytes(subject) > MAX_BYTES) {
            reason = "it is longer than 255 bytes";
        } else if (subject.indexOf('*') >= 0 || subject.indexOf('>') >= 0) {
            reason = "wildcards are for subscribers";
        } else if (!isGraphic(subject)) {
            reason = "only printable ASCII without spaces is allowed";
        } else if (("." + subject + ".").contains("..")) {
            reason = "it has an empty token";
        } else if (subject.charAt(0) == '$') {
            reason = "subjects that begin with `$` belong to the server";
        } else if (subject.equals("_INBOX") || subject.startsWith("_INBOX.")) {
            reason = "`_INBOX` belongs to replies";
        }
        if (reason != null) {
            throw new OutboxException(Code.SUBJECT, "invalid subject: " + reason);
        }
        return new BsonString(subject);
    }

    static BsonString key(Object key) {
        BsonValue name = name(key);
        String reason = null;
        if (key == null) {
            reason = "it is null; leave the key out for an event without order";
        } else if (name == null) {
            reason = "it is neither text, an ObjectId nor a UUID of subtype 4";
        }
        String text = name == null ? "" : text(name);
        if (reason == null && text.isEmpty()) {
            reason = "it is empty; leave the key out for an event without order";
        } else if (reason == null && !isWellFormed(text)) {
            reason = "it has half of a surrogate pair";
        } else if (reason == null && bytes(text) > MAX_BYTES) {
            reason = "it is longer than 255 bytes";
        }
        if (reason != null) {
            throw new OutboxException(Code.KEY, "invalid key: " + reason);
        }
        return new BsonString(text);
    }

    static BsonValue id(Object id) {
        BsonValue name = name(id);
        String reason = null;
        if (name == null) {
            reason = "it is neither an ObjectId, a UUID of subtype 4 nor text";
        } else if (name instanceof BsonString string) {
            String text = string.getValue();
            if (text.isEmpty() || bytes(text) > MAX_BYTES) {
                reason = "a string id has 1 to 255 bytes";
            } else if (!isGraphic(text)) {
                reason = "a string id is printable ASCII without spaces";
            }
        }
        if (reason != null) {
            throw new OutboxException(Code.ID, "invalid event id: " + reason);
        }
        return name;
    }

    /** Returns a key or id as a string, an ObjectId or a UUID, or null if it is none of them. */
    private static BsonValue name(Object value) {
        if (value instanceof String text) {
            return new BsonString(text);
        }
        if (value instanceof ObjectId id) {
            return new BsonObjectId(id);
        }
        if (value instanceof UUID uuid) {
            return new BsonBinary(uuid, UuidRepresentation.STANDARD);
        }
        if (value instanceof Binary binary) {
            return name(new BsonBinary(binary.getType(), binary.getData()));
        }
        if (value instanceof BsonString || value instanceof BsonObjectId) {
            return (BsonValue) value;
        }
        return value instanceof BsonBinary binary && isUuid(binary) ? binary : null;
    }

    static boolean isUuid(BsonBinary binary) {
        return binary.getType() == BsonBinarySubType.UUID_STANDARD.getValue() && binary.getData().length == 16;
    }

    private static String text(BsonValue name) {
        if (name instanceof BsonString string) {
            return string.getValue();
        }
        return name instanceof BsonObjectId id
                ? id.getValue().toHexString()
                : name.asBinary().asUuid(UuidRepresentation.STANDARD).toString();
    }

    /** Returns the headers of an event: those given, and the trace unless they name one or are too full for it. */
    static BsonDocument headers(Map<String, String> given, Map<String, String> trace) {
        BsonDocument made = new BsonDocument();
        given.forEach((name, value) -> {
            String reason = header(made, name, value);
            if (reason != null) {
                String shown = name == null ? "null" : Payloads.quoted(name.substring(0, Math.min(64, name.length())));
                throw new OutboxException(Code.HEADER, "invalid header " + shown + ": " + reason);
            }
            if (value != null) {
                made.append(name, new BsonString(value));
            }
        });
        if (made.keySet().stream().anyMatch("traceparent"::equalsIgnoreCase)) {
            return made;
        }

        for (Map.Entry<String, String> one : trace.entrySet()) {
            if (header(made, one.getKey(), one.getValue()) != null) {
                break;
            }
            made.append(one.getKey(), new BsonString(one.getValue()));
        }
        return made;
    }

    /** Returns what is wrong with one more header, or null. */
    private static String header(BsonDocument made, String name, String value) {
        if (name == null || name.isEmpty() || !name.chars().allMatch(Names::isToken)) {
            return "a name is letters, digits and " + TOKEN;
        }
        if (name.toLowerCase(Locale.ROOT).startsWith("nats-")) {
            return "names that begin with `Nats-` belong to the server";
        }
        if (value == null) {
            return null;
        }
        if (!isWellFormed(value)) {
            return "a value has half of a surrogate pair";
        }
        if (value.chars().anyMatch(c -> c < 0x20 || c >= 0x7f && c <= 0x9f)) {
            return "a value has no control characters or line breaks";
        }

        int length = name.length() + bytes(value);
        for (Map.Entry<String, BsonValue> taken : made.entrySet()) {
            if (taken.getKey().equalsIgnoreCase(name)) {
                return "it is there twice";
            }
            length += taken.getKey().length() + bytes(taken.getValue().asString().getValue());
        }
        if (made.size() >= MAX_HEADERS) {
            return "an event has at most 64 headers";
        }
        return length > MAX_HEADER_BYTES ? "all headers together are over 32 KiB" : null;
    }

    /** The `token` of RFC 9110. */
    private static boolean isToken(int c) {
        boolean isAlphanumeric = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9';
        return isAlphanumeric || TOKEN.indexOf(c) >= 0;
    }

    private static boolean isGraphic(String text) {
        return text.chars().allMatch(c -> c >= '!' && c <= '~');
    }

    /** False of text with half of a surrogate pair, which UTF-8 can't hold. */
    static boolean isWellFormed(String text) {
        return text.codePoints().noneMatch(c -> c >= Character.MIN_SURROGATE && c <= Character.MAX_SURROGATE);
    }

    static int bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8).length;
    }

    /** Returns what the validator of a collection demands, in its words. */
    static List<String> reasons(BsonDocument details) {
        List<String> reasons = new ArrayList<>();
        collect(details, 0, reasons);
        return reasons;
    }

    /** Walks `errInfo`, in which operators, properties and items nest in each other. */
    private static void collect(BsonValue value, int depth, List<String> reasons) {
        if (depth >= 20 || reasons.size() >= 5) {
            return;
        }
        if (value.isArray()) {
            value.asArray().forEach(item -> collect(item, depth + 1, reasons));
        }
        if (!value.isDocument()) {
            return;
        }

        BsonDocument detail = value.asDocument();
        String sentence = sentence(detail.get("specifiedAs"));
        if (sentence != null) {
            add(reasons, sentence);
        } else if (detail.isArray("missingProperties")) {
            detail.getArray("missingProperties").forEach(name -> add(reasons, name.asString().getValue() + " is missing"));
        } else if (detail.isString("propertyName") && detail.isString("description")) {
            add(reasons, detail.getString("propertyName").getValue() + ": " + detail.getString("description").getValue());
        } else {
            detail.values().forEach(inner -> collect(inner, depth + 1, reasons));
        }
    }

    private static void add(List<String> reasons, String reason) {
        if (!reasons.contains(reason)) {
            reasons.add(reason);
        }
    }

    /** Returns the words of a rule {@code {$expr: {$cond: [rule, true, {$not: [words]}]}}}, or null. */
    private static String sentence(BsonValue rule) {
        BsonValue cond = field(field(rule, "$expr"), "$cond");
        if (cond == null || !cond.isArray() || cond.asArray().isEmpty()) {
            return null;
        }
        BsonValue not = field(cond.asArray().get(cond.asArray().size() - 1), "$not");
        boolean hasWords = not != null && not.isArray() && !not.asArray().isEmpty() && not.asArray().get(0).isString();
        return hasWords ? not.asArray().get(0).asString().getValue() : null;
    }

    private static BsonValue field(BsonValue value, String name) {
        return value != null && value.isDocument() ? value.asDocument().get(name) : null;
    }
}
