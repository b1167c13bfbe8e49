package io.outboxd.listener;

import com.mongodb.MongoException;
import com.mongodb.MongoNodeIsRecoveringException;
import com.mongodb.MongoNotPrimaryException;
import com.mongodb.MongoSocketException;
import com.mongodb.MongoTimeoutException;
import java.util.Set;

/** Tells errors that say nothing about the message: MongoDB is away, or another transaction is in the way. */
final class Outages {
    /** Not primary, recovering, shutting down, and failures of the network that the server reports. */
    private static final Set<Integer> AWAY =
            Set.of(6, 7, 89, 91, 134, 189, 262, 317, 358, 9001, 10058, 10107, 11600, 11602, 13435, 13436);

    private static final Set<String> LABELS = Set.of(
            MongoException.TRANSIENT_TRANSACTION_ERROR_LABEL,
            MongoException.UNKNOWN_TRANSACTION_COMMIT_RESULT_LABEL,
            "RetryableWriteError");

    private Outages() {}

    static boolean isOutage(Throwable error) {
        for (Throwable one = error; one != null; one = one.getCause()) {
            boolean isAway = one instanceof MongoSocketException || one instanceof MongoTimeoutException
                    || one instanceof MongoNotPrimaryException || one instanceof MongoNodeIsRecoveringException;
            if (isAway || one instanceof MongoException known
                    && (AWAY.contains(known.getCode()) || LABELS.stream().anyMatch(known::hasErrorLabel))) {
                return true;
            }
        }
        return false;
    }
}
