// The cases that every client passes, against a real MongoDB, relay and NATS.
package outboxd_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/listener"
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

func (w *world) replicas(t *testing.T) {
	for i, one := range cases(t, "replicas") {
		t.Run(get(one, "name").(string), func(t *testing.T) {
			copies := w.db.Collection(fmt.Sprintf("replica%d", i))
			replica := inbox.NewReplica(copies)
			for _, message := range get(one, "messages").(bson.A) {
				message := message.(bson.D)
				record := get(message, "record").(bson.D)
				err := w.transaction(t.Context(), func(ctx context.Context) error {
					if get(message, "removed") == true {
						return replica.Remove(ctx, get(record, "id"), int64(get(record, "version").(int32)))
					}
					return replica.Apply(ctx, record)
				})
				verdict := "done"
				if errors.Is(err, inbox.ErrLater) {
					verdict = "later"
				} else {
					check(t, err)
				}
				if verdict != get(message, "verdict") {
					t.Fatalf("%s: %v", verdict, message)
				}
			}

			shown := bson.A{}
			for _, copied := range all(t, copies) {
				for j, element := range copied {
					if element.Key == "removedAt" {
						copied[j] = bson.E{Key: "removed", Value: true}
					}
				}
				shown = append(shown, copied)
			}
			if is, wanted := text(t, shown), text(t, get(one, "copies")); is != wanted {
				t.Fatalf("%s, and not %s", is, wanted)
			}
		})
	}
}

func (w *world) inboxes(t *testing.T) {
	for i, one := range cases(t, "inboxes") {
		t.Run(get(one, "name").(string), func(t *testing.T) {
			name := fmt.Sprintf("inbox%d", i)
			in := inbox.New(w.db, inbox.Collection(name))
			check(t, in.Create(t.Context()))
			effects := w.db.Collection(fmt.Sprintf("effects%d", i))
			for _, given := range get(one, "messages").(bson.A) {
				given := given.(bson.D)
				answers := map[string]error{"done": nil, "later": inbox.ErrLater, "error": errors.New("no luck")}
				answer := answers[get(given, "work").(string)]
				m := &inbox.Message{Group: get(given, "group").(string), ID: get(given, "id").(string)}
				hasRun := false
				err := in.Run(t.Context(), m, func(ctx context.Context) error {
					hasRun = true
					if _, err := effects.InsertOne(ctx, bson.D{{Key: "id", Value: m.ID}}); err != nil {
						return err
					}
					return answer
				})
				if hasRun != get(given, "ran") || hasRun && err != answer {
					t.Fatalf("%v %v: %v", hasRun, err, given)
				}
			}

			ids := bson.A{}
			for _, document := range all(t, w.db.Collection(name)) {
				id := get(document, "_id").(bson.D)
				ids = append(ids, bson.A{get(id, "group"), get(id, "id")})
			}
			if is, wanted := text(t, ids), text(t, get(one, "ids")); is != wanted {
				t.Fatalf("%s, and not %s", is, wanted)
			}
			if count := len(all(t, effects)); count != int(get(one, "effects").(int32)) {
				t.Fatalf("%d effects", count)
			}
		})
	}
}

