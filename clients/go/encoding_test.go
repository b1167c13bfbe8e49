// What is written beside what encoding/json writes.
package outboxd_test

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outboxd/outboxd/clients/go/outbox"
)

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
