// Package outbox writes events in the MongoDB transaction that saves the record they are about. The
// relay outboxd publishes them to NATS JetStream.
//
// A call outside a transaction is refused, and so is every event that the relay could not publish.
// Nothing is written then. The session is that of the context, as everywhere in the driver: the
// context that the callback of [mongo.Session.WithTransaction] gets carries it.
package outbox

import (
	"context"
	"fmt"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// DefaultMaxPayload is the longest payload as published, in bytes: 1 MiB, which is the default
// max_payload of nats-server, less 32 KiB for the headers.
const DefaultMaxPayload = 1024*1024 - maxHeaderBytes

// latestDelivery is the last millisecond of the year 9999.
const latestDelivery = 253_402_300_799_999

// Outbox is a service's outbox. `outboxd migrate` makes its collections and their validators.
//
// An Outbox may be used by several goroutines.
type Outbox struct {
	events     *mongo.Collection
	scheduled  *mongo.Collection
	maxPayload int
}

// Option is a setting of an outbox.
type Option func(*settings)

type settings struct {
	collection string
	maxPayload int
}

// Collection names the collection; `outbox` unless the relay's configuration names another one.
func Collection(name string) Option {
	return func(s *settings) { s.collection = name }
}

// MaxPayload sets the longest payload as published, in bytes. Raise it together with max_payload of
// nats-server, and keep it 32 KiB below that.
func MaxPayload(bytes int) Option {
	return func(s *settings) { s.maxPayload = bytes }
}

// New returns the outbox of a database.
func New(db *mongo.Database, options ...Option) *Outbox {
	s := settings{collection: "outbox", maxPayload: DefaultMaxPayload}
	for _, set := range options {
		set(&s)
	}

	return &Outbox{
		events:     db.Collection(s.collection),
		scheduled:  db.Collection(s.collection + "_scheduled"),
		maxPayload: s.maxPayload,
	}
}

// Enqueue writes an event in the transaction of ctx and returns its id. The event is published once
// that transaction has committed, and never if it rolls back. It carries the OpenTelemetry span of
// ctx in its headers, unless they have a traceparent.
func (o *Outbox) Enqueue(ctx context.Context, event Event) (any, error) {
	if err := requireTransaction(ctx); err != nil {
		return nil, err
	}

	document, id, err := o.document(ctx, event)
	if err != nil {
		return nil, err
	}
	return insert(ctx, o.events, document, id)
}

// EnqueueMany writes events in one command and returns their ids. Events of one key are published
// in the order given. If one event is refused, none is written.
func (o *Outbox) EnqueueMany(ctx context.Context, events ...Event) ([]any, error) {
	if err := requireTransaction(ctx); err != nil {
		return nil, err
	}

	documents := make([]any, len(events))
	ids := make([]any, len(events))
	for i, event := range events {
		document, id, err := o.document(ctx, event)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", i, err)
		}
		if documents[i], err = raw(document); err != nil {
			return nil, err
		}
		ids[i] = id
	}

	if len(events) == 0 {
		return ids, nil
	}
	if _, err := o.events.InsertMany(ctx, documents); err != nil {
		return nil, explained(err)
	}
	return ids, nil
}

// Schedule writes an event that is published at a time, in milliseconds; anything below is cut off.
// MongoDB's clock decides when it is due; a time that has passed is due at once. Cancel and
// Reschedule take the id.
func (o *Outbox) Schedule(ctx context.Context, event Event, at time.Time) (any, error) {
	if err := requireTransaction(ctx); err != nil {
		return nil, err
	}

	due, err := deliverAt(at)
	if err != nil {
		return nil, err
	}
	document, id, err := o.document(ctx, event)
	if err != nil {
		return nil, err
	}
	return insert(ctx, o.scheduled, append(document, bson.E{Key: "deliverAt", Value: due}), id)
}

