package io.outboxd.listener;

import java.time.Duration;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Says once that a listener is to stop, and ends its pauses then. */
final class Stop {
    private final CountDownLatch stopped = new CountDownLatch(1);
    /** The message in work did not end in time. */
    volatile boolean isOverdue;

    void stop() {
        stopped.countDown();
    }

    boolean isStopped() {
        return stopped.getCount() == 0;
    }

    /** Waits, but no longer than until the stop. */
    void pause(Duration time) throws InterruptedException {
        stopped.await(time.toMillis(), TimeUnit.MILLISECONDS);
    }
}
