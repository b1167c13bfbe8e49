package listener

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/x/mongo/driver/topology"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/outboxd/outboxd/clients/go/inbox"
)

const (
	firstWait   = 250 * time.Millisecond
	longestWait = 10 * time.Second
	// mostLaters bounds the counts of messages that were later.
	mostLaters = 10_000
)

// handle applies the messages of a batch one after another, in the order of the stream. While one is
// in work, the server hears that it and those behind it are alive.
func (l *listener) handle(ctx context.Context, batch jetstream.MessageBatch) {
	var held held
	stop := held.beat(max(l.AckWait/3, 100*time.Millisecond))
	defer stop()

	waiting := make(chan jetstream.Msg, mostPulled)
	go func() {
		defer close(waiting)
		for message := range batch.Messages() {
			held.add(message)
			waiting <- message
		}
	}()

	for message := range waiting {
		if ctx.Err() != nil {
			l.answered(message, message.Nak())
		} else {
			l.work(ctx, message)
		}
		held.drop(message)
	}
}

// work applies a message and answers the server.
func (l *listener) work(ctx context.Context, message jetstream.Msg) {
	m, err := l.read(message)
	if err != nil {
		l.Log.Error("a message without a place in the stream", "subject", message.Subject(), "error", err)
		return
	}

	// The message in work may end after a stop.
	working, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(l.Drain, cancel) })()

	laters := l.laters[m.Sequence]
	failures := m.Deliveries - laters
	if m.Deliveries > l.MaxDeliveries+l.MaxLater {
		l.putAside(ctx, message, m, "it was delivered again and again, and never answered")
		return
	}

	for tries := 0; ; tries++ {
		err := l.apply(working, m)
		var never *inbox.UnprocessableError
		switch {
		case err == nil:
			delete(l.laters, m.Sequence)
			l.answered(message, message.Ack())
			return
		case working.Err() != nil:
			l.Log.Warn("the message in work did not end in time; it comes again", "subject", m.Subject, "error", err)
			l.answered(message, message.Nak())
			return
		case errors.Is(err, inbox.ErrLater):
			l.later(ctx, message, m, laters)
			return
		case errors.As(err, &never):
			l.putAside(ctx, message, m, err.Error())
			return
		case isOutage(err):
			// No fault of the message: it stays in hand, and no delivery is used up.
			l.Log.Warn("MongoDB is not reached; the message waits", "subject", m.Subject, "error", err)
			if pause(ctx, wait(tries)); ctx.Err() != nil {
				l.answered(message, message.Nak())
				return
			}
		case failures >= l.MaxDeliveries:
			l.putAside(ctx, message, m, err.Error())
			return
		default:
			l.Log.Warn("a message was not applied; it comes again", "subject", m.Subject, "id", m.ID, "error", err)
			l.answered(message, message.NakWithDelay(wait(failures+1)))
			return
		}
	}
}

func (l *listener) later(ctx context.Context, message jetstream.Msg, m *inbox.Message, laters int) {
	if laters+1 >= l.MaxLater {
		l.putAside(ctx, message, m, inbox.ErrLater.Error())
		return
	}
	if len(l.laters) >= mostLaters {
		clear(l.laters)
	}
	l.laters[m.Sequence] = laters + 1
	l.answered(message, message.NakWithDelay(wait(laters)))
}

// putAside writes a message to `<inbox>_failed` and acks it. Until that is written, the message
// stays in hand.
func (l *listener) putAside(ctx context.Context, message jetstream.Msg, m *inbox.Message, reason string) {
	for tries := 0; ; tries++ {
		err := l.Inbox.PutAside(ctx, m, reason)
		if err == nil {
			break
		}
		l.Log.Warn("a message is not put aside; trying again", "subject", m.Subject, "error", err)
		if pause(ctx, wait(tries)); ctx.Err() != nil {
			l.answered(message, message.Nak())
			return
		}
	}

	delete(l.laters, m.Sequence)
	l.Log.Error("a message was put aside", "subject", m.Subject, "id", m.ID, "sequence", m.Sequence, "reason", reason)
	l.answered(message, message.Ack())
}

