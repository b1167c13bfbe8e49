package outboxd_test

// What the conformance cases can't state: transactions, traces, Go's own types, the driver's errors.

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.opentelemetry.io/otel/trace"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/outbox"
)

type ticket struct {
	ID      string `bson:"_id" json:"id"`
	Version int    `bson:"version" json:"version"`
}

var ticketCreated = outbox.Subject[ticket]("ticket.created")

func TestOutbox(t *testing.T) {
	w, relay := start(t, "TICKETS_GO", "ticket.>")
	relay.Kill() // what is written stays
	t.Run("is refused outside a transaction", w.outsideTransaction)
	t.Run("leaves the record and the event, or neither", w.recordAndEvent)
	t.Run("takes many events in order, or none", w.manyEvents)
	t.Run("is retried after a conflict", w.conflicts)
	t.Run("puts the validator in words", w.validator)
	t.Run("carries the trace", w.traces)
	t.Run("takes UUIDs and named strings", w.names)
	t.Run("cancels a dead event, and reschedules none", w.deadScheduled)
	t.Run("inbox expires its ids", w.expiry)
	t.Run("inbox acts once for two at once", w.onceAtOnce)
	t.Run("replica without a transaction", w.bareReplica)
}

func (w *world) count(t *testing.T, collection string, filter bson.D) int64 {
	t.Helper()
	count, err := w.db.Collection(collection).CountDocuments(t.Context(), filter)
	check(t, err)
	return count
}

func (w *world) enqueue(ctx context.Context, event outbox.Event) (id any, err error) {
	err = w.transaction(ctx, func(ctx context.Context) error {
		id, err = outbox.New(w.db).Enqueue(ctx, event)
		return err
	})
	return id, err
}

func (w *world) outsideTransaction(t *testing.T) {
	out, in := outbox.New(w.db), inbox.New(w.db)
	event := ticketCreated.Event("t1", ticket{ID: "t1"})
	calls := func(ctx context.Context) []error {
		_, enqueued := out.Enqueue(ctx, event)
		_, many := out.EnqueueMany(ctx, event)
		_, none := out.EnqueueMany(ctx)
		_, scheduled := out.Schedule(ctx, event, time.Now())
		_, cancelled := out.Cancel(ctx, "x")
		_, moved := out.Reschedule(ctx, "x", time.Now())
		return []error{enqueued, many, none, scheduled, cancelled, moved}
	}
	session, err := w.client.StartSession()
	check(t, err)
	defer session.EndSession(t.Context())
	inSession := mongo.NewSessionContext(t.Context(), session)
	check(t, session.StartTransaction())
	_, err = w.db.Collection("tickets").InsertOne(inSession, bson.D{})
	check(t, err)
	check(t, session.CommitTransaction(inSession))

	for _, ctx := range []context.Context{t.Context(), inSession} {
		for i, err := range calls(ctx) {
			if !errors.Is(err, outbox.ErrNotInTransaction) || !strings.Contains(err.Error(), "outside a transaction") {
				t.Errorf("call %d: %v", i, err)
			}
		}
		_, err := in.Once(ctx, &inbox.Message{ID: "x"}, func(context.Context) error { return nil })
		if !errors.Is(err, inbox.ErrNotInTransaction) {
			t.Error(err)
		}
	}
	if w.count(t, "outbox", bson.D{{Key: "key", Value: "t1"}}) != 0 {
		t.Error("an event was written")
	}
}

func (w *world) recordAndEvent(t *testing.T) {
	failure := errors.New("no luck")
	for wanted, end := range []error{failure, nil} {
		err := w.transaction(t.Context(), func(ctx context.Context) error {
			if _, err := w.db.Collection("tickets").InsertOne(ctx, ticket{ID: "t2"}); err != nil {
				return err
			}
			if _, err := outbox.New(w.db).Enqueue(ctx, ticketCreated.Event("t2", ticket{ID: "t2"})); err != nil {
				return err
			}
			return end
		})
		if !errors.Is(err, end) {
			t.Fatal(err)
		}
		events, records := w.count(t, "outbox", bson.D{{Key: "key", Value: "t2"}}), w.count(t, "tickets", bson.D{{Key: "_id", Value: "t2"}})
		if events != int64(wanted) || records != int64(wanted) {
			t.Fatalf("%d events, %d records", events, records)
		}
	}
}