func (w *world) listeners(t *testing.T) {
	conn, err := nats.Connect(w.servers.NATSURL)
	check(t, err)
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	check(t, err)

	for i, one := range cases(t, "listeners") {
		t.Run(get(one, "name").(string), func(t *testing.T) {
			t.Parallel() // most of it is waiting
			subject, group, name := fmt.Sprintf("listened.%d", i), fmt.Sprintf("group%d", i), fmt.Sprintf("listened%d", i)
			payload := get(one, "payload").(string)
			_, err := js.Publish(t.Context(), subject, []byte(payload), jetstream.WithMsgID(fmt.Sprintf("message-%d", i)))
			check(t, err)
			effects := w.db.Collection(fmt.Sprintf("effect%d", i))
			check(t, w.db.CreateCollection(t.Context(), effects.Name()))

			answers := get(one, "answers").(bson.A)
			handle := func(ctx context.Context, _ *inbox.Message, _ map[string]any) error {
				if len(answers) == 0 {
					return errors.New("called too often")
				}
				answer := answers[0]
				answers = answers[1:]
				if _, err := effects.InsertOne(ctx, bson.D{}); err != nil {
					return err
				}
				switch answer {
				case "error":
					return errors.New("no luck")
				case "unprocessable":
					return inbox.Unprocessable(errors.New("it is never applied"))
				case "later":
					return inbox.ErrLater
				}
				return nil
			}

			rounds := 1
			if get(one, "again") == true {
				rounds = 2
			}
			for round := range rounds {
				if round > 0 { // a consumer that is made again gets everything again
					check(t, js.DeleteConsumer(t.Context(), stream, group))
				}
				ctx, cancel := context.WithCancel(t.Context())
				ready, ended := make(chan struct{}), make(chan error, 1)
				go func() {
					ended <- listener.Run(ctx, listener.Config{
						URL: w.servers.NATSURL, Stream: stream, Group: group,
						Inbox:         inbox.New(w.db, inbox.Collection(name)),
						Handlers:      []listener.Handler{listener.On(outbox.Subject[map[string]any](subject), handle)},
						MaxDeliveries: 3, MaxLater: 3,
						Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
						Ready: func() { close(ready) },
					})
				}()
				select {
				case <-ready:
				case err := <-ended:
					t.Fatal(err)
				}
				until(t, "every message is acked", func() bool {
					consumer, err := js.Consumer(t.Context(), stream, group)
					check(t, err)
					info := consumer.CachedInfo()
					return info.NumPending == 0 && info.NumAckPending == 0 && info.Delivered.Consumer > 0
				})
				cancel()
				check(t, <-ended)
			}

			if len(answers) > 0 || len(all(t, effects)) != int(get(one, "effects").(int32)) {
				t.Fatalf("answers left: %v, effects: %v", answers, all(t, effects))
			}
			failed := all(t, w.db.Collection(name+"_failed"))
			reason, isFailed := get(one, "failed").(string)
			if (len(failed) == 1) != isFailed {
				t.Fatal(failed)
			}
			if isFailed && (!strings.Contains(get(failed[0], "reason").(string), reason) ||
				get(failed[0], "subject") != subject || string(get(failed[0], "payload").(bson.Binary).Data) != payload) {
				t.Fatal(failed)
			}
		})
	}
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(180 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so in 180 s: %s", what)
		}
	}
}

// TestEncodingJSON compares what is written with encoding/json: the relay publishes it in the same way.
func TestEncodingJSON(t *testing.T) {
	type inner struct {
		B int `json:"b,omitempty"`
	}
	type Embedded struct {
		E string
		F string `json:"f,omitempty"`
	}
	value := struct {
		A string `json:"a"`
		*inner
		Embedded
		N    *int            `json:"n"`
		M    map[string]any  `json:"m"`
		T    time.Time       `json:"t"`
		Q    int             `json:"q,string"`
		Skip string          `json:"-"`
		Raw  json.RawMessage `json:"raw"`
		F32  float32         `json:"f32"`
		By   []byte          `json:"by"`
		Z    time.Duration   `json:"z,omitzero"`
		K    map[int]string  `json:"k"`
		no   string
	}{A: "<&>", inner: &inner{B: 2}, Embedded: Embedded{E: "e"}, M: map[string]any{"z": 1.5, "a": []any{nil, true}},
		T: time.Date(2026, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), Q: 7, Raw: json.RawMessage(`{"x":[1,2.50]}`),
		F32: 0.1, By: []byte{0, 1, 255}, K: map[int]string{2: "b", 10: "a"}, no: "hidden"}

	wanted, err := json.Marshal(value)
	check(t, err)
	w, _ := start(t, "ENCODING_GO", "case.>")
	var id any
	check(t, w.transaction(t.Context(), func(ctx context.Context) (err error) {
		id, err = outbox.New(w.db).Enqueue(ctx, outbox.Event{Subject: "case.a", Payload: value})
		return err
	}))
	conn, err := nats.Connect(w.servers.NATSURL)
	check(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	check(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), "ENCODING_GO", jetstream.OrderedConsumerConfig{})
	check(t, err)
	message, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
	check(t, err)
	var is, should any
	check(t, json.Unmarshal(message.Data(), &is))
	check(t, json.Unmarshal(wanted, &should))
	if !reflect.DeepEqual(is, should) || !strings.HasSuffix(message.Headers().Get("Nats-Msg-Id"), messageIDOf(id)) {
		t.Fatalf("%s\nand not\n%s", message.Data(), wanted)
	}

	_, err = outbox.New(w.db).Enqueue(t.Context(), outbox.Event{Subject: "case.a", Payload: value})
	if !errors.Is(err, outbox.ErrNotInTransaction) {
		t.Fatal(err)
	}
}
