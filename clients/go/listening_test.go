package outboxd_test

// What the tests of the listener stand on: its world, what handlers heard, a proxy.

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/listener"
)

// listening runs a listener; the function that is returned stops it and returns what Run did.
func (w *listenerWorld) listening(t *testing.T, config listener.Config) (stop func() error) {
	t.Helper()
	if config.Conn == nil && config.URL == "" {
		config.URL = w.servers.NATSURL
	}
	if config.Stream == "" {
		config.Stream = workStream
	}
	if config.Inbox == nil {
		config.Inbox = inbox.New(w.db)
	}
	if config.Log == nil {
		config.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	config.Ready = func() { close(ready) }
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go func() { ended <- listener.Run(ctx, config) }()
	select {
	case <-ready:
	case err := <-ended:
		return func() error { return err }
	case <-time.After(60 * time.Second):
		t.Fatal("the listener is not ready")
	}
	return func() error {
		cancel()
		return <-ended
	}
}

func (w *listenerWorld) publish(t *testing.T, subject, payload, id string) {
	t.Helper()
	_, err := w.js.Publish(t.Context(), subject, []byte(payload), jetstream.WithMsgID(id))
	check(t, err)
}

func (w *listenerWorld) idle(t *testing.T, group string) {
	t.Helper()
	until(t, group+" has acked everything", func() bool {
		consumer, err := w.js.Consumer(t.Context(), workStream, group)
		if err != nil {
			return false
		}
		info := consumer.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0 && info.Delivered.Consumer > 0
	})
}

// heard is what handlers got.
type heard struct {
	mutex sync.Mutex
	all   []string
}

func (h *heard) add(m *inbox.Message) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.all = append(h.all, string(m.Payload))
}

func (h *heard) has(wanted ...string) bool {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	return slices.Equal(h.all, wanted)
}

func (h *heard) on(subject string) []listener.Handler {
	return []listener.Handler{listener.OnMessage(subject, func(_ context.Context, m *inbox.Message) error {
		h.add(m)
		return nil
	})}
}

// proxy passes connections on to the server, after whatever greet does with them.
type proxy struct {
	net.Listener
	mutex   sync.Mutex
	clients []net.Conn
	left    atomic.Int32
}

func (w *listenerWorld) proxy(t *testing.T, greet func(client net.Conn) (isDone bool)) *proxy {
	t.Helper()
	server, err := url.Parse(w.servers.NATSURL)
	check(t, err)
	accepting, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	p := &proxy{Listener: accepting}
	t.Cleanup(func() { _ = p.Close() })
	go func() {
		for {
			client, err := p.Accept()
			if err != nil {
				return
			}
			go func() {
				defer client.Close()
				if greet != nil && greet(client) {
					return
				}
				upstream, err := net.Dial("tcp", server.Host)
				if err != nil {
					return
				}
				defer upstream.Close()
				p.mutex.Lock()
				p.clients = append(p.clients, client)
				p.mutex.Unlock()
				go func() { _, _ = io.Copy(client, upstream) }()
				_, _ = io.Copy(upstream, client)
				p.left.Add(1)
			}()
		}
	}()
	return p
}

func (p *proxy) all() []net.Conn {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	return slices.Clone(p.clients)
}
