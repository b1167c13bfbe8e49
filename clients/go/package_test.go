package outboxd_test

// The module and its test kit as a service uses them.

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/outboxd/outboxd/clients/go/outboxdtest"
)

// TestReadme builds both examples of the README in an empty module, and runs the first one.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	check(t, err)
	examples := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindAllSubmatch(readme, -1)
	if len(examples) != 2 {
		t.Fatal(len(examples))
	}
	here, err := os.Getwd()
	check(t, err)
	folder := t.TempDir()
	for i, example := range examples {
		check(t, os.WriteFile(filepath.Join(folder, fmt.Sprintf("example%d.go", i)), example[1], 0o600))
	}

	// The module's own versions, so that nothing is looked up.
	own, err := os.ReadFile("go.mod")
	check(t, err)
	const name = "github.com/outboxd/outboxd/clients/go"
	module := bytes.Replace(own, []byte("module "+name), []byte("module shop"), 1)
	module = fmt.Appendf(module, "\nrequire %s v0.0.0\nreplace %s => %s\n", name, name, here)
	check(t, os.WriteFile(filepath.Join(folder, "go.mod"), module, 0o600))
	sums, err := os.ReadFile("go.sum")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(folder, "go.sum"), sums, 0o600))
	build := exec.Command("go", "build", "-mod=mod", "-o", "shop", ".")
	build.Dir = folder
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	servers := outboxdtest.Start(t)
	relay, err := servers.Relay("shop", "SHOP", []string{"order.>"})
	check(t, err)
	run := exec.Command(filepath.Join(folder, "shop"))
	run.Env = append(os.Environ(), "MONGODB_URI="+relay.MongoDBURI)
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	conn, err := nats.Connect(servers.NATSURL)
	check(t, err)
	defer conn.Close()
	js, err := jetstream.New(conn)
	check(t, err)
	consumer, err := js.OrderedConsumer(t.Context(), "SHOP", jetstream.OrderedConsumerConfig{})
	check(t, err)
	message, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
	check(t, err)
	if message.Subject() != "order.placed" || string(message.Data()) != `{"id":"1042","total":25,"version":0}` {
		t.Fatalf("%s %s", message.Subject(), message.Data())
	}
}

func TestServersEnd(t *testing.T) {
	listens := func(uri string) bool {
		parsed, err := url.Parse(uri)
		check(t, err)
		conn, err := net.Dial("tcp", parsed.Host)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}
	servers, err := outboxdtest.StartServers()
	check(t, err)
	if !listens(servers.MongoDBURI) || !listens(servers.NATSURL) {
		t.Fatal("they do not listen")
	}
	check(t, servers.Stop())
	if listens(servers.MongoDBURI) || listens(servers.NATSURL) {
		t.Fatal("they still listen")
	}
	check(t, servers.Stop())

	// A process that is killed takes its servers with it.
	t.Setenv("TMPDIR", t.TempDir()) // which it can't remove
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), "OUTBOXD_TEST_PART=servers")
	input, err := command.StdinPipe()
	check(t, err)
	defer input.Close() //nolint:errcheck // the process has ended
	output, err := command.StdoutPipe()
	check(t, err)
	check(t, command.Start())
	var mongodb, natsURL string
	_, err = fmt.Fscanln(output, &mongodb, &natsURL)
	if err == nil && !(listens(mongodb) && listens(natsURL)) {
		t.Error("they do not listen")
	}
	_ = command.Process.Kill()
	_ = command.Wait()
	check(t, err)
	until(t, "the servers have ended", func() bool { return !listens(mongodb) && !listens(natsURL) })
}

func TestMissingProgramIsNamedWithTheRemedy(t *testing.T) {
	empty := t.TempDir()
	t.Setenv("PATH", empty)
	t.Setenv("OUTBOXD_CACHE", empty)
	t.Setenv("OUTBOXD_MONGOD", "")
	t.Setenv("OUTBOXD_NATS_SERVER", "")
	t.Setenv("OUTBOXD_TEST_MONGODB_URI", "")
	_, err := outboxdtest.StartServers()
	if err == nil || !strings.Contains(err.Error(), "no mongod: set OUTBOXD_MONGOD to its path, or put it on PATH") {
		t.Fatal(err)
	}
}