// Cancel takes a scheduled event back. True: once the transaction has committed, the event is never
// published. False: it is published or about to be, was cancelled before, or was never scheduled.
//
// While the relay moves the event, this call or the commit fails with the driver's label
// TransientTransactionError, and WithTransaction runs the transaction again.
func (o *Outbox) Cancel(ctx context.Context, id any) (bool, error) {
	checked, err := o.taken(ctx, id)
	if err != nil {
		return false, err
	}

	deleted, err := o.scheduled.DeleteOne(ctx, bson.D{{Key: "_id", Value: checked}})
	if err != nil {
		return false, err
	}
	return deleted.DeletedCount > 0, nil
}

// Reschedule gives a scheduled event another time. False: no event with this id waits for its time,
// and nothing changed.
func (o *Outbox) Reschedule(ctx context.Context, id any, at time.Time) (bool, error) {
	checked, err := o.taken(ctx, id)
	if err != nil {
		return false, err
	}

	due, err := deliverAt(at)
	if err != nil {
		return false, err
	}
	waiting := bson.D{{Key: "_id", Value: checked}, {Key: "deadAt", Value: nil}}
	later := bson.D{{Key: "$set", Value: bson.D{{Key: "deliverAt", Value: due}}}}
	updated, err := o.scheduled.UpdateOne(ctx, waiting, later)
	if err != nil {
		return false, explained(err)
	}
	return updated.MatchedCount > 0, nil
}

// taken checks the id of an event that was scheduled before.
func (o *Outbox) taken(ctx context.Context, id any) (any, error) {
	if err := requireTransaction(ctx); err != nil {
		return nil, err
	}
	return checkID(id)
}

// document returns the document of an event, and its id.
func (o *Outbox) document(ctx context.Context, event Event) (bson.D, any, error) {
	id := any(bson.NewObjectID())
	if event.ID != nil {
		checked, err := checkID(event.ID)
		if err != nil {
			return nil, nil, err
		}
		id = checked
	}
	if err := checkSubject(event.Subject); err != nil {
		return nil, nil, err
	}

	document := bson.D{
		{Key: "_id", Value: id},
		// The server fills an empty timestamp with its cluster time: the order within a key.
		{Key: "ts", Value: bson.Timestamp{}},
		{Key: "subject", Value: event.Subject},
	}
	if event.Key != nil {
		key, err := checkKey(event.Key)
		if err != nil {
			return nil, nil, err
		}
		document = append(document, bson.E{Key: "key", Value: key})
	}

	payload, err := checkPayload(event.Payload)
	if err != nil {
		return nil, nil, err
	}
	if length := publishedLen(payload); length > o.maxPayload {
		return nil, nil, refuse(CodeTooLong, "payload of %d bytes is over the limit of %d; "+
			"store the content elsewhere and publish a reference", length, o.maxPayload)
	}
	document = append(document, bson.E{Key: "payload", Value: payload})

	headers, err := checkHeaders(event.Headers)
	if err != nil {
		return nil, nil, err
	}
	if headers = withTrace(ctx, headers); len(headers) > 0 {
		document = append(document, bson.E{Key: "headers", Value: headers})
	}
	document = append(document,
		bson.E{Key: "isLocked", Value: true}, bson.E{Key: "failures", Value: bson.A{}})
	return document, id, nil
}

func insert(ctx context.Context, to *mongo.Collection, document bson.D, id any) (any, error) {
	encoded, err := raw(document)
	if err != nil {
		return nil, err
	}
	if _, err := to.InsertOne(ctx, encoded); err != nil {
		return nil, explained(err)
	}
	return id, nil
}

// raw encodes a document here, so that no encoder of the client's own registry changes it.
func raw(document bson.D) (bson.Raw, error) {
	encoded, err := bson.Marshal(document)
	if err != nil {
		return nil, refuse(CodePayload, "invalid payload: %v", err)
	}
	return encoded, nil
}

func requireTransaction(ctx context.Context) error {
	if session := mongo.SessionFromContext(ctx); session != nil && session.TransactionRunning() {
		return nil
	}
	return ErrNotInTransaction
}

func deliverAt(at time.Time) (bson.DateTime, error) {
	millis := at.UnixMilli()
	if year := at.UTC().Year(); year < 1970 || year > 9999 || millis < 0 || millis > latestDelivery {
		return 0, refuse(CodeDeliverAt, "invalid time of delivery: it is outside the years 1970 to 9999")
	}
	return bson.DateTime(millis), nil
}