func (w *world) manyEvents(t *testing.T) {
	events := []outbox.Event{}
	for i := range 3 {
		events = append(events, ticketCreated.Event("m", ticket{Version: i}))
	}
	var ids []any
	check(t, w.transaction(t.Context(), func(ctx context.Context) (err error) {
		ids, err = outbox.New(w.db).EnqueueMany(ctx, events...)
		return err
	}))
	cursor, err := w.db.Collection("outbox").Find(t.Context(), bson.D{{Key: "key", Value: "m"}}, options.Find().SetSort(bson.D{{Key: "ts", Value: 1}}))
	check(t, err)
	var found []struct {
		ID any `bson:"_id"`
		TS bson.Timestamp
	}
	check(t, cursor.All(t.Context(), &found))
	for i, one := range found {
		if one.ID != ids[i] || one.TS.T == 0 {
			t.Fatal(found)
		}
	}
	if len(found) != 3 {
		t.Fatal(found)
	}

	bad := []outbox.Event{ticketCreated.Event("n", ticket{}), ticketCreated.Event("", ticket{})}
	err = w.transaction(t.Context(), func(ctx context.Context) error {
		_, err := outbox.New(w.db).EnqueueMany(ctx, bad...)
		return err
	})
	var refused *outbox.EventError
	if !errors.As(err, &refused) || refused.Code != outbox.CodeKey || !strings.HasPrefix(err.Error(), "event 1: invalid key: it is empty") {
		t.Fatal(err)
	}
	if w.count(t, "outbox", bson.D{{Key: "key", Value: "n"}}) != 0 {
		t.Fatal("an event was written")
	}
}

func (w *world) conflicts(t *testing.T) {
	_, err := w.db.Collection("tickets").InsertOne(t.Context(), ticket{ID: "c"})
	check(t, err)
	var writers sync.WaitGroup
	failures := make([]error, 10)
	for i := range failures {
		writers.Go(func() {
			failures[i] = w.transaction(t.Context(), func(ctx context.Context) error {
				raise := bson.D{{Key: "$inc", Value: bson.D{{Key: "version", Value: 1}}}}
				if _, err := w.db.Collection("tickets").UpdateByID(ctx, "c", raise); err != nil {
					return err
				}
				_, err := outbox.New(w.db).Enqueue(ctx, ticketCreated.Event("c", ticket{ID: "c"}))
				return err
			})
		})
	}
	writers.Wait()
	check(t, errors.Join(failures...))
	if count := w.count(t, "outbox", bson.D{{Key: "key", Value: "c"}}); count != 10 {
		t.Fatal(count)
	}
}

func (w *world) validator(t *testing.T) {
	rule := `{ "$expr": { "$cond": [{ "$ne": ["$key", "odd"] }, true, { "$not": ["The key is odd."] }] } }`
	schema := `{ "$jsonSchema": { "required": ["shop"], "properties": { "key": { "bsonType": "string", "maxLength": 3,
		"description": "at most 3 letters" } } } }`
	validator := func(text string) (made bson.D) {
		check(t, bson.UnmarshalExtJSON([]byte(text), false, &made))
		return made
	}
	both := validator(`{ "$and": [` + schema + `, ` + rule + `] }`)
	check(t, w.db.CreateCollection(t.Context(), "strict", options.CreateCollection().SetValidator(both)))

	strict := outbox.New(w.db, outbox.Collection("strict"))
	write := func(key string) error {
		return w.transaction(t.Context(), func(ctx context.Context) error {
			_, err := strict.Enqueue(ctx, ticketCreated.Event(key, ticket{}))
			return err
		})
	}
	many := w.transaction(t.Context(), func(ctx context.Context) error {
		_, err := strict.EnqueueMany(ctx, ticketCreated.Event("a", ticket{}), ticketCreated.Event("long", ticket{}))
		return err
	})
	for _, err := range []error{write("long"), many} {
		var refused *outbox.ValidatorError
		var ofDriver mongo.ServerError
		if !errors.As(err, &refused) || !errors.As(err, &ofDriver) || !strings.Contains(err.Error(), "shop is missing") {
			t.Errorf("%v", err)
		}
	}

	check(t, w.db.RunCommand(t.Context(), bson.D{{Key: "collMod", Value: "strict"}, {Key: "validator", Value: validator(rule)}}).Err())
	if err := write("odd"); err == nil || !strings.Contains(err.Error(), "The key is odd.") {
		t.Error(err)
	}

	event := outbox.Event{Subject: "ticket.a", Payload: bson.D{}, ID: "twice"}
	_, first := w.enqueue(t.Context(), event)
	_, second := w.enqueue(t.Context(), event)
	if check(t, first); !mongo.IsDuplicateKeyError(second) {
		t.Error(second)
	}
}

