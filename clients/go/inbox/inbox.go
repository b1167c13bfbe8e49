// Package inbox handles each message once, and keeps copies of another service's records.
//
// A message may come again: when a consumer dies between its commit and its ack, or when the relay
// publishes an event again after the stream's duplicate window. Every delivery has the same id. So
// the id is a document of a small collection, written in the transaction of the work: either both
// are there, or neither. Ids expire by a TTL index.
//
//	<inbox>         { _id: { group, id }, at }
//	<inbox>_failed  messages that could not be applied, each with its reason
package inbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/writeconcern"
)

const (
	// DefaultTTL is how long ids are kept.
	DefaultTTL = 30 * 24 * time.Hour
	// MinTTL is the shortest time that ids may be kept. The stream's duplicate window is 30 minutes
	// as `outboxd migrate` makes it.
	MinTTL = time.Hour

	expiryIndex = "outboxd_expiry"
	failedIndex = "outboxd_at"
	maxReason   = 2000

	namespaceExists      = 48
	indexOptionsConflict = 85
)

// ErrNotInTransaction is returned by Once if the context has no transaction under way: the id could
// be written and the work not.
var ErrNotInTransaction = errors.New("once was called outside a transaction; start one on the session, " +
	"or call Run, which starts one itself")

// ErrShortTTL is returned by Create and by a listener for a TTL after which a message could still come
// again.
var ErrShortTTL = errors.New("ids are kept for at least 3600 s")

// Inbox has the ids of the messages that a service has handled. Services in several languages, and
// several queue groups, may share one. It may be used by several goroutines.
type Inbox struct {
	db     *mongo.Database
	ids    *mongo.Collection
	failed *mongo.Collection
	ttl    time.Duration
}

// Option is a setting of an inbox.
type Option func(*settings)

type settings struct {
	collection string
	ttl        time.Duration
}

// Collection names the collection; `inbox`.
func Collection(name string) Option {
	return func(s *settings) { s.collection = name }
}

// TTL sets how long ids are kept: longer than a message may take to come again, which is longer than
// the stream's duplicate window, and longer than the service may be down.
func TTL(ttl time.Duration) Option {
	return func(s *settings) { s.ttl = ttl }
}

// New returns the inbox of a database: the one that the work writes to, or another one of the same
// cluster.
func New(db *mongo.Database, opts ...Option) *Inbox {
	s := settings{collection: "inbox", ttl: DefaultTTL}
	for _, set := range opts {
		set(&s)
	}

	majority := options.Collection().SetWriteConcern(writeconcern.Majority())
	return &Inbox{
		db:     db,
		ids:    db.Collection(s.collection),
		failed: db.Collection(s.collection+"_failed", majority),
		ttl:    s.ttl,
	}
}

// Database returns the database that the inbox is in.
func (i *Inbox) Database() *mongo.Database { return i.db }

// TTL returns how long ids are kept.
func (i *Inbox) TTL() time.Duration { return i.ttl }

// Create makes both collections and the index that lets ids expire, if they are missing, and changes
// the expiry if it is another one. A listener calls it when it starts.
func (i *Inbox) Create(ctx context.Context) error {
	if i.ttl < MinTTL {
		return fmt.Errorf("%w; this one is %.0f s", ErrShortTTL, i.ttl.Seconds())
	}

	for _, name := range []string{i.ids.Name(), i.failed.Name()} {
		if err := i.db.CreateCollection(ctx, name); err != nil && !hasCode(err, namespaceExists) {
			return err
		}
	}

	byTime := bson.D{{Key: "at", Value: 1}}
	listed := mongo.IndexModel{Keys: byTime, Options: options.Index().SetName(failedIndex)}
	if _, err := i.failed.Indexes().CreateOne(ctx, listed); err != nil {
		return err
	}

	seconds := int32(min(i.ttl.Seconds(), math.MaxInt32))
	expiry := options.Index().SetName(expiryIndex).SetExpireAfterSeconds(seconds)
	_, err := i.ids.Indexes().CreateOne(ctx, mongo.IndexModel{Keys: byTime, Options: expiry})
	if hasCode(err, indexOptionsConflict) {
		index := bson.D{{Key: "name", Value: expiryIndex}, {Key: "expireAfterSeconds", Value: seconds}}
		change := bson.D{{Key: "collMod", Value: i.ids.Name()}, {Key: "index", Value: index}}
		return i.db.RunCommand(ctx, change).Err()
	}
	return err
}

