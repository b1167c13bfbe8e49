package io.outboxd;

/**
 * The answer of a handler that can't apply a message yet, because an earlier one is missing. The transaction rolls back,
 * and the message is asked for again after a delay.
 */
public final class LaterException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** An earlier message is missing. */
    public LaterException() {
        super("an earlier message is missing");
    }
}