func (w *world) traces(t *testing.T) {
	state, err := trace.ParseTraceState("vendor=1")
	check(t, err)
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0x4b, 15: 0x36}, SpanID: trace.SpanID{1, 7: 0xb7}, TraceFlags: trace.FlagsSampled, TraceState: state})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	full := map[string]string{}
	for i := range 64 {
		full[fmt.Sprintf("h%d", i)] = "v"
	}
	parent := "00-4b000000000000000000000000000036-01000000000000b7-01"
	for _, one := range []struct{ given, wanted map[string]string }{
		{nil, map[string]string{"traceparent": parent, "tracestate": "vendor=1"}},
		{map[string]string{"a": "b"}, map[string]string{"a": "b", "traceparent": parent, "tracestate": "vendor=1"}},
		{map[string]string{"Traceparent": "mine"}, map[string]string{"Traceparent": "mine"}},
		{full, full},
	} {
		id, err := w.enqueue(ctx, outbox.Event{Subject: "ticket.traced", Payload: bson.D{}, Headers: one.given})
		check(t, err)
		var stored struct{ Headers map[string]string }
		check(t, w.db.Collection("outbox").FindOne(t.Context(), bson.D{{Key: "_id", Value: id}}).Decode(&stored))
		if fmt.Sprint(stored.Headers) != fmt.Sprint(one.wanted) {
			t.Errorf("%v, and not %v", stored.Headers, one.wanted)
		}
	}
}

// uuid is like the UUID of the usual libraries.
type uuid [16]byte

func (u uuid) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}

type orderID string

