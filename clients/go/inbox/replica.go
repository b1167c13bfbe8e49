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
)

// Replica keeps copies of another service's records in a collection, in the order of their versions,
// in whichever order the messages come. The first version of a record is 0, and each change raises
// it by one.
//
// A copy that was removed stays as `{ _id, version, removedAt }`, so that a message that comes again
// does not bring it back. The copies that live are those where `{ removedAt: null }`.
type Replica struct {
	copies *mongo.Collection
}

// NewReplica returns the replica in a collection.
func NewReplica(copies *mongo.Collection) *Replica {
	return &Replica{copies: copies}
}

// Apply stores a version of a record: anything that the driver writes as a document, with a version
// and with an `_id` or, instead, an `id`. It returns nil if this version or a newer one is stored,
// now or before, and [ErrLater] if the version before it is missing.
func (r *Replica) Apply(ctx context.Context, record any) error {
	encoded, err := bson.Marshal(record)
	if err != nil {
		return Unprocessable(err)
	}
	var fields bson.D
	if err := bson.Unmarshal(encoded, &fields); err != nil {
		return Unprocessable(err)
	}

	name := "id"
	for _, field := range fields {
		if field.Key == "_id" {
			name = "_id"
		}
	}
	stored := bson.D{{Key: "_id", Value: nil}}
	var version any
	for _, field := range fields {
		switch field.Key {
		case name:
			stored[0].Value = field.Value
			continue
		case "version":
			version = field.Value
		}
		stored = append(stored, field)
	}
	if stored[0].Value == nil || stored[0].Value == "" {
		return Unprocessable(errors.New("the record has no field id"))
	}
	number, err := versionOf(version)
	if err != nil {
		return err
	}
	return r.store(ctx, stored, number)
}

// Remove removes the copy of a record. The version of a removal is the last one plus one.
func (r *Replica) Remove(ctx context.Context, id any, version int64) error {
	if id == nil || id == "" {
		return Unprocessable(errors.New("the record has no field id"))
	}
	if _, err := versionOf(version); err != nil {
		return err
	}
	removed := bson.D{{Key: "_id", Value: id}, {Key: "version", Value: version}, {Key: "removedAt", Value: time.Now()}}
	return r.store(ctx, removed, version)
}

func versionOf(version any) (int64, error) {
	number := int64(-1)
	switch version := version.(type) {
	case int32:
		number = int64(version)
	case int64:
		number = version
	case float64:
		if version == math.Trunc(version) && math.Abs(version) < 1<<53 {
			number = int64(version)
		}
	}
	if number < 0 {
		return 0, Unprocessable(fmt.Errorf("the version is %v, and not a whole number from 0 on", version))
	}
	return number, nil
}

func (r *Replica) store(ctx context.Context, stored bson.D, version int64) error {
	session := mongo.SessionFromContext(ctx)
	inTransaction := session != nil && session.TransactionRunning()
	id := stored[0]

	// A loop, for callers without a transaction: another one may write between the two steps.
	for {
		var found struct{ Version int64 }
		err := r.copies.FindOne(ctx, bson.D{id}, options.FindOne().SetProjection(bson.D{{Key: "version", Value: 1}})).Decode(&found)
		isMissing := errors.Is(err, mongo.ErrNoDocuments)
		switch {
		case err != nil && !isMissing:
			return err
		case !isMissing && found.Version >= version:
			return nil
		case isMissing && version > 0, !isMissing && found.Version != version-1:
			return ErrLater
		}

		if isMissing {
			// In a transaction this error has ended it.
			_, err := r.copies.InsertOne(ctx, stored)
			if err == nil || inTransaction || !mongo.IsDuplicateKeyError(err) {
				return err
			}
			continue
		}
		replaced, err := r.copies.ReplaceOne(ctx, bson.D{id, {Key: "version", Value: found.Version}}, stored)
		if err != nil || replaced.MatchedCount == 1 {
			return err
		}
	}
}
