package listener

import (
	"context"
	"slices"
	"strings"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/outbox"
)

// Handler applies the messages of one subject, which may have wildcards.
type Handler struct {
	subject string
	apply   func(context.Context, *inbox.Message) error
}

// On handles the messages of a subject, whose payloads are JSON of a T. It runs in a transaction:
// pass ctx to every write. It may run more than once; what an earlier run wrote is rolled back. A
// payload that isn't JSON of a T is put aside.
func On[T any](subject outbox.Subject[T], handle func(context.Context, *inbox.Message, T) error) Handler {
	return OnMessage(string(subject), func(ctx context.Context, m *inbox.Message) error {
		var payload T
		if err := m.JSON(&payload); err != nil {
			return err
		}
		return handle(ctx, m, payload)
	})
}

// OnMessage handles the messages of a subject, whatever their payloads are, as [On] does.
func OnMessage(subject string, handle func(context.Context, *inbox.Message) error) Handler {
	return Handler{subject: subject, apply: handle}
}

// subjects returns what the consumer asks for. The server refuses subjects that overlap, so those that
// another one covers are left out.
func (l *listener) subjects() []string {
	var all []string
	for _, handler := range l.Handlers {
		isCovered := slices.ContainsFunc(l.Handlers, func(other Handler) bool {
			return other.subject != handler.subject && matches(other.subject, handler.subject)
		})
		if !isCovered {
			all = append(all, handler.subject)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func isPattern(subject string) bool {
	tokens := strings.Split(subject, ".")
	for i, token := range tokens {
		if token == "" || strings.ContainsAny(token, " \t\r\n") || token == ">" && i < len(tokens)-1 {
			return false
		}
	}
	return true
}

func (l *listener) handlerOf(subject string) (Handler, bool) {
	for _, handler := range l.Handlers {
		if matches(handler.subject, subject) {
			return handler, true
		}
	}
	return Handler{}, false
}

// matches is true if a pattern covers a subject, which may have wildcards itself.
func matches(pattern, subject string) bool {
	wanted, tokens := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range wanted {
		if token == ">" {
			return i < len(tokens)
		}
		if i >= len(tokens) || tokens[i] == ">" || token != "*" && token != tokens[i] {
			return false
		}
	}
	return len(wanted) == len(tokens)
}