func (w *world) names(t *testing.T) {
	id := uuid{0, 0x11, 15: 0xff}
	for _, key := range []any{id, orderID("00110000-0000-0000-0000-0000000000ff")} {
		made, err := w.enqueue(t.Context(), outbox.Event{Subject: "ticket.named", Key: key, ID: key, Payload: map[string]any{"id": key}})
		check(t, err)
		var stored struct {
			Key     string
			Payload struct{ ID string }
		}
		check(t, w.db.Collection("outbox").FindOne(t.Context(), bson.D{{Key: "_id", Value: made}}).Decode(&stored))
		if wanted := "00110000-0000-0000-0000-0000000000ff"; stored.Key != wanted || stored.Payload.ID != wanted {
			t.Errorf("%v", stored)
		}
	}

	type cents struct{ N chan int }
	circle := map[string]any{}
	circle["again"] = circle
	for words, payload := range map[string]any{
		"payload.v[1].price is NaN":          map[string]any{"v": []any{1, map[string]any{"price": math.NaN()}}},
		"payload.v.N is of type chan int":    map[string]any{"v": cents{make(chan int)}},
		"payload.v is a whole number beyond": map[string]any{"v": uint64(1 << 63)},
		"nested deeper than 100 levels":      circle,
		"payload.v is text that is not UTF8": map[string]any{"v": "\xff"},
		"outside the years 0 to 9999":        map[string]any{"v": time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		_, err := w.enqueue(t.Context(), outbox.Event{Subject: "ticket.named", Payload: payload})
		var refused *outbox.EventError
		if !errors.As(err, &refused) || refused.Code != outbox.CodePayload || !strings.Contains(strings.ReplaceAll(err.Error(), "UTF-8", "UTF8"), words) {
			t.Errorf("%v, and not %q", err, words)
		}
	}
}

func (w *world) deadScheduled(t *testing.T) {
	dead := bson.D{{Key: "_id", Value: "dead"}, {Key: "ts", Value: bson.Timestamp{}}, {Key: "subject", Value: "ticket.a"},
		{Key: "payload", Value: bson.D{}}, {Key: "isLocked", Value: false}, {Key: "failures", Value: bson.A{}},
		{Key: "deadAt", Value: time.Now()}, {Key: "deliverAt", Value: time.Now()}}
	_, err := w.db.Collection("outbox_scheduled").InsertOne(t.Context(), dead, options.InsertOne().SetBypassDocumentValidation(true))
	check(t, err)
	check(t, w.transaction(t.Context(), func(ctx context.Context) error {
		moved, err := outbox.New(w.db).Reschedule(ctx, "dead", time.Now())
		check(t, err)
		cancelled, err := outbox.New(w.db).Cancel(ctx, "dead")
		if moved || !cancelled {
			t.Error(moved, cancelled)
		}
		return err
	}))
}

func (w *world) expiry(t *testing.T) {
	expiry := func(ttl time.Duration) int32 {
		check(t, inbox.New(w.db, inbox.Collection("expiring"), inbox.TTL(ttl)).Create(t.Context()))
		specs, err := w.db.Collection("expiring").Indexes().ListSpecifications(t.Context())
		check(t, err)
		for _, spec := range specs {
			if spec.Name == "outboxd_expiry" {
				return *spec.ExpireAfterSeconds
			}
		}
		return -1
	}
	for _, ttl := range []time.Duration{inbox.DefaultTTL, time.Hour, time.Hour} {
		if seconds := expiry(ttl); seconds != int32(ttl.Seconds()) {
			t.Errorf("%d s", seconds)
		}
	}
	if err := inbox.New(w.db, inbox.TTL(time.Minute)).Create(t.Context()); !errors.Is(err, inbox.ErrShortTTL) {
		t.Error(err)
	}
}

func (w *world) onceAtOnce(t *testing.T) {
	in := inbox.New(w.db)
	check(t, in.Create(t.Context()))
	check(t, w.db.CreateCollection(t.Context(), "shipments"))
	var consumers sync.WaitGroup
	failures := make([]error, 3)
	for i := range failures {
		consumers.Go(func() {
			failures[i] = in.Run(t.Context(), &inbox.Message{Group: "g", ID: "m1"}, func(ctx context.Context) error {
				_, err := w.db.Collection("shipments").InsertOne(ctx, bson.D{})
				return err
			})
		})
	}
	consumers.Wait()
	check(t, errors.Join(failures...))
	if count := w.count(t, "shipments", bson.D{}); count != 1 {
		t.Fatal(count)
	}

	var never *inbox.UnprocessableError
	if err := in.Run(t.Context(), &inbox.Message{Group: "g"}, nil); !errors.As(err, &never) || !strings.Contains(err.Error(), "no Nats-Msg-Id") {
		t.Fatal(err)
	}
}

func (w *world) bareReplica(t *testing.T) {
	replica := inbox.NewReplica(w.db.Collection("copies"))
	var consumers sync.WaitGroup
	failures := make([]error, 5)
	for i := range failures {
		consumers.Go(func() { failures[i] = replica.Apply(t.Context(), ticket{ID: "r"}) })
	}
	consumers.Wait()
	check(t, errors.Join(failures...))
	if count := w.count(t, "copies", bson.D{}); count != 1 {
		t.Fatal(count)
	}

	for _, record := range []any{bson.M{"id": "r"}, bson.M{"id": "r", "version": 1.5}, bson.M{"id": "", "version": 1}, bson.M{"version": 1}, nil, 7} {
		var never *inbox.UnprocessableError
		if err := replica.Apply(t.Context(), record); !errors.As(err, &never) {
			t.Errorf("%v: %v", record, err)
		}
	}
}
