package io.outboxd.listener;

import com.mongodb.client.ClientSession;
import io.outboxd.Message;

/**
 * Applies the messages of a subject.
 *
 * @param <T> the type of the payloads
 */
@FunctionalInterface
public interface Handler<T> {
    /**
     * Applies a message in a transaction. It may be called more than once; what an earlier call wrote is rolled back.
     *
     * @param session the session of the transaction; pass it to every write
     * @param message the message
     * @param payload its payload
     * @throws io.outboxd.LaterException if an earlier message is missing
     * @throws io.outboxd.UnprocessableException if the message can never be applied
     * @throws Exception if it failed, and is to be delivered again
     */
    void handle(ClientSession session, Message message, T payload) throws Exception;
}
