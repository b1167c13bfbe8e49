package outbox

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

// ErrNotInTransaction is returned by every call whose context has no transaction under way: the
// event could be written and the record not. Inside WithTransaction, pass the context that the
// callback gets.
var ErrNotInTransaction = errors.New("the outbox was called outside a transaction; start one on the " +
	"session, write the record and the event in it, and commit both")

// Code is the part of an event that was refused.
type Code string

// The parts of an event.
const (
	CodeSubject   Code = "subject"
	CodeKey       Code = "key"
	CodeID        Code = "id"
	CodeHeader    Code = "header"
	CodePayload   Code = "payload"
	CodeTooLong   Code = "too-long"
	CodeDeliverAt Code = "deliver-at"
)

// EventError is an event that the contract refuses. Nothing was written. WithTransaction aborts, and
// does not run its callback again.
type EventError struct {
	Code   Code
	Reason string
}

func (e *EventError) Error() string { return e.Reason }

// ValidatorError is an event that the validator of the collection refuses. The contract is checked
// before, so the validator is one that somebody changed, or of another version.
type ValidatorError struct {
	// Reasons are the rules that the event breaks, in the validator's words.
	Reasons []string
	// Err is the driver's error.
	Err error
}

func (e *ValidatorError) Error() string {
	return "the validator of the collection refuses the event: " + strings.Join(e.Reasons, "; ")
}

// Unwrap returns the driver's error.
func (e *ValidatorError) Unwrap() error { return e.Err }

func refuse(code Code, format string, arguments ...any) error {
	return &EventError{Code: code, Reason: fmt.Sprintf(format, arguments...)}
}

const (
	documentValidationFailure = 121
	// mostReasons is the most rules that are named; one is usual.
	mostReasons = 5
	// deepestReason bounds the walk; the validator has its sentences within ten levels.
	deepestReason = 20
)

// explained puts the validator's reasons in words and leaves every other error as it is.
func explained(err error) error {
	var failed []mongo.WriteError
	var one mongo.WriteException
	var many mongo.BulkWriteException
	switch {
	case errors.As(err, &one):
		failed = one.WriteErrors
	case errors.As(err, &many):
		for _, inner := range many.WriteErrors {
			failed = append(failed, inner.WriteError)
		}
	}

	for _, inner := range failed {
		if inner.Code != documentValidationFailure {
			continue
		}
		var reasons []string
		var details bson.D
		if bson.Unmarshal(inner.Details, &details) == nil {
			collect(details, 0, &reasons)
		}
		if len(reasons) == 0 {
			reasons = []string{"it names no rule"}
		}
		return &ValidatorError{Reasons: reasons[:min(len(reasons), mostReasons)], Err: err}
	}
	return err
}

// collect walks errInfo, in which operators, properties and items nest in each other.
func collect(value any, depth int, reasons *[]string) {
	if depth >= deepestReason || len(*reasons) >= mostReasons {
		return
	}
	if items, ok := value.(bson.A); ok {
		for _, item := range items {
			collect(item, depth+1, reasons)
		}
		return
	}
	document, ok := value.(bson.D)
	if !ok {
		return
	}

	add := func(reason string) {
		if !slices.Contains(*reasons, reason) {
			*reasons = append(*reasons, reason)
		}
	}
	if missing, ok := field(document, "missingProperties").(bson.A); ok {
		for _, name := range missing {
			add(fmt.Sprintf("%v is missing", name))
		}
		return
	}
	name, demand := field(document, "propertyName"), field(document, "description")
	if name != nil && demand != nil {
		add(fmt.Sprintf("%v: %v", name, demand))
		return
	}
	if sentence, ok := sentenceOf(field(document, "specifiedAs")); ok {
		add(sentence)
		return
	}
	for _, inner := range document {
		collect(inner.Value, depth+1, reasons)
	}
}

// sentenceOf returns the words of a rule {$expr: {$cond: [rule, true, {$not: [words]}]}}.
func sentenceOf(rule any) (string, bool) {
	cond, _ := field(field(rule, "$expr"), "$cond").(bson.A)
	if len(cond) == 0 {
		return "", false
	}
	not, _ := field(cond[len(cond)-1], "$not").(bson.A)
	if len(not) == 0 {
		return "", false
	}
	words, ok := not[0].(string)
	return words, ok
}

func field(value any, name string) any {
	document, _ := value.(bson.D)
	for _, element := range document {
		if element.Key == name {
			return element.Value
		}
	}
	return nil
}
