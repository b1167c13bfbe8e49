package io.outboxd;

/**
 * The answer of a handler that can never apply a message. The listener puts the message aside at once, with the reason.
 */
public final class UnprocessableException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /**
     * The message can never be applied.
     *
     * @param reason why
     */
    public UnprocessableException(String reason) {
        super(reason);
    }

    /**
     * The message can never be applied.
     *
     * @param reason why
     * @param cause what showed it
     */
    public UnprocessableException(String reason, Throwable cause) {
        super(reason, cause);
    }
}
