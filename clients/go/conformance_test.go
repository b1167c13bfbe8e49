// The cases that every client passes, against a real MongoDB, relay and NATS.
package outboxd_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/outboxd/outboxd/clients/go/outbox"
	"github.com/outboxd/outboxd/clients/go/outboxdtest"
)

const stream = "CONFORMANCE_GO"

// expanded writes out the macros of a case.
func expanded(value any) any {
	switch value := value.(type) {
	case bson.A:
		for i, item := range value {
			value[i] = expanded(item)
		}
	case bson.D:
		for i, element := range value {
			parts, _ := element.Value.(bson.A)
			switch element.Key {
			case "$repeat":
				return strings.Repeat(parts[0].(string), int(parts[1].(int32)))
			case "$concat":
				var all string
				for _, part := range parts {
					all += expanded(part).(string)
				}
				return all
			case "$nest":
				inner := bson.D{}
				for range element.Value.(int32) - 1 {
					inner = bson.D{{Key: "a", Value: inner}}
				}
				return inner
			}
			value[i].Value = expanded(element.Value)
		}
	}
	return value
}

func get(document bson.D, name string) any {
	for _, element := range document {
		if element.Key == name {
			return element.Value
		}
	}
	return nil
}

func has(document bson.D, name string) bool {
	return slices.ContainsFunc(document, func(e bson.E) bool { return e.Key == name })
}

func cases(t *testing.T, name string) []bson.D {
	t.Helper()
	folder := os.Getenv("OUTBOXD_CONFORMANCE")
	if folder == "" {
		folder = filepath.Join("..", "conformance")
	}
	text, err := os.ReadFile(filepath.Join(folder, name+".json"))
	check(t, err)
	var file bson.D
	check(t, bson.UnmarshalExtJSON(text, false, &file))
	var all []bson.D
	for _, one := range get(file, "cases").(bson.A) {
		all = append(all, expanded(one).(bson.D))
	}
	return all
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type world struct {
	servers *outboxdtest.Servers
	client  *mongo.Client
	db      *mongo.Database
}

func start(t *testing.T, name string, subjects ...string) (*world, *outboxdtest.Relay) {
	t.Helper()
	servers := outboxdtest.Start(t)
	relay, err := servers.Relay(strings.ToLower(name), name, subjects)
	check(t, err)
	client, err := mongo.Connect(options.Client().ApplyURI(relay.MongoDBURI))
	check(t, err)
	t.Cleanup(func() { _ = client.Disconnect(context.Background()) })
	return &world{servers, client, client.Database(strings.ToLower(name))}, relay
}

func (w *world) transaction(ctx context.Context, work func(context.Context) error) error {
	session, err := w.client.StartSession()
	if err != nil {
		return err
	}
	defer session.EndSession(ctx)
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) { return nil, work(ctx) })
	return err
}

// eventOf returns the event of a case, or false if Go's types can't express it.
func eventOf(event bson.D) (outbox.Event, bool) {
	made := outbox.Event{Payload: get(event, "payload"), Key: get(event, "key"), ID: get(event, "id")}
	made.Subject, _ = get(event, "subject").(string)
	for _, name := range []string{"key", "id"} {
		if has(event, name) && get(event, name) == nil {
			return made, false
		}
	}
	headers, _ := get(event, "headers").(bson.D)
	made.Headers = map[string]string{}
	for _, header := range headers {
		value, isText := header.Value.(string)
		if !isText {
			return made, false
		}
		made.Headers[header.Key] = value
	}
	return made, true
}

// comparable is a document whose headers have no order.
func comparable(t *testing.T, document bson.D) string {
	t.Helper()
	var rest bson.D
	headers := map[string]any{}
	for _, element := range document {
		switch element.Key {
		case "_id", "id", "ts":
		case "headers":
			for _, header := range element.Value.(bson.D) {
				headers[header.Key] = header.Value
			}
		default:
			rest = append(rest, element)
		}
	}
	text, err := bson.MarshalExtJSON(rest, true, false)
	check(t, err)
	return string(text) + fmt.Sprint(headers)
}

func messageIDOf(id any) string {
	switch id := id.(type) {
	case bson.ObjectID:
		return id.Hex()
	case bson.Binary:
		return fmt.Sprintf("%x-%x-%x-%x-%x", id.Data[:4], id.Data[4:6], id.Data[6:8], id.Data[8:10], id.Data[10:])
	}
	return id.(string)
}

func TestConformance(t *testing.T) {
	w, _ := start(t, stream, "case", "case.>", "listened.>")
	t.Run("events", w.events)
	t.Run("scheduled", w.scheduled)
	t.Run("replicas", w.replicas)
	t.Run("inboxes", w.inboxes)
	t.Run("listeners", w.listeners)
}

