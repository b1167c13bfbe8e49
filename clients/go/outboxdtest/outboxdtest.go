// Package outboxdtest starts servers for a service's own tests: a mongod, a nats-server and the relay
// between them.
//
// Each program is the one that OUTBOXD_MONGOD, OUTBOXD_NATS_SERVER or OUTBOXD_BIN names, or the one
// on PATH, or the newest one in the cache of outboxd's `deploy/local/servers fetch`. If
// OUTBOXD_TEST_MONGODB_URI and OUTBOXD_TEST_NATS_URL are set, those servers are used and only relays
// are started.
package outboxdtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

// patience is how long a server may take to start.
const patience = 60 * time.Second

// Servers are a MongoDB and a NATS that run.
type Servers struct {
	MongoDBURI string
	NATSURL    string

	folder  string
	started []*program
}

// TB is the part of a [testing.TB] that is needed.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(func())
}

// Start starts the servers and ends them when the test ends.
func Start(t TB) *Servers {
	t.Helper()
	servers, err := StartServers()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := servers.Stop(); err != nil {
			t.Fatal(err)
		}
	})
	return servers
}

// StartServers starts the servers; Stop ends them. They end with this process, however it ends.
func StartServers() (*Servers, error) {
	folder, err := os.MkdirTemp("", "outboxd-test-")
	if err != nil {
		return nil, err
	}
	s := &Servers{folder: folder, MongoDBURI: os.Getenv("OUTBOXD_TEST_MONGODB_URI"), NATSURL: os.Getenv("OUTBOXD_TEST_NATS_URL")}
	if s.MongoDBURI == "" || s.NATSURL == "" {
		if err := errors.Join(s.startMongod(), s.startNATS()); err != nil {
			return nil, errors.Join(err, s.Stop())
		}
	}
	return s, nil
}

// Stop ends what was started and removes its files.
func (s *Servers) Stop() error {
	for i := len(s.started) - 1; i >= 0; i-- {
		s.started[i].kill()
	}
	return os.RemoveAll(s.folder)
}

// Relay is the outboxd between a database and a stream.
type Relay struct {
	// MongoDBURI has the database in it.
	MongoDBURI string

	servers *Servers
	env     []string
	running *program
}

// Relay makes the outbox of a database and the stream, and starts a relay. Settings are of the form
// OUTBOXD_EVENT__CLOUDEVENTS=binary.
func (s *Servers) Relay(database, stream string, subjects []string, settings ...string) (*Relay, error) {
	uri, err := url.Parse(s.MongoDBURI)
	if err != nil {
		return nil, err
	}
	query := uri.Query()
	if uri.User != nil && query.Get("authSource") == "" {
		query.Set("authSource", "admin")
	}
	uri.Path, uri.RawQuery = "/"+database, query.Encode()

	r := &Relay{MongoDBURI: uri.String(), servers: s, env: append([]string{
		"MONGODB_URI=" + uri.String(),
		"NATS_URL=" + s.NATSURL,
		"NATS_CLUSTER_ID=" + stream,
		"OUTBOXD_STREAM__SUBJECTS=" + strings.Join(subjects, ","),
		"OUTBOXD_ADMIN__LISTEN=127.0.0.1:0",
		"OUTBOXD_ALERTS__FILE=" + filepath.Join(s.folder, stream+".alerts"),
		// A relay that was killed is followed soon.
		"OUTBOXD_LEASE__TTL=3s",
		"OUTBOXD_RETRY__OUTAGE_GRACE=2s",
		"OUTBOXD_NATS__ACK_TIMEOUT=1s",
	}, settings...)}

	path, err := find("outboxd", "OUTBOXD_BIN", "outboxd")
	if err != nil {
		return nil, err
	}
	migrated, err := migrate(path, r.env)
	if err != nil {
		return nil, fmt.Errorf("outboxd migrate: %w\n%s", err, migrated)
	}
	return r, r.Start()
}

// Start starts the relay again after Kill.
func (r *Relay) Start() error {
	path, err := find("outboxd", "OUTBOXD_BIN", "outboxd")
	if err != nil {
		return err
	}
	r.running, err = r.servers.launch(path, r.env, "run")
	return err
}

// Kill ends the relay as `kill -9` does.
func (r *Relay) Kill() { r.running.kill() }

func (s *Servers) startMongod() error {
	path, err := find("mongod", "OUTBOXD_MONGOD", "mongod-")
	if err != nil {
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	host := fmt.Sprintf("127.0.0.1:%d", port)
	data := filepath.Join(s.folder, "mongod")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	running, err := s.launch(path, nil, "--replSet", "rs0", "--dbpath", data, "--bind_ip", "127.0.0.1",
		"--port", fmt.Sprint(port), "--nounixsocket", "--quiet", "--wiredTigerCacheSizeGB", "0.25")
	if err != nil {
		return err
	}

	client, err := mongo.Connect(options.Client().ApplyURI("mongodb://" + host + "/?directConnection=true").
		SetServerSelectionTimeout(time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(context.Background()) //nolint:errcheck // nothing is left to lose
	s.MongoDBURI = "mongodb://" + host + "/?replicaSet=rs0"
	return running.until("mongod is a writable primary", func() bool { return isPrimary(client.Database("admin"), host) })
}

func isPrimary(admin *mongo.Database, host string) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()

	var hello struct {
		SetName           string `bson:"setName"`
		IsWritablePrimary bool   `bson:"isWritablePrimary"`
	}
	if admin.RunCommand(ctx, bson.D{{Key: "hello", Value: 1}}).Decode(&hello) != nil {
		return false
	}
	if hello.SetName == "" {
		member := bson.D{{Key: "_id", Value: 0}, {Key: "host", Value: host}}
		set := bson.D{{Key: "_id", Value: "rs0"}, {Key: "members", Value: bson.A{member}}}
		// A failure shows in the next hello.
		_ = admin.RunCommand(ctx, bson.D{{Key: "replSetInitiate", Value: set}}).Err()
	}
	return hello.IsWritablePrimary
}

func (s *Servers) startNATS() error {
	path, err := find("nats-server", "OUTBOXD_NATS_SERVER", "nats-server-")
	if err != nil {
		return err
	}
	running, err := s.launch(path, nil, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir", s.folder,
		"--jetstream", "--store_dir", filepath.Join(s.folder, "nats"))
	if err != nil {
		return err
	}
	return running.until("nats-server listens", func() bool {
		files, err := filepath.Glob(filepath.Join(s.folder, "*.ports"))
		if err != nil || len(files) == 0 {
			return false
		}
		var ports struct {
			NATS []string `json:"nats"`
		}
		text, err := os.ReadFile(files[0])
		if err != nil || json.Unmarshal(text, &ports) != nil || len(ports.NATS) == 0 {
			return false
		}
		s.NATSURL = ports.NATS[0]
		return true
	})
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}
