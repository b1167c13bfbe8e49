//! What `demo up` prints: where everything is, and ten commands to paste.

use std::fmt::Write as _;
use std::path::Path;

use crate::cast::SERVICES;
use crate::stage::Stage;

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

/// The tour. `demo` is this program. A second's sleep is for what one service hears of another.
pub(crate) fn commands(stage: &Stage, demo: &Path) -> String {
    let url = |service: &str| stage.urls.get(service).map_or("", String::as_str);
    let [auth, tickets, orders, payments] = ["auth", "tickets", "orders", "payments"].map(url);
    let servers = &stage.servers;
    let stats = format!(
        "MONGODB_URI='{}' NATS_URL={} NATS_CLUSTER_ID={} {} stats",
        servers.uri("tickets"),
        servers.nats_url,
        servers.stream,
        demo.with_file_name("outboxd").display()
    );
    let (demo, relay) = (demo.display(), stage.relays.relay_of("tickets"));

    let curl = "curl -sw '\\n' -b target/demo-up/cookies";
    let json = "-H 'Content-Type: application/json' -d";
    let offer = |title: &str| {
        format!("{curl} {tickets}/api/tickets {json} '{{\"title\": \"{title}\", \"price\": 15}}'")
    };
    let order = format!("{curl} {orders}/api/orders {json} '{{\"ticketId\": \"'$TICKET'\"}}'");
    let pay = format!(
        "{curl} {payments}/api/payments {json} '{{\"orderId\": \"'$ORDER'\", \"token\": \"tok_visa\"}}'"
    );
    let id = "grep -o '\"id\":\"[0-9a-f]*' | cut -c 7-";
    let (expiry, waited) = (stage.expires_after, stage.expires_after + 3);
    let (concert, film, opera) = (offer("Concert"), offer("Film"), offer("Opera"));

    format!(
        r#"
# A tour: paste the commands one after the other, in the project's root.

# 1. Sign up. Your session is the cookie
curl -sw '\n' -c target/demo-up/cookies {auth}/api/users/signup {json} '{{"email": "ann@example.com", "password": "correct horse"}}'
# 2. Who am I?
{curl} {auth}/api/users/currentuser
# 3. Offer a ticket
TICKET=$({concert} | {id}); echo $TICKET
# 4. Order it: it is reserved now
sleep 1; ORDER=$({order} | {id}); echo $ORDER
# 5. Edit the reserved ticket: refused
sleep 1; {curl} -X PUT {tickets}/api/tickets/$TICKET {json} '{{"title": "Concert", "price": 99}}'
# 6. Pay, twice: it is one charge
{pay}; {pay}
# 7. The order is complete
sleep 1; {curl} {orders}/api/orders/$ORDER
# 8. Order another ticket, don't pay, and see the order expire after {expiry}s
TICKET=$({film} | {id}); sleep 1; ORDER=$({order} | {id}); sleep {waited}; {curl} {orders}/api/orders/$ORDER
# 9. Kill (-9) the relay of tickets, and offer a ticket: its event waits in the outbox
{demo} kill {relay}; {opera}; {stats}
# 10. Start the relay again: once the lease of the dead one is over, it publishes the event
{demo} start {relay}; sleep 6; {stats}

# Put load on everything, and kill what you like meanwhile; then end it.
{demo} load --seconds 20
make demo-down
"#
    )
}
