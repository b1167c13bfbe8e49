//! Integration tests, against a real mongod and a real nats-server, with `outboxd` as its own
//! process.
//!
//! Run by `make test`, which starts the servers. Each test has a database, users and a stream of
//! its own.

mod actions; // an operator acts on exactly what was shown, and learns what came of it
mod admin; // what the relay tells over HTTP
mod alerts; // a person is told once per event and state
mod auth; // the auth service: accounts, sessions, and what a stranger doesn't learn
mod bounds; // memory and ticks, whatever piles up
mod bursts; // the order of events that leave together
mod check; // each planted problem is found, with what mends it, and without a secret
mod checker; // what the fault tests judge by finds each kind of fault, and only that
mod clocks;
mod codes; // the wall clock jumps, of a relay or of its server, and nothing stops for it
mod config; // every mistake at once, secrets masked, the shipped file is complete
mod conformance; // the library passes the cases that every client passes
mod console; // people see what the command line shows, act on exactly that, and no document harms them
mod consumers; // the library: what consumes is handled once, in order, or put aside with its reason
mod crashes; // killed at every named point, the relay loses and reorders nothing
mod creation; // the stream is created, or refused with the line by which it can be
mod deaf; // a relay that no reply reaches sends nothing, and goes on once replies arrive
mod docs; // links lead somewhere, commands are taken, what the pages name exists
mod domains; // of two streams on a subject only the expected one, in its domain, answers
mod duplicates; // what the stream acks as a duplicate is in it, or is published under another id
mod enqueue; // the library: in the caller's transaction and only there
mod expiration; // the expiration service: an order's end is scheduled, and taken back
mod failures; // a failed publish is marked, retried, and nothing passes it
mod faults; // killed, paused and cut off, relays and servers lose and reorder nothing
mod fleet; // several outboxes in one daemon: each has what a daemon of its own would give it
mod foreign; // what anybody wrote is looked at within bounds, and printed so that it harms nobody
mod forged; // a neighbour on NATS that answers publishes deletes and kills nothing
mod foundation; // what lies under the outbox is found, and refused where events would be lost
mod hostile; // any client can write anything: it is dead with a reason or sent as it is, and harms nothing else
mod kept; // what the stream has lost of what it acked comes back, from the events that are kept
mod layers; // imports go down only, and no two files import each other
mod layout; // an outbox that was there before: its documents, as they are
mod lease; // of two relays one publishes; the other takes over
mod listening; // TLS first, a load balancer, another port, silence: each is told from the others
mod logs; // who reads the log or the alerts, or doesn't, holds up nothing; a secret is the same from every source
mod migrations; // twice, at once, edited
mod monitoring; // rules and dashboard ask for metrics that a relay exports, and name verbs that exist
mod names; // what cannot be resolved, reached or used: the relay waits, or goes on with what it has
mod operator; // what an operator sees and does
mod orders; // the orders service: its requests, its copy of the tickets, and each status of an order
mod outages; // the broker stops answering under load: nothing is lost, counted or reordered, and memory stays flat
mod payments; // the payments service: an order is paid once, and no money is lost
mod pins; // facts about the servers that the design stands on
mod posts; // alerts gather by group, and reach each service in its form
mod privileges; // each verb needs what `outboxd privileges` prints, and may do nothing else
mod protocol; // every history of two relays and a lease, within bounds
mod refusals; // one subject's or message's refusal is not a full stream
mod relay; // a committed event is published once, in order, and deleted
mod requests; // an operator's request ends with its command, and the audit has what came of it
mod rewound; // a stream that has lost what it acked is seen by whichever relay comes next
mod scheduled; // an event for later is delivered once, when it is due, unless it was cancelled
mod shares; // a key with a large backlog has its share of the buffer, and the others leave
mod signals; // SIGHUP reloads, others stop or mean nothing; a log that was renamed is left behind
mod support;
mod sweeps; // a sweep ends, however large the backlog, and dead events cost nothing
mod tickets; // the tickets service: its requests, and what an order does to a ticket
mod tidy; // the rules of the house that a tool can check
mod tls; // over TLS with every kind of credentials, never without, and on with secrets that were rotated
mod traces; // one trace from the writer over the relay to the consumer
mod transactions; // of an event that its transaction touched, what was committed is published, whoever finds it
mod verbs; // what holds for every verb: help, no server, a wrong password, a reader that has gone
mod words; // what people read when a library fails is words, not the library's own form
mod writers; // services in other languages: their programs write, the relay publishes, they read it