func (w *world) events(t *testing.T) {
	sent := map[string]bson.D{}
	out := outbox.New(w.db)
	for _, file := range []string{"subjects", "keys", "headers", "payloads"} {
		for _, one := range cases(t, file) {
			t.Run(file+"/"+get(one, "name").(string), func(t *testing.T) {
				given := get(one, "event").(bson.D)
				event, ok := eventOf(given)
				if !ok && get(one, "dynamic") == true {
					t.Skip("Go's types can't express it")
				} else if !ok {
					t.Fatal("a case that this runner can't read")
				}
				var id any
				var stored bson.D
				err := w.transaction(t.Context(), func(ctx context.Context) (err error) {
					if id, err = out.Enqueue(ctx, event); err != nil {
						return err
					}
					// Read in the transaction: afterwards the relay may have taken it.
					return w.db.Collection("outbox").FindOne(ctx, bson.D{{Key: "_id", Value: id}}).Decode(&stored)
				})

				if refused, ok := get(one, "refused").(string); ok {
					var reason *outbox.EventError
					if !errors.As(err, &reason) || !strings.Contains(reason.Reason, refused) {
						t.Fatalf("%v, and not %q", err, refused)
					}
					return
				}
				check(t, err)
				wanted, ok := get(one, "document").(bson.D)
				if !ok {
					for _, name := range []string{"subject", "key", "payload", "headers"} {
						if has(given, name) {
							wanted = append(wanted, bson.E{Key: name, Value: get(given, name)})
						}
					}
					wanted = append(wanted, bson.E{Key: "isLocked", Value: true}, bson.E{Key: "failures", Value: bson.A{}})
				}
				if is, should := comparable(t, stored), comparable(t, wanted); is != should {
					t.Fatalf("%.300s, and not %.300s", is, should)
				}
				name, ok := get(one, "messageId").(string)
				if !ok {
					name = messageIDOf(id)
				}
				sent[w.db.Name()+".outbox."+name] = one
			})
		}
	}
	if len(sent) < 80 {
		t.Fatalf("%d cases are to be published", len(sent))
	}
	w.published(t, sent)
}

func (w *world) published(t *testing.T, sent map[string]bson.D) {
	conn, err := nats.Connect(w.servers.NATSURL)
	check(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	check(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), stream, jetstream.OrderedConsumerConfig{})
	check(t, err)

	for waiting := maps.Clone(sent); len(waiting) > 0; {
		message, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
		if err != nil {
			t.Fatalf("%v; not published: %v", err, slices.Collect(maps.Keys(waiting)))
		}
		id := message.Headers().Get("Nats-Msg-Id")
		one, ok := waiting[id]
		if !ok {
			continue
		}
		delete(waiting, id)

		wanted, _ := get(one, "message").(string)
		if encoded, ok := get(one, "messageBase64").(string); ok {
			data, err := base64.StdEncoding.DecodeString(encoded)
			check(t, err)
			wanted = string(data)
		}
		if string(message.Data()) != wanted {
			t.Errorf("%v: %.200q, and not %.200q", get(one, "name"), message.Data(), wanted)
		}
		event, _ := eventOf(get(one, "event").(bson.D))
		if message.Subject() != event.Subject {
			t.Errorf("%v: subject %s", get(one, "name"), message.Subject())
		}
		for name, value := range event.Headers {
			if message.Headers()[name][0] != value {
				t.Errorf("%v: header %s", get(one, "name"), name)
			}
		}
	}
}

func (w *world) scheduled(t *testing.T) {
	out := outbox.New(w.db, outbox.Collection("timetable"))
	for _, one := range cases(t, "scheduled") {
		t.Run(get(one, "name").(string), func(t *testing.T) {
			at := get(one, "deliverAt").(bson.DateTime)
			var id any
			err := w.transaction(t.Context(), func(ctx context.Context) (err error) {
				id, err = out.Schedule(ctx, outbox.Event{Subject: "case.a", Payload: bson.D{}}, at.Time())
				return err
			})
			if refused, ok := get(one, "refused").(string); ok {
				if err == nil || !strings.Contains(err.Error(), refused) {
					t.Fatal(err)
				}
				return
			}
			check(t, err)
			var stored bson.D
			check(t, w.db.Collection("timetable_scheduled").FindOne(t.Context(), bson.D{{Key: "_id", Value: id}}).Decode(&stored))
			var names []string
			for _, element := range stored {
				names = append(names, element.Key)
			}
			if get(stored, "deliverAt") != at || fmt.Sprint(names) != "[_id ts subject payload isLocked failures deliverAt]" {
				t.Fatal(stored)
			}

			var answers []bool
			check(t, w.transaction(t.Context(), func(ctx context.Context) error {
				moved, err := out.Reschedule(ctx, id, time.UnixMilli(1))
				if err != nil {
					return err
				}
				first, err := out.Cancel(ctx, id)
				if err != nil {
					return err
				}
				second, err := out.Cancel(ctx, id)
				answers = []bool{moved, first, second}
				return err
			}))
			if !reflect.DeepEqual(answers, []bool{true, true, false}) {
				t.Fatal(answers)
			}
		})
	}
}

func text(t *testing.T, value any) string {
	t.Helper()
	made, err := bson.MarshalExtJSON(bson.D{{Key: "v", Value: value}}, false, false)
	check(t, err)
	return string(made)
}

func all(t *testing.T, from *mongo.Collection) []bson.D {
	t.Helper()
	cursor, err := from.Find(t.Context(), bson.D{}, options.Find().SetSort(bson.D{{Key: "_id", Value: 1}}))
	check(t, err)
	documents := []bson.D{}
	check(t, cursor.All(t.Context(), &documents))
	return documents
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(180 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so in 180 s: %s", what)
		}
	}
}