// answered reports an answer that could not be sent. The message comes again then, and is skipped if
// it was applied.
func (l *listener) answered(message jetstream.Msg, err error) {
	if err != nil {
		l.Log.Warn("NATS was not answered; the message comes again", "subject", message.Subject(), "error", err)
	}
}

// apply runs the handler in a transaction, in a span of the trace that the message carries.
func (l *listener) apply(ctx context.Context, m *inbox.Message) error {
	handler, ok := l.handlerOf(m.Subject)
	if !ok {
		return nil
	}

	ctx = propagation.TraceContext{}.Extract(ctx, headers(m.Headers))
	ctx, span := otel.Tracer("github.com/outboxd/outboxd/clients/go").Start(ctx, "process "+m.Subject,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.destination.name", m.Subject),
			attribute.String("messaging.message.id", m.ID)))
	defer span.End()

	err := l.Inbox.Run(ctx, m, func(ctx context.Context) error { return handler.apply(ctx, m) })
	if err != nil && !errors.Is(err, inbox.ErrLater) {
		span.RecordError(err)
		span.SetStatus(codes.Error, "")
	}
	return err
}

// headers is how OpenTelemetry reads the headers of a message.
type headers map[string][]string

func (h headers) Get(name string) string {
	if values := h[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

func (h headers) Set(name, value string) { h[name] = []string{value} }

func (h headers) Keys() []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	return names
}

func (l *listener) read(message jetstream.Msg) (*inbox.Message, error) {
	place, err := message.Metadata()
	if err != nil {
		return nil, err
	}
	return &inbox.Message{
		ID:          message.Headers().Get("Nats-Msg-Id"),
		Group:       l.Group,
		Stream:      place.Stream,
		Sequence:    place.Sequence.Stream,
		Subject:     message.Subject(),
		Headers:     message.Headers(),
		Payload:     message.Data(),
		Deliveries:  int(place.NumDelivered),
		PublishedAt: place.Timestamp,
	}, nil
}

func wait(tries int) time.Duration {
	return min(longestWait, firstWait<<min(tries, 10))
}

// away are the codes of a MongoDB that can't serve: not primary, recovering, shutting down, and
// failures of the network that the server reports.
var away = []int{6, 7, 89, 91, 134, 189, 262, 317, 358, 9001, 10058, 10107, 11600, 11602, 13435, 13436}

// isOutage is true of errors that say nothing about the message: MongoDB is away, or another
// transaction is in the way.
func isOutage(err error) bool {
	var labeled mongo.LabeledError
	if errors.As(err, &labeled) {
		for _, label := range []string{"TransientTransactionError", "UnknownTransactionCommitResult", "RetryableWriteError", "NetworkError"} {
			if labeled.HasErrorLabel(label) {
				return true
			}
		}
	}
	var answer mongo.ServerError
	if errors.As(err, &answer) && slices.ContainsFunc(away, answer.HasErrorCode) {
		return true
	}
	// A time-out of the handler's own is a failure of the handler, so mongo.IsTimeout is no measure.
	return errors.As(err, &topology.ServerSelectionError{}) || errors.As(err, &topology.WaitQueueTimeoutError{}) ||
		errors.As(err, &topology.ConnectionError{})
}

// held are the messages that this instance has and did not answer.
type held struct {
	mutex    sync.Mutex
	messages []jetstream.Msg
}

func (h *held) add(message jetstream.Msg) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.messages = append(h.messages, message)
}

func (h *held) drop(message jetstream.Msg) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.messages = slices.DeleteFunc(h.messages, func(one jetstream.Msg) bool { return one == message })
}

// beat tells the server again and again that the messages are in work, until stop is called.
func (h *held) beat(every time.Duration) (stop func()) {
	done := make(chan struct{})
	ticker := time.NewTicker(every)
	go func() {
		defer ticker.Stop()
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				h.mutex.Lock()
				for _, message := range h.messages {
					// One that is lost is followed by the next.
					_ = message.InProgress()
				}
				h.mutex.Unlock()
			}
		}
	}()
	return func() { close(done) }
}