// Once runs work in the transaction of ctx, unless the message was handled before, and returns
// whether it ran. The id and the work commit together. If work returns an error, return it from the
// transaction, so that the transaction aborts and the id is not kept.
func (i *Inbox) Once(ctx context.Context, m *Message, work func(context.Context) error) (bool, error) {
	if session := mongo.SessionFromContext(ctx); session == nil || !session.TransactionRunning() {
		return false, ErrNotInTransaction
	}
	if m.ID == "" {
		return false, Unprocessable(errors.New("the message has no Nats-Msg-Id; only a message with an id, " +
			"such as outboxd gives to each, can be handled once"))
	}

	// Not an insert: a duplicate key would end the transaction.
	once := bson.D{{Key: "$setOnInsert", Value: bson.D{{Key: "at", Value: time.Now()}}}}
	written, err := i.ids.UpdateOne(ctx, byID(m.Group, m.ID), once, options.UpdateOne().SetUpsert(true))
	if err != nil || written.UpsertedCount == 0 {
		return false, err
	}
	return true, work(ctx)
}

// Run handles a message in a transaction of its own: it runs work unless the message was handled
// before, and commits the id together with the work. An error of work rolls both back. If another
// transaction changes the same records, work runs again.
//
// The context of work has the session; pass it to every write.
func (i *Inbox) Run(ctx context.Context, m *Message, work func(context.Context) error) error {
	session, err := i.db.Client().StartSession()
	if err != nil {
		return err
	}
	defer session.EndSession(context.WithoutCancel(ctx))

	concerns := options.Transaction().
		SetReadConcern(readconcern.Snapshot()).SetWriteConcern(writeconcern.Majority())
	_, err = session.WithTransaction(ctx, func(ctx context.Context) (any, error) {
		return i.Once(ctx, m, work)
	}, concerns)
	return err
}

// PutAside writes a message that could not be applied to `<inbox>_failed`, with the reason. The same
// message is there once. If that fails, the message must not be acked.
func (i *Inbox) PutAside(ctx context.Context, m *Message, reason string) error {
	id := m.ID
	if id == "" {
		id = fmt.Sprintf("%s:%d", m.Stream, m.Sequence)
	}
	headers := bson.M{}
	for name, values := range m.Headers {
		if len(values) > 0 {
			headers[name] = values[0]
		}
	}
	if runes := []rune(reason); len(runes) > maxReason {
		reason = string(runes[:maxReason])
	}

	failed := bson.D{
		{Key: "at", Value: time.Now()},
		{Key: "subject", Value: m.Subject},
		{Key: "payload", Value: bson.Binary{Data: m.Payload}},
		{Key: "headers", Value: headers},
		{Key: "stream", Value: m.Stream},
		{Key: "sequence", Value: int64(m.Sequence)},
		{Key: "deliveries", Value: int32(m.Deliveries)},
		{Key: "reason", Value: reason},
	}
	_, err := i.failed.UpdateOne(ctx, byID(m.Group, id), bson.D{{Key: "$set", Value: failed}},
		options.UpdateOne().SetUpsert(true))
	return err
}

func byID(group, id string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "group", Value: group}, {Key: "id", Value: id}}}}
}

func hasCode(err error, code int) bool {
	var failed mongo.ServerError
	return errors.As(err, &failed) && failed.HasErrorCode(code)
}
