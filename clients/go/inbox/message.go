package inbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Message is one delivery of a message. The same message may be delivered more than once.
type Message struct {
	// ID is the header Nats-Msg-Id: the same in every delivery of this message.
	ID string
	// Group is the durable consumer that got the message: the queue group of the service.
	Group string
	// Stream and Sequence are where the stream has it.
	Stream   string
	Sequence uint64
	Subject  string
	Headers  map[string][]string
	Payload  []byte
	// Deliveries is how many times the group has got it: 1 the first time.
	Deliveries int
	// PublishedAt is when the stream stored it.
	PublishedAt time.Time
}

// Header returns the first value of a header, whose name may be written in any case.
func (m *Message) Header(name string) string {
	for known, values := range m.Headers {
		if strings.EqualFold(known, name) && len(values) > 0 {
			return values[0]
		}
	}
	return ""
}

// JSON reads the payload into value. The error of a payload that can't be read is an
// [UnprocessableError]: another delivery would not change it.
func (m *Message) JSON(value any) error {
	if err := json.Unmarshal(m.Payload, value); err != nil {
		return Unprocessable(fmt.Errorf("the payload can't be read: %w", err))
	}
	return nil
}

// ErrLater is the answer of a handler that can't apply a message yet, because an earlier one is
// missing. The transaction rolls back, and the message is asked for again after a delay.
var ErrLater = errors.New("an earlier message is missing")

// UnprocessableError is the answer of a handler that can never apply a message. The listener puts
// the message aside at once, with the reason.
type UnprocessableError struct {
	Err error
}

// Unprocessable returns the error of a message that can never be applied.
func Unprocessable(reason error) error { return &UnprocessableError{Err: reason} }

func (e *UnprocessableError) Error() string { return e.Err.Error() }

// Unwrap returns the reason.
func (e *UnprocessableError) Unwrap() error { return e.Err }
