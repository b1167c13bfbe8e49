package outboxd_test

// The listener under faults: a lost consumer, a broken connection, long work, a stop.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.opentelemetry.io/otel/trace"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/listener"
)

const workStream = "WORK_GO"

type listenerWorld struct {
	*world
	uri  string
	conn *nats.Conn
	js   jetstream.JetStream
}

func TestListener(t *testing.T) {
	started, relay := start(t, workStream, "work.>")
	conn, err := nats.Connect(started.servers.NATSURL)
	check(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	check(t, err)
	w := &listenerWorld{started, relay.MongoDBURI, conn, js}
	t.Run("makes its consumer again, and survives a cut connection", w.losses)
	t.Run("leaves a server that is about to stop", w.lameDuck)
	t.Run("connects again after refused credentials", w.credentials)
	t.Run("keeps a message while MongoDB has no primary", w.outage)
	t.Run("keeps long work in hand", w.longWork)
	t.Run("ends its work before it stops", w.stop)
	t.Run("drops work that does not end in time", w.drain)
	t.Run("keeps the order behind a message that fails", w.order)
	t.Run("continues the trace, and gives headers and the id", w.trace)
	t.Run("is refused what can't work", w.refusals)
	t.Run("writes its consumer only if a setting differs", w.settings)
	t.Run("takes subjects with wildcards, and puts unreadable payloads aside", w.wildcards)
}

func (w *listenerWorld) losses(t *testing.T) {
	p := w.proxy(t, nil)
	var got heard
	stop := w.listening(t, listener.Config{URL: "nats://" + p.Addr().String(), NATS: []nats.Option{nats.ReconnectWait(100 * time.Millisecond)},
		Group: "lost", AckWait: time.Second, Handlers: got.on("work.lost")})
	w.publish(t, "work.lost", "1", "lost-1")
	until(t, "1 is heard", func() bool { return got.has("1") })
	w.idle(t, "lost")
	check(t, w.js.DeleteConsumer(t.Context(), workStream, "lost"))
	w.publish(t, "work.lost", "2", "lost-2")
	until(t, "2 is heard, and 1 is not heard again", func() bool { return got.has("1", "2") })

	for _, client := range p.all() { // as a network that breaks
		_ = client.Close()
	}
	w.publish(t, "work.lost", "3", "lost-3")
	until(t, "3 is heard", func() bool { return got.has("1", "2", "3") })
	w.idle(t, "lost")
	check(t, stop())
}

func (w *listenerWorld) lameDuck(t *testing.T) {
	p := w.proxy(t, nil)
	var got heard
	stop := w.listening(t, listener.Config{URL: "nats://" + p.Addr().String(), Group: "lame", AckWait: time.Second, Handlers: got.on("work.lame")})
	w.publish(t, "work.lame", "1", "lame-1")
	w.idle(t, "lame")

	// A server says so in an INFO of its own accord; here the proxy says it.
	server, err := url.Parse(w.servers.NATSURL)
	check(t, err)
	info, err := json.Marshal(map[string]any{"server_id": "other", "version": "2.15.1", "proto": 1, "headers": true, "jetstream": true,
		"max_payload": 1 << 20, "ldm": true, "connect_urls": []string{p.Addr().String(), server.Host}})
	check(t, err)
	for _, client := range p.all() {
		_, err := fmt.Fprintf(client, "INFO %s\r\n", info)
		check(t, err)
	}
	until(t, "it has left", func() bool { return p.left.Load() > 0 })
	w.publish(t, "work.lame", "2", "lame-2")
	until(t, "both are heard", func() bool { return got.has("1", "2") })
	check(t, stop())
}

func (w *listenerWorld) credentials(t *testing.T) {
	var refused atomic.Int32
	p := w.proxy(t, func(client net.Conn) bool {
		if refused.Add(1) > 4 {
			return false
		}
		fmt.Fprintf(client, "INFO {\"server_id\":\"s\",\"version\":\"2.15.1\",\"proto\":1,\"headers\":true,\"max_payload\":1048576,\"auth_required\":true}\r\n")
		if _, err := bufio.NewReader(client).ReadString('\n'); err == nil {
			fmt.Fprintf(client, "-ERR 'Authorization Violation'\r\n")
		}
		return true
	})
	var got heard
	options := []nats.Option{nats.ReconnectWait(50 * time.Millisecond), nats.UserInfo("a", "b"), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}
	stop := w.listening(t, listener.Config{URL: "nats://" + p.Addr().String(), NATS: options, Group: "credentials", Handlers: got.on("work.credentials")})
	w.publish(t, "work.credentials", "1", "credentials-1")
	until(t, "it is heard", func() bool { return got.has("1") })
	check(t, stop())

	// A connection that its owner closes is the end.
	conn, err := nats.Connect(w.servers.NATSURL)
	check(t, err)
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		ended <- listener.Run(t.Context(), listener.Config{Conn: conn, Stream: workStream, Group: "credentials", Inbox: inbox.New(w.db),
			Handlers: got.on("work.credentials"), Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Ready: func() { close(ready) }})
	}()
	<-ready
	conn.Close()
	if err := <-ended; !errors.Is(err, nats.ErrConnectionClosed) {
		t.Fatal(err)
	}
}

