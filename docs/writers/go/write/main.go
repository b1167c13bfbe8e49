// Writes an order and its event in one transaction; prints the event's id.
package main

import (
	"context"
	"fmt"
	"log"
	"os"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/connstring"
)

type Order struct {
	ID      string `bson:"_id"`
	Total   int    `bson:"total"`
	Version int    `bson:"version"`
}

// OrderPlaced is what consumers get, as JSON with these names.
type OrderPlaced struct {
	ID      string `bson:"id"`
	Total   int    `bson:"total"`
	Version int    `bson:"version"`
}

// OutboxEvent is a document of the outbox.
type OutboxEvent struct {
	ID       bson.ObjectID  `bson:"_id"`
	TS       bson.Timestamp `bson:"ts"` // left zero, the server fills it: the order within a key
	Subject  string         `bson:"subject"`
	Key      string         `bson:"key"` // the record's id
	Payload  any            `bson:"payload"`
	IsLocked bool           `bson:"isLocked"` // true
	Failures []any          `bson:"failures"` // empty, and not nil, which is null
}

func main() {
	id, err := write(context.Background(), os.Getenv("MONGODB_URI"), os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(id.Hex())
}

func write(ctx context.Context, uri, number string) (id bson.ObjectID, err error) {
	named, err := connstring.Parse(uri)
	if err != nil {
		return id, err
	}
	client, err := mongo.Connect(options.Client().ApplyURI(uri))
	if err != nil {
		return id, err
	}
	defer client.Disconnect(ctx)
	session, err := client.StartSession()
	if err != nil {
		return id, err
	}
	defer session.EndSession(ctx)

	db := client.Database(named.Database)
	order := Order{ID: number, Total: 25}
	event := OutboxEvent{
		ID:       bson.NewObjectID(),
		Subject:  "order.placed",
		Key:      order.ID,
		Payload:  OrderPlaced(order),
		IsLocked: true,
		Failures: []any{},
	}
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) { // this ctx carries the session
		// May run more than once. What an earlier run wrote is rolled back, so nothing is there twice.
		if _, err := db.Collection("orders").InsertOne(ctx, order); err != nil {
			return nil, err
		}
		return db.Collection("outbox").InsertOne(ctx, event)
	})
	return event.ID, err
}
