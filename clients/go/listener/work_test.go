package listener

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

func TestOutageIsToldFromAFailure(t *testing.T) {
	away, err := mongo.Connect(options.Client().ApplyURI("mongodb://127.0.0.1:1/?directConnection=true").
		SetServerSelectionTimeout(50 * time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer away.Disconnect(context.Background()) //nolint:errcheck // it never connected

	for _, one := range []struct {
		err    error
		wanted bool
	}{
		{away.Ping(t.Context(), nil), true},
		{fmt.Errorf("of a handler: %w", mongo.CommandError{Code: 189}), true},
		{mongo.CommandError{Code: 112, Labels: []string{"TransientTransactionError"}}, true},
		{mongo.CommandError{Code: 11000}, false},
		{context.DeadlineExceeded, false},
		{mongo.ErrNoDocuments, false},
	} {
		if isOutage(one.err) != one.wanted {
			t.Errorf("%v", one.err)
		}
	}
}

func TestPatternsMatchAsTheServerDoes(t *testing.T) {
	for pattern, subjects := range map[string]map[string]bool{
		"a.*":   {"a.b": true, "a": false, "a.b.c": false, "a.*": true, "a.>": false},
		"a.>":   {"a.b": true, "a.b.c": true, "a": false, "a.*": true, "a.*.c": true},
		"a.*.c": {"a.b.c": true, "a.b.d": false, "a.b.*": false},
		">":     {"a": true, "a.b": true},
	} {
		for subject, wanted := range subjects {
			if matches(pattern, subject) != wanted {
				t.Errorf("%s and %s", pattern, subject)
			}
		}
	}
}

func TestWaitsGrowToABound(t *testing.T) {
	for tries, wanted := range map[int]time.Duration{0: 250 * time.Millisecond, 2: time.Second, 6: 10 * time.Second, 1 << 20: 10 * time.Second} {
		if wait(tries) != wanted {
			t.Errorf("%d: %s", tries, wait(tries))
		}
	}
}