func (w *listenerWorld) outage(t *testing.T) {
	// A driver that gives up soon, so that the listener hears of it.
	impatient, err := mongo.Connect(options.Client().ApplyURI(w.uri).SetServerSelectionTimeout(300 * time.Millisecond))
	check(t, err)
	defer impatient.Disconnect(context.Background()) //nolint:errcheck // nothing is left to lose
	db := impatient.Database(w.db.Name())
	check(t, db.CreateCollection(t.Context(), "outage"))

	var deliveries []int
	handle := func(ctx context.Context, m *inbox.Message) error {
		if len(deliveries) == 0 {
			step := bson.D{{Key: "replSetStepDown", Value: 5}, {Key: "force", Value: true}}
			_ = impatient.Database("admin").RunCommand(t.Context(), step).Err() // the connection may end with it
		}
		deliveries = append(deliveries, m.Deliveries)
		_, err := db.Collection("outage").InsertOne(ctx, bson.D{})
		return err
	}
	stop := w.listening(t, listener.Config{Group: "outage", Inbox: inbox.New(db), MaxDeliveries: 1,
		Handlers: []listener.Handler{listener.OnMessage("work.outage", handle)}})
	w.publish(t, "work.outage", "1", "outage")
	w.idle(t, "outage")
	check(t, stop())
	if len(deliveries) < 2 || slices.Max(deliveries) > 1 {
		t.Fatal(deliveries)
	}
	until(t, "there is a primary", func() bool { return w.client.Ping(t.Context(), nil) == nil })
	if effects, failed := w.count(t, "outage", bson.D{}), w.count(t, "inbox_failed", bson.D{}); effects != 1 || failed != 0 {
		t.Fatal(effects, failed)
	}
}

func (w *listenerWorld) longWork(t *testing.T) {
	var runs atomic.Int32
	handlers := []listener.Handler{listener.OnMessage("work.long", func(context.Context, *inbox.Message) error {
		runs.Add(1)
		time.Sleep(2500 * time.Millisecond)
		return nil
	})}
	w.publish(t, "work.long", "1", "long")
	var stops []func() error
	for range 2 {
		stops = append(stops, w.listening(t, listener.Config{Group: "long", AckWait: time.Second, Handlers: handlers}))
	}
	w.idle(t, "long")
	for _, stop := range stops {
		check(t, stop())
	}
	if runs.Load() != 1 {
		t.Fatal(runs.Load())
	}
}

func (w *listenerWorld) stop(t *testing.T) {
	begun := make(chan struct{})
	var ended atomic.Bool
	w.publish(t, "work.stop", "1", "stop")
	stop := w.listening(t, listener.Config{Group: "stop", Handlers: []listener.Handler{
		listener.OnMessage("work.stop", func(context.Context, *inbox.Message) error {
			close(begun)
			time.Sleep(500 * time.Millisecond)
			ended.Store(true)
			return nil
		}),
	}})
	<-begun
	check(t, stop())
	consumer, err := w.js.Consumer(t.Context(), workStream, "stop")
	check(t, err)
	if info := consumer.CachedInfo(); !ended.Load() || info.NumAckPending != 0 {
		t.Fatal(info.NumAckPending)
	}
}

