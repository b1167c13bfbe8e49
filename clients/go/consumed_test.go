// The cases of what consumers do with messages: replicas, inboxes and listeners.
package outboxd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/listener"
	"github.com/outboxd/outboxd/clients/go/outbox"
)

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
