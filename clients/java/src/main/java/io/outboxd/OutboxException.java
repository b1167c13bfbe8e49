package io.outboxd;

/**
 * The outbox refused an event, or was called outside a transaction. Nothing was written. The exception has none of the
 * driver's labels, so {@code withTransaction} aborts and does not run its body again.
 */
public final class OutboxException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** What was wrong: the part of the event, or how the outbox was called. */
    public enum Code {
        /** No transaction was under way. */
        TRANSACTION,
        /** The subject can't be published to. */
        SUBJECT,
        /** The key is no name of a record. */
        KEY,
        /** The id is no name of an event. */
        ID,
        /** A header can't be sent. */
        HEADER,
        /** The payload has a value that JSON lacks. */
        PAYLOAD,
        /** The payload is over the limit. */
        TOO_LONG,
        /** The time of delivery is out of range. */
        DELIVER_AT,
        /** The validator of the collection refused the event. */
        VALIDATOR
    }

    /** What was wrong. */
    private final Code code;

    OutboxException(Code code, String message) {
        this(code, message, null);
    }

    OutboxException(Code code, String message, Throwable cause) {
        super(message, cause);
        this.code = code;
    }

    /**
     * Returns what was wrong.
     *
     * @return the part of the event, or the call
     */
    public Code code() {
        return code;
    }
}