func (w *listenerWorld) drain(t *testing.T) {
	begun := make(chan struct{}, 1)
	w.publish(t, "work.drain", "1", "drain")
	stop := w.listening(t, listener.Config{Group: "drain", Drain: 200 * time.Millisecond, Handlers: []listener.Handler{
		listener.OnMessage("work.drain", func(ctx context.Context, _ *inbox.Message) error {
			begun <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}),
	}})
	<-begun
	check(t, stop())
	if w.count(t, "inbox", bson.D{{Key: "_id.group", Value: "drain"}}) != 0 {
		t.Fatal("its id was kept")
	}

	var got heard
	stop = w.listening(t, listener.Config{Group: "drain", Handlers: got.on("work.drain")})
	until(t, "another instance hears it", func() bool { return got.has("1") })
	check(t, stop())
}

func (w *listenerWorld) order(t *testing.T) {
	wanted := []string{}
	for n := range 20 {
		wanted = append(wanted, fmt.Sprint(n))
		w.publish(t, "work.order", fmt.Sprint(n), fmt.Sprintf("order-%d", n))
	}
	var got heard
	var failures atomic.Int32
	handlers := []listener.Handler{listener.OnMessage("work.order", func(_ context.Context, m *inbox.Message) error {
		if string(m.Payload) == "5" && failures.Add(1) <= 2 {
			return errors.New("no luck")
		}
		got.add(m)
		return nil
	})}
	var stops []func() error
	for range 3 {
		stops = append(stops, w.listening(t, listener.Config{Group: "order", Handlers: handlers}))
	}
	until(t, "all are heard in order", func() bool { return got.has(wanted...) })
	for _, stop := range stops {
		check(t, stop())
	}
}

func (w *listenerWorld) trace(t *testing.T) {
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	message := nats.NewMsg("work.trace")
	message.Header.Set("traceparent", parent)
	message.Data = []byte("1")
	_, err := w.js.PublishMsg(t.Context(), message, jetstream.WithMsgID("traced"))
	check(t, err)
	type received struct{ id, header, span string }
	seen := make(chan received, 1)
	stop := w.listening(t, listener.Config{Group: "trace", Handlers: []listener.Handler{
		listener.OnMessage("work.trace", func(ctx context.Context, m *inbox.Message) error {
			seen <- received{m.ID, m.Header("Traceparent"), trace.SpanContextFromContext(ctx).TraceID().String()}
			return nil
		}),
	}})
	if got := <-seen; got != (received{"traced", parent, "4bf92f3577b34da6a3ce929d0e0e4736"}) {
		t.Fatal(got)
	}
	check(t, stop())
}

func (w *listenerWorld) refusals(t *testing.T) {
	_, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LONG_GO", Subjects: []string{"long"}, Duplicates: 2 * time.Hour,
		ConsumerLimits: jetstream.StreamConsumerLimits{MaxAckPending: 2}})
	check(t, err)
	var got heard
	handlers := got.on("work.none")
	short := inbox.New(w.db, inbox.Collection("short"), inbox.TTL(time.Hour))
	for words, config := range map[string]listener.Config{
		"needs Handlers":                 {Group: "x"},
		"needs Group":                    {Handlers: handlers},
		"negative":                       {Group: "x", Handlers: handlers, AckWait: -1},
		"kept for at least 3600 s":       {Group: "x", Handlers: handlers, Inbox: inbox.New(w.db, inbox.TTL(40*time.Minute))},
		"raise inbox.TTL":                {Group: "x", Handlers: got.on("long"), Stream: "LONG_GO", Inbox: short},
		"is a push consumer":             {Group: "push", Handlers: handlers},
		"a listener needs explicit acks": {Group: "none", Handlers: handlers},
		`"work..far" is no subject`:      {Group: "x", Handlers: got.on("work..far")},
		`">.a" is no subject`:            {Group: "x", Handlers: got.on(">.a")},
		`"a.b" names no stream or group`: {Group: "a.b", Handlers: handlers},
		`"a b" names no stream or group`: {Group: "x", Handlers: handlers, Stream: "a b"},
		"NATS refuses the consumer":      {Group: "x", Handlers: got.on("long"), Stream: "LONG_GO", MaxAckPending: 5},
	} {
		switch config.Group {
		case "push":
			_, err := w.js.CreatePushConsumer(t.Context(), workStream, jetstream.ConsumerConfig{Durable: "push", DeliverSubject: "somewhere"})
			check(t, err)
		case "none":
			_, err := w.js.CreateConsumer(t.Context(), workStream, jetstream.ConsumerConfig{Durable: "none", AckPolicy: jetstream.AckNonePolicy})
			check(t, err)
		}
		if err := w.listening(t, config)(); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v, and not %q", err, words)
		}
	}
}

