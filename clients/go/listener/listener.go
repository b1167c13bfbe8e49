// Package listener hears the messages of a stream and applies them, in order and once.
//
// A listener is a durable pull consumer named by its group; all instances of a service share it. A
// message is acked after the transaction of its handler has committed, with its id in the inbox.
// What a handler returns decides what follows:
//
//	nil                          acked
//	inbox.ErrLater               delivered again after a delay that grows; after 100 times put aside
//	another error                delivered again after a delay that grows; after 10 times put aside
//	inbox.UnprocessableError     put aside at once
//	MongoDB could not be reached kept in hand, and tried again
//
// Put aside means written to `<inbox>_failed` with its reason, then acked.
package listener

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outboxd/outboxd/clients/go/inbox"
)

const (
	// pullWait is how long one request for messages stands; a stop waits no longer for it.
	pullWait = time.Second
	// mostPulled bounds the messages that wait in an instance.
	mostPulled = 32
	// startAgain is the pause before a stream or consumer that is missing is looked for again.
	startAgain = time.Second
	// setUpWait bounds one look at the stream, the consumer and the inbox.
	setUpWait = 30 * time.Second
)

// Config is what a listener needs. Stream, Group, Inbox, Handlers and one of URL and Conn have no
// default.
type Config struct {
	// URL is where NATS is: one address, or several with commas between them.
	URL string
	// NATS are more options of the connection to URL, such as credentials.
	NATS []nats.Option
	// Conn is a connection to share instead; it stays open. Make it with nats.MaxReconnects(-1).
	Conn *nats.Conn

	// Stream is the stream; the relay's NATS_CLUSTER_ID.
	Stream string
	// Group names the durable consumer, which all instances of a service share. It is made if it is
	// missing.
	Group string
	// Inbox has the ids of the messages that were handled.
	Inbox *inbox.Inbox
	// Handlers say what to do with each subject. Only these subjects are delivered. The first one
	// that matches is taken.
	Handlers []Handler

	// MaxAckPending is how many messages may be out without an ack, of all instances together; 1.
	// With 1 a message is delivered once the one before it is acked, so that messages are applied in
	// the order of the stream. Raise it only if the handlers bear another order, as
	// [inbox.Replica] does by versions.
	MaxAckPending int
	// AckWait is when the server gives the message of a dead instance to another one; 30 s.
	AckWait time.Duration
	// MaxDeliveries is how many deliveries may fail before a message is put aside; 10.
	MaxDeliveries int
	// MaxLater is how many times a message may be later before it is put aside; 100, which is about
	// 15 minutes.
	MaxLater int
	// Drain is how long a stop waits for the message in work; 10 s.
	Drain time.Duration

	// Log hears what went wrong and is tried again, or was put aside; slog.Default().
	Log *slog.Logger
	// Ready is called once the consumer is there.
	Ready func()
}

type listener struct {
	Config
	conn   *nats.Conn
	isLame atomic.Bool
	// laters counts how often a message was later, by its sequence. Those deliveries are no failures.
	laters map[uint64]int
}

// fatal is an error that trying again does not change.
type fatal struct{ error }

// Run listens until ctx is done; then it lets the message in work end, acks it, and returns nil.
// It reconnects for ever. It returns an error only for settings that can't work, and if Conn is closed.
func Run(ctx context.Context, config Config) error {
	l := &listener{Config: config, laters: map[uint64]int{}}
	if err := l.check(); err != nil {
		return err
	}

	l.conn = config.Conn
	if l.conn == nil {
		conn, err := nats.Connect(config.URL, l.connection()...)
		if err != nil {
			return fmt.Errorf("connecting to NATS: %w", err)
		}
		l.conn = conn
		defer l.disconnect()
	}
	return l.listen(ctx)
}

