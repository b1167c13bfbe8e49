package outboxd_test

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"github.com/outboxd/outboxd/clients/go/inbox"
	"github.com/outboxd/outboxd/clients/go/listener"
	"github.com/outboxd/outboxd/clients/go/outbox"
	"github.com/outboxd/outboxd/clients/go/outboxdtest"
)

const (
	killed  = "KILLED_GO"
	records = 8
)

// record is what the writer keeps and the consumer copies.
type record struct {
	ID      string `bson:"_id" json:"id"`
	Version int    `bson:"version" json:"version"`
	Amount  int    `bson:"amount" json:"amount"`
}

var changed = outbox.Subject[record]("record.changed")

// TestMain is the part that a test has started this program as.
func TestMain(m *testing.M) {
	part := os.Getenv("OUTBOXD_TEST_PART")
	work := map[string]func(*mongo.Client) error{"writer": write, "consumer": consume, "servers": serve}[part]
	if work == nil {
		os.Exit(m.Run())
	}

	go func() { // a part ends with the test, however that ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	client, err := mongo.Connect(options.Client().ApplyURI(cmp.Or(os.Getenv("OUTBOXD_TEST_URI"), "mongodb://127.0.0.1")))
	if err == nil {
		err = work(client)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// serve starts servers and keeps them.
func serve(*mongo.Client) error {
	servers, err := outboxdtest.StartServers()
	if err != nil {
		return err
	}
	fmt.Println(servers.MongoDBURI, servers.NATSURL)
	select {}
}

func write(client *mongo.Client) error {
	db := client.Database(database)
	out := outbox.New(db)
	for {
		session, err := client.StartSession()
		if err != nil {
			return err
		}
		id := fmt.Sprintf("r%d", rand.IntN(records))
		_, err = session.WithTransaction(context.Background(), func(ctx context.Context) (any, error) {
			var next record
			err := db.Collection("records").FindOneAndUpdate(ctx, bson.D{{Key: "_id", Value: id}},
				bson.D{{Key: "$inc", Value: bson.D{{Key: "version", Value: 1}}}, {Key: "$set", Value: bson.D{{Key: "amount", Value: rand.IntN(1000)}}}},
				options.FindOneAndUpdate().SetReturnDocument(options.After)).Decode(&next)
			if err != nil {
				return nil, err
			}
			return out.Enqueue(ctx, changed.Event(next.ID, next))
		})
		session.EndSession(context.Background())
		if err != nil {
			return err
		}
		fmt.Println("wrote")
		time.Sleep(20 * time.Millisecond) // a consumer keeps up with this
	}
}

func consume(client *mongo.Client) error {
	db := client.Database(database)
	replica := inbox.NewReplica(db.Collection("replicas"))
	return listener.Run(context.Background(), listener.Config{
		URL: os.Getenv("OUTBOXD_TEST_NATS"), Stream: killed, Group: "copier", Inbox: inbox.New(db),
		AckWait: time.Second, MaxAckPending: 8, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Handlers: []listener.Handler{listener.On(changed, func(ctx context.Context, _ *inbox.Message, next record) error {
			// The first version was there before the first event.
			if err := replica.Apply(ctx, next); err != nil {
				return err
			}
			_, err := db.Collection("applied").InsertOne(ctx, bson.D{{Key: "id", Value: next.ID}, {Key: "version", Value: next.Version}})
			return err
		})},
	})
}

const database = "killed_go"

// part starts this program as a writer or a consumer; the channel brings a value per line.
func (w *world) part(t *testing.T, uri, name string) (kill func(), lines <-chan struct{}) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "OUTBOXD_TEST_PART="+name, "OUTBOXD_TEST_URI="+uri, "OUTBOXD_TEST_NATS="+w.servers.NATSURL)
	input, err := command.StdinPipe()
	check(t, err)
	out, err := command.StdoutPipe()
	check(t, err)
	command.Stderr = os.Stderr
	check(t, command.Start())
	written := make(chan struct{}, 1)
	go func() {
		defer close(written)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			select {
			case written <- struct{}{}:
			default:
			}
		}
	}()
	var isKilled bool
	kill = func() {
		if !isKilled {
			_ = command.Process.Kill()
			_ = input.Close() // until then it must be held: a pipe that nobody holds is closed
			_ = command.Wait()
		}
		isKilled = true
	}
	t.Cleanup(kill)
	return kill, written
}

func TestReplicasAreEqualAfterKillsInMidLoad(t *testing.T) {
	w, relay := start(t, killed, "record.>")
	// Until a transaction expires, the one of a killed process keeps its documents from all others.
	soon := bson.D{{Key: "setParameter", Value: 1}, {Key: "transactionLifetimeLimitSeconds", Value: 2}}
	check(t, w.client.Database("admin").RunCommand(t.Context(), soon).Err())
	for i := range records {
		first := record{ID: fmt.Sprintf("r%d", i)}
		check(t, w.transaction(t.Context(), func(ctx context.Context) error {
			if _, err := w.db.Collection("records").InsertOne(ctx, first); err != nil {
				return err
			}
			_, err := outbox.New(w.db).Enqueue(ctx, changed.Event(first.ID, first))
			return err
		}))
	}

	applied := func() int {
		count, err := w.db.Collection("applied").CountDocuments(t.Context(), bson.D{})
		check(t, err)
		return int(count)
	}
	wrote := func(lines <-chan struct{}, count int) {
		for range count {
			if _, ok := <-lines; !ok {
				t.Fatal("the writer ended")
			}
		}
	}

	killConsumer, _ := w.part(t, relay.MongoDBURI, "consumer")
	killWriter, lines := w.part(t, relay.MongoDBURI, "writer")
	for range 3 {
		wrote(lines, 20)
		before := applied()
		until(t, "the consumer applies", func() bool { return applied() > before+10 })
		killConsumer()
		wrote(lines, 10)
		killConsumer, _ = w.part(t, relay.MongoDBURI, "consumer")
		wrote(lines, 10)
		relay.Kill()
		wrote(lines, 10)
		check(t, relay.Start())
		killWriter()
		killWriter, lines = w.part(t, relay.MongoDBURI, "writer")
	}
	wrote(lines, 20)
	killWriter()

	until(t, "the replicas are equal", func() bool {
		return text(t, all(t, w.db.Collection("records"))) == text(t, all(t, w.db.Collection("replicas")))
	})
	// Each version was applied once, by whichever consumer.
	var versions int
	for _, one := range all(t, w.db.Collection("records")) {
		versions += int(get(one, "version").(int32)) + 1
	}
	if applied() != versions {
		t.Fatalf("%d versions, applied %d times", versions, applied())
	}
	if failed := all(t, w.db.Collection("inbox_failed")); len(failed) > 0 {
		t.Fatalf("put aside: %v", failed)
	}
	t.Logf("%d versions of %d records, applied once each", versions, records)
}