func (w *listenerWorld) settings(t *testing.T) {
	_, err := w.js.CreateConsumer(t.Context(), workStream, jetstream.ConsumerConfig{
		Durable: "kept", Description: "ours", AckPolicy: jetstream.AckExplicitPolicy, DeliverPolicy: jetstream.DeliverNewPolicy,
		MaxAckPending: 7, BackOff: []time.Duration{time.Second}, MaxDeliver: 5})
	check(t, err)
	var writes atomic.Int32
	watch, err := w.conn.Subscribe("$JS.API.CONSUMER.>", func(m *nats.Msg) {
		if strings.Contains(m.Subject, ".CREATE.") {
			writes.Add(1)
		}
	})
	check(t, err)
	defer watch.Unsubscribe() //nolint:errcheck // the connection ends next

	var got heard
	started := func() jetstream.ConsumerConfig {
		check(t, w.listening(t, listener.Config{Group: "kept", Handlers: append(got.on("work.kept"), got.on("work.more")...)})())
		consumer, err := w.js.Consumer(t.Context(), workStream, "kept")
		check(t, err)
		check(t, w.conn.Flush())
		return consumer.CachedInfo().Config
	}
	first := started()
	if first.Description != "ours" || first.DeliverPolicy != jetstream.DeliverNewPolicy || first.MaxAckPending != 1 || first.MaxDeliver != -1 ||
		first.AckWait != 30*time.Second || len(first.BackOff) > 0 || fmt.Sprint(first.FilterSubjects) != "[work.kept work.more]" {
		t.Fatalf("%+v", first)
	}
	if second := started(); !reflect.DeepEqual(first, second) || writes.Load() != 1 {
		t.Fatalf("%d writes, %+v", writes.Load(), second)
	}
}

func (w *listenerWorld) wildcards(t *testing.T) {
	var first, rest heard
	w.publish(t, "work.wild.1", "a", "wild-1")
	w.publish(t, "work.wild.1.2", "b", "wild-2")
	w.publish(t, "work.odd", "no JSON", "odd")
	stop := w.listening(t, listener.Config{Group: "wild", Handlers: slices.Concat(first.on("work.wild.*"), rest.on("work.wild.>"), []listener.Handler{
		listener.On("work.odd", func(context.Context, *inbox.Message, ticket) error { return nil }),
	})})
	w.idle(t, "wild")
	check(t, stop())
	if !first.has("a") || !rest.has("b") {
		t.Fatal(first.all, rest.all)
	}
	var failed struct {
		Reason     string
		Deliveries int32
		Sequence   int64
		Headers    map[string]string
	}
	check(t, w.db.Collection("inbox_failed").FindOne(t.Context(), bson.D{{Key: "_id.id", Value: "odd"}}).Decode(&failed))
	if !strings.Contains(failed.Reason, "the payload can't be read") || failed.Deliveries != 1 || failed.Headers["Nats-Msg-Id"] != "odd" {
		t.Fatalf("%+v", failed)
	}
}
