package io.outboxd;

import java.util.Objects;

/**
 * A subject together with the type of its payloads. A writer makes events of it, and a listener handles them.
 *
 * <pre>{@code
 * static final Subject<Order> ORDER_PLACED = Subject.of("order.placed", Order.class);
 * }</pre>
 *
 * @param name the subject
 * @param type the class of the payloads
 * @param <T> the type of the payloads
 */
public record Subject<T>(String name, Class<T> type) {
    /**
     * Checks that nothing is null.
     *
     * @param name the subject
     * @param type the class of the payloads
     */
    public Subject {
        Objects.requireNonNull(name, "name");
        Objects.requireNonNull(type, "type");
    }

    /**
     * Returns a subject.
     *
     * @param name the subject
     * @param type the class of the payloads
     * @param <T> the type of the payloads
     * @return the subject
     */
    public static <T> Subject<T> of(String name, Class<T> type) {
        return new Subject<>(name, type);
    }

    /**
     * Returns an event of this subject, without order.
     *
     * @param payload what consumers get
     * @return the event
     */
    public Event event(T payload) {
        return Event.of(name, payload);
    }

    /**
     * Returns an event of this subject.
     *
     * @param key the id of the record that the event is about, as in {@link Event#withKey}
     * @param payload what consumers get
     * @return the event
     */
    public Event event(Object key, T payload) {
        return Event.of(name, payload).withKey(key);
    }
}
