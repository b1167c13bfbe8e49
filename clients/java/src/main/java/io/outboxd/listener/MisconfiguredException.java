package io.outboxd.listener;

/** A listener ended, because trying again can't help until a setting is changed. */
public final class MisconfiguredException extends RuntimeException {
    private static final long serialVersionUID = 1;

    MisconfiguredException(String message) {
        super(message);
    }

    MisconfiguredException(String message, Throwable cause) {
        super(message, cause);
    }
}
