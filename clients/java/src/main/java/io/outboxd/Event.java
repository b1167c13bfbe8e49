package io.outboxd;

import java.util.LinkedHashMap;
import java.util.Map;

/** What a service hands to its outbox. Immutable. */
public final class Event {
    private final String subject;
    private final Object payload;
    private final Object key;
    private final boolean hasKey;
    private final Object id;
    private final boolean hasId;
    private final Map<String, String> headers;

    private Event(
            String subject, Object payload, Object key, boolean hasKey, Object id, boolean hasId,
            Map<String, String> headers) {
        this.subject = subject;
        this.payload = payload;
        this.key = key;
        this.hasKey = hasKey;
        this.id = id;
        this.hasId = hasId;
        this.headers = headers;
    }

    /**
     * Returns an event without order.
     *
     * <p>A payload that is a {@code String}, a {@code byte[]} or a {@code Binary} goes out byte for byte. Anything else
     * goes out as JSON: a record, a {@code Map}, a {@code Document}, a list or an array, or an object for which the
     * database has a codec. In it, an {@code ObjectId} and a {@code UUID} go out as text, a {@code Date} and an {@code
     * Instant} as RFC 3339 with milliseconds, another time as ISO 8601, a {@code BigDecimal} as text.
     *
     * @param subject where the event is published: tokens of printable ASCII, joined by dots
     * @param payload what consumers get
     * @return the event
     */
    public static Event of(String subject, Object payload) {
        return new Event(subject, payload, null, false, null, false, Map.of());
    }

    /**
     * Returns the event with a key. Events of one key are published in order.
     *
     * @param key the id of the record that the event is about: a string, an {@code ObjectId} or a {@code UUID}
     * @return the event
     */
    public Event withKey(Object key) {
        return new Event(subject, payload, key, true, id, hasId, headers);
    }

    /**
     * Returns the event with an id of its own instead of a new {@code ObjectId}.
     *
     * @param id an {@code ObjectId}, a {@code UUID} or a string of printable ASCII; it names one event, for ever
     * @return the event
     */
    public Event withId(Object id) {
        return new Event(subject, payload, key, hasKey, id, true, headers);
    }

    /**
     * Returns the event with one more NATS header.
     *
     * @param name the name
     * @param value the value; a header that is null is left out
     * @return the event
     */
    public Event withHeader(String name, String value) {
        Map<String, String> more = new LinkedHashMap<>(headers);
        more.put(name, value);
        return new Event(subject, payload, key, hasKey, id, hasId, more);
    }

    String subject() {
        return subject;
    }

    Object payload() {
        return payload;
    }

    Object key() {
        return key;
    }

    boolean hasKey() {
        return hasKey;
    }

    Object id() {
        return id;
    }

    boolean hasId() {
        return hasId;
    }

    Map<String, String> headers() {
        return headers;
    }
}