func (l *listener) check() error {
	missing := func(name string) error { return fmt.Errorf("a listener needs %s", name) }
	switch {
	case l.URL == "" && l.Conn == nil:
		return missing("URL or Conn")
	case l.Stream == "":
		return missing("Stream")
	case l.Group == "":
		return missing("Group")
	case l.Inbox == nil:
		return missing("Inbox")
	case len(l.Handlers) == 0:
		return missing("Handlers")
	case l.MaxAckPending < 0 || l.AckWait < 0 || l.MaxDeliveries < 0 || l.MaxLater < 0 || l.Drain < 0:
		return errors.New("a setting of the listener is negative")
	}

	for _, name := range []string{l.Stream, l.Group} {
		if strings.ContainsAny(name, " \t\r\n.*>/\\") {
			return fmt.Errorf("%q names no stream or group: a name has no spaces, dots, wildcards or slashes", name)
		}
	}
	for _, handler := range l.Handlers {
		if !isPattern(handler.subject) {
			return fmt.Errorf("%q is no subject", handler.subject)
		}
	}

	setDefault(&l.MaxAckPending, 1)
	setDefault(&l.AckWait, 30*time.Second)
	setDefault(&l.MaxDeliveries, 10)
	setDefault(&l.MaxLater, 100)
	setDefault(&l.Drain, 10*time.Second)
	if l.Log == nil {
		l.Log = slog.Default()
	}
	l.Log = l.Log.With("stream", l.Stream, "group", l.Group)
	return nil
}

func setDefault[T int | time.Duration](setting *T, value T) {
	if *setting == 0 {
		*setting = value
	}
}

func (l *listener) connection() []nats.Option {
	ours := []nats.Option{
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // credentials may be corrected on the server
		nats.LameDuckModeHandler(func(conn *nats.Conn) {
			// Without another server there is nowhere to go; then this one is left when it ends.
			l.isLame.Store(len(conn.Servers()) > 1)
		}),
	}
	return append(append([]nats.Option{nats.Name(l.Group)}, l.NATS...), ours...)
}

// disconnect sends the acks that are under way first.
func (l *listener) disconnect() {
	if err := l.conn.FlushTimeout(time.Second); err != nil {
		l.Log.Warn("the last acks may not have reached NATS; those messages come again", "error", err)
	}
	l.conn.Close()
}

func (l *listener) listen(ctx context.Context) error {
	for ctx.Err() == nil {
		consumer, err := l.setUp(ctx)
		if err == nil {
			if l.Ready != nil {
				l.Ready()
				l.Ready = nil
			}
			err = l.consume(ctx, consumer)
		}

		var given fatal
		if errors.As(err, &given) {
			return given.error
		}
		if l.conn.IsClosed() && ctx.Err() == nil { // by its owner; nothing else closes it
			return fmt.Errorf("the connection to NATS is closed: %w", nats.ErrConnectionClosed)
		}
		if err != nil && ctx.Err() == nil {
			l.Log.Warn("not listening; trying again", "error", err)
			pause(ctx, startAgain)
		}
	}
	return nil
}

// setUp finds or makes the inbox and the durable consumer.
func (l *listener) setUp(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, setUpWait)
	defer cancel()

	js, err := jetstream.New(l.conn)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, l.Stream)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", l.Stream, err)
	}
	if window := stream.CachedInfo().Config.Duplicates; l.Inbox.TTL() <= window {
		return nil, fatal{fmt.Errorf("the inbox forgets ids after %s, and the stream %s drops duplicates for %s; "+
			"raise inbox.TTL", l.Inbox.TTL(), l.Stream, window)}
	}

	if err := l.Inbox.Create(ctx); errors.Is(err, inbox.ErrShortTTL) {
		return nil, fatal{err}
	} else if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	return l.consumer(ctx, stream)
}

func (l *listener) consume(ctx context.Context, consumer jetstream.Consumer) error {
	for ctx.Err() == nil {
		if l.isLame.Swap(false) {
			l.Log.Info("the NATS server is about to stop; going to another one")
			if err := l.conn.ForceReconnect(); err != nil {
				return err
			}
		}

		batch, err := consumer.Fetch(min(l.MaxAckPending, mostPulled), jetstream.FetchMaxWait(pullWait))
		if err != nil {
			return err
		}
		l.handle(ctx, batch)
		if err := batch.Error(); err != nil && !errors.Is(err, nats.ErrTimeout) {
			return err
		}
	}
	return nil
}

// pause waits, but no longer than ctx.
func pause(ctx context.Context, length time.Duration) {
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
