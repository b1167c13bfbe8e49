// Waits for an event in the stream; prints its subject, message id and payload.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	line, err := read(ctx, os.Getenv("NATS_CLUSTER_ID"), os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(line)
}

func read(ctx context.Context, stream, id string) (string, error) {
	connection, err := nats.Connect(os.Getenv("NATS_URL"))
	if err != nil {
		return "", err
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		return "", err
	}
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return "", err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return "", err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return "", err
		}
		messageID := message.Headers().Get(jetstream.MsgIDHeader)
		if strings.HasSuffix(messageID, "."+id) {
			line, err := json.Marshal(map[string]any{
				"subject":     message.Subject(),
				"Nats-Msg-Id": messageID,
				"payload":     json.RawMessage(message.Data()),
			})
			return string(line), err
		}
	}
}
