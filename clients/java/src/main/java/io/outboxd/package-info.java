/**
 * Writes events in the MongoDB transaction that saves the record they are about, and handles each message once at the
 * other end. The relay outboxd publishes the events to NATS JetStream.
 *
 * <p>{@link io.outboxd.Outbox} is the writer's half; {@link io.outboxd.Inbox}, {@link io.outboxd.Replica} and {@code
 * io.outboxd.listener} are the consumer's.
 */
package io.outboxd;
