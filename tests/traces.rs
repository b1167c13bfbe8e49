//! One trace goes from the request that wrote an event over the relay to whoever consumes it.

use std::time::Duration;

use bson::doc;
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceState};
use opentelemetry::{Context, SpanId, TraceFlags, TraceId};
use outboxd_client::Event;
use serde_json::json;

use crate::support::otlp::Collector;
use crate::support::{NatsServer, Relay, Scene, Ticketing, outboxd_with, token, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
const PRODUCER: i32 = 4;

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

#[tokio::test]
async fn one_trace_goes_from_a_request_in_tickets_over_the_relay_to_the_listener_in_orders() {
    let (nats, collector) = (NatsServer::taking("*").await, Collector::start().await);
    let env = collector.env();
    let tickets = Ticketing::start_with("tickets", &nats, &env).await;
    let orders = tickets.beside_with("orders", &env).await;
    let _relay = Relay::leading(&tickets.scene, &env).await;
    let authorization = format!("Bearer {}", token("ann", 600));
    let traced = traceparent("01");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", authorization.as_str()),
        ("traceparent", &traced),
    ];
    let made = tickets
        .raw("/api/tickets", &headers, &json!({ "title": "Concert", "price": 5 }).to_string())
        .await;
    assert_eq!(made.status, 201, "{made:?}");

    let span = |service: &'static str, name: String| {
        let collector = &collector;
        async move {
            let what = format!("{service}'s span {name:?}");
            until(&what, async || collector.span(service, TRACE, &name)).await
        }
    };
    let request = span("tickets", "POST /api/tickets".to_owned()).await;
    let published = span("outboxd", format!("publish {}", tickets.scene.stream)).await;
    let consumed = span("orders", "process ticket:created".to_owned()).await;
    assert_eq!(request.parent, CALLER, "{request:?}");
    assert_eq!(published.parent, request.id, "{published:?}");
    assert_eq!(consumed.parent, request.id, "the consumer has what the writer wrote: {consumed:?}");

    assert_eq!((published.kind, published.status), (PRODUCER, 0), "{published:?}");
    assert_eq!(
        published.attribute("messaging.destination.name").as_deref(),
        Some("ticket:created")
    );
    assert_eq!(published.attribute("messaging.system").as_deref(), Some("nats"));
    let event = published.attribute("messaging.message.id").unwrap();
    let sent = tickets.scene.messages().await;
    assert!(sent[0].headers["Nats-Msg-Id"].ends_with(&format!(".outbox.{event}")), "{sent:?}");
    assert_eq!(sent[0].headers["traceparent"], format!("00-{TRACE}-{}-01", request.id));
    drop(orders);
}

#[tokio::test]
async fn what_isnt_sampled_isnt_exported_and_what_no_trace_began_begins_one() {
    let (scene, collector) = (Scene::new().await, Collector::start().await);
    let _relay = Relay::leading(&scene, &collector.env()).await;
    let quiet = scene.event("quiet", 1).header("traceparent", &traceparent("00")).unwrap();
    let odd = scene.event("odd", 1).header("Traceparent", "not a trace").unwrap();
    scene.commit([quiet, odd, scene.event("new", 1)]).await;
    scene.drained().await;

    let began = until("the span of the event without a trace", async || {
        let spans = collector.spans();
        (spans.len() == 2).then_some(spans)
    })
    .await;
    let messages = scene.messages().await;
    let carried = |key: &str| {
        let message = messages.iter().find(|message| message.payload.contains(key)).unwrap();
        let header =
            message.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("traceparent"));
        header.map(|(_, value)| value.clone())
    };
    assert_eq!(carried("quiet").as_deref(), Some(traceparent("00").as_str()));
    assert_eq!(
        carried("odd").as_deref(),
        Some("not a trace"),
        "a header goes out as it was written"
    );
    let carried = carried("new").unwrap();
    assert!(
        began.iter().any(|span| carried == format!("00-{}-{}-01", span.trace, span.id)),
        "{carried} {began:?}"
    );
    assert!(began.iter().all(|span| span.parent.is_empty() && span.trace != TRACE), "{began:?}");
}

#[tokio::test]
async fn a_refused_publish_is_an_error_in_its_trace() {
    let (scene, collector) = (Scene::new().await, Collector::start().await);
    let _relay = Relay::leading(&scene, &collector.env()).await;
    scene.cover(&["made"]).await;
    let event = Event::new(scene.subject("elsewhere"), &doc! { "n": 1 }).unwrap();
    scene.commit([event.header("traceparent", &traceparent("01")).unwrap()]).await;
    let name = format!("publish {}", scene.stream);
    let span =
        until("the span of the refusal", async || collector.span("outboxd", TRACE, &name)).await;
    assert_eq!((span.status, span.parent.as_str()), (2, CALLER), "{span:?}");
    assert_eq!(span.attribute("error.type").as_deref(), Some("not-covered"));
    assert_eq!(span.attribute("outboxd.attempts").as_deref(), Some("0"));
    assert!(span.took < Duration::from_secs(30), "{span:?}");
}

#[tokio::test]
async fn a_collector_that_never_answers_holds_nothing_up() {
    let scene = Scene::new().await;
    // Accepts, and says nothing.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", deaf.local_addr().unwrap());
    let env =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
    let relay = Relay::leading(&scene, &env).await;
    // More than wait in the exporter's queue.
    for batch in 0..5 {
        scene.commit((0..1000).map(|n| scene.event(&format!("{batch}-{n}"), 1))).await;
    }
    scene.drained().await;
    assert_eq!(relay.stop(), Some(0));
    assert_eq!(scene.messages().await.len(), 5000);
}

#[tokio::test]
async fn a_protocol_that_isnt_spoken_is_refused_at_start() {
    let scene = Scene::new().await;
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ];
    let (code, said) = outboxd_with(&scene, &["run"], &env);
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL: \"grpc\" is not supported"), "{said}");
}

#[tokio::test]
async fn enqueue_writes_the_current_span_unless_the_event_brings_its_own() {
    let scene = Scene::new().await;
    let (trace, span) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex(CALLER).unwrap());
    let state = TraceState::from_key_value([("vendor", "1")]).unwrap();
    let current = SpanContext::new(trace, span, TraceFlags::SAMPLED, false, state);
    let own = scene.event("own", 1).header("TraceParent", "mine").unwrap();
    let mut session = scene.transaction().await;
    {
        let events = [scene.event("captured", 1), own];
        let context = Context::new().with_remote_span_context(current);
        let enqueued = opentelemetry::trace::FutureExt::with_context(
            scene.outbox.enqueue_many(&mut session, events),
            context,
        );
        enqueued.await.unwrap();
    }
    scene.outbox.enqueue(&mut session, scene.event("none", 1)).await.unwrap();
    session.commit_transaction().await.unwrap();
    let headers = async |key: &str| {
        scene.one(doc! { "key": key }).await.unwrap().get_document("headers").cloned()
    };
    let expected = doc! { "traceparent": traceparent("01"), "tracestate": "vendor=1" };
    assert_eq!(headers("captured").await.unwrap(), expected);
    assert_eq!(headers("own").await.unwrap(), doc! { "TraceParent": "mine" });
    assert!(headers("none").await.is_err(), "no trace, no header");
}
