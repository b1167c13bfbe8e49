/** Servers for a service's own tests: a mongod, a nats-server and the relay between them. */
package io.outboxd.testing;
