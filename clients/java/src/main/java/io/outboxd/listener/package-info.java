/** Applies the messages of a stream, in order and once. Needs {@code io.nats:jnats}. */
package io.outboxd.listener;
