//! What `demo up` prints: where everything is, and ten commands to paste.

use std::fmt::Write as _;
use std::path::Path;

use crate::stage::{EXPIRES_AFTER, SERVICES, Stage};

/// Where the services, the servers and the logs are.
pub(crate) fn places(stage: &Stage) -> String {
    let mut text = String::new();
    for service in SERVICES {
        let url = stage.urls.get(service).map_or("", String::as_str);
        let database = stage.servers.database_name(service);
        let _ = writeln!(text, "{service:<11}{url} (database {database})");
    }

    let servers = &stage.servers;
    let _ = writeln!(text, "MongoDB    {}", servers.mongodb_uri);
    let _ = writeln!(text, "NATS       {} (stream {})", servers.nats_url, servers.stream);
    let _ = writeln!(text, "logs       {}", stage.logs.display());
    text
}

/// The tour. `demo` is this program.
pub(crate) fn commands(stage: &Stage, demo: &Path) -> String {
    let url = |service: &str| stage.urls.get(service).map_or("", String::as_str);
    let [auth, tickets, orders, payments] = ["auth", "tickets", "orders", "payments"].map(url);
    let outboxd = demo.with_file_name("outboxd");
    let (demo, outboxd) = (demo.display(), outboxd.display());
    let servers = &stage.servers;
    let (nats, stream, uri) = (&servers.nats_url, &servers.stream, servers.uri("tickets"));
    let json = "-H 'Content-Type: application/json' -d";

    format!(
        r#"
# A tour, to paste line by line; `wait` gives the services the moment in which they hear of each other
jar() {{ curl -s -b target/demo-up/cookies -c target/demo-up/cookies "$@"; echo; }}; id() {{ sed 's/.*"id":"\([^"]*\)".*/\1/'; }}; wait() {{ sleep 1; }}
stats() {{ MONGODB_URI='{uri}' NATS_URL={nats} NATS_CLUSTER_ID={stream} {outboxd} stats; }}

# 1. Sign up. The cookie is your session
jar {auth}/api/users/signup {json} '{{"email": "ann@example.com", "password": "correct horse"}}'
# 2. Who am I?
jar {auth}/api/users/currentuser
# 3. Offer a ticket
TICKET=$(jar {tickets}/api/tickets {json} '{{"title": "Concert", "price": 15}}' | id); echo $TICKET
# 4. Order it: from now on it is reserved
wait; ORDER=$(jar {orders}/api/orders {json} "{{\"ticketId\": \"$TICKET\"}}" | id); echo $ORDER
# 5. Edit the reserved ticket: refused
wait; jar -X PUT {tickets}/api/tickets/$TICKET {json} '{{"title": "Concert", "price": 99}}'
# 6. Pay, twice: it is one charge
wait; for n in 1 2; do jar {payments}/api/payments {json} "{{\"orderId\": \"$ORDER\", \"token\": \"tok_visa\"}}"; done
# 7. The order is complete
wait; jar {orders}/api/orders/$ORDER
# 8. Order another ticket, don't pay, and see the order expire after {EXPIRES_AFTER}
TICKET=$(jar {tickets}/api/tickets {json} '{{"title": "Film", "price": 5}}' | id); wait; ORDER=$(jar {orders}/api/orders {json} "{{\"ticketId\": \"$TICKET\"}}" | id); sleep {wait_for_it}; jar {orders}/api/orders/$ORDER
# 9. Kill a relay (-9) and offer a ticket: the event waits in the outbox
{demo} kill outboxd-tickets; jar {tickets}/api/tickets {json} '{{"title": "Opera", "price": 50}}'; stats
# 10. Start the relay again: once the dead one's lease is over, the event is published
{demo} start outboxd-tickets; sleep 6; stats

# More: put load on it, kill what you like meanwhile, and end it
{demo} load --seconds 20
make demo-down
"#,
        wait_for_it = EXPIRES_AFTER.trim_end_matches('s').parse::<u64>().unwrap_or(20) + 2,
    )
}
