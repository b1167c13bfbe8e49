package io.outboxd.testing;

import com.mongodb.ConnectionString;
import com.mongodb.MongoClientSettings;
import com.mongodb.MongoException;
import com.mongodb.client.MongoClient;
import com.mongodb.client.MongoClients;
import com.mongodb.client.MongoDatabase;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.bson.Document;

/**
 * A MongoDB and a NATS that run until they are closed. They end with this process, however it ends.
 *
 * <p>Each program is the one that {@code OUTBOXD_MONGOD}, {@code OUTBOXD_NATS_SERVER} or {@code OUTBOXD_BIN} names, or
 * the one on PATH, or the newest one in the cache of outboxd's {@code deploy/local/servers fetch}. If {@code
 * OUTBOXD_TEST_MONGODB_URI} and {@code OUTBOXD_TEST_NATS_URL} are set, those servers are used and only relays are
 * started.
 */
public final class Servers implements AutoCloseable {
    private static final Pattern NATS_PORT = Pattern.compile("\"nats\"\\s*:\\s*\\[\\s*\"([^\"]+)\"");

    private final Path folder;
    private final List<Program> started = new ArrayList<>();
    private String mongodbUri = System.getenv("OUTBOXD_TEST_MONGODB_URI");
    private String natsUrl = System.getenv("OUTBOXD_TEST_NATS_URL");

    private Servers(Path folder) {
        this.folder = folder;
    }

    /**
     * Starts the servers.
     *
     * @return the servers; close them
     */
    public static Servers start() {
        try {
            Servers servers = new Servers(Files.createTempDirectory("outboxd-test-"));
            try {
                if (servers.mongodbUri == null || servers.natsUrl == null) {
                    servers.startMongod();
                    servers.startNats();
                }
                return servers;
            } catch (IOException | RuntimeException e) {
                servers.close();
                throw e;
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /**
     * Returns where MongoDB is.
     *
     * @return a connection string without a database
     */
    public String mongodbUri() {
        return mongodbUri;
    }

    /**
     * Returns where NATS is.
     *
     * @return a URL
     */
    public String natsUrl() {
        return natsUrl;
    }

    /**
     * Makes the outbox of a database and the stream, and starts a relay.
     *
     * @param database the database
     * @param stream the stream
     * @param subjects the subjects of the stream, wildcards allowed
     * @return the relay
     */
    public Relay relay(String database, String stream, String... subjects) {
        return relay(database, stream, List.of(subjects), Map.of());
    }

    /**
     * Makes the outbox of a database and the stream, and starts a relay with settings.
     *
     * @param database the database
     * @param stream the stream
     * @param subjects the subjects of the stream, wildcards allowed
     * @param settings settings such as {@code OUTBOXD_EVENT__CLOUDEVENTS=binary}
     * @return the relay
     */
    public Relay relay(String database, String stream, List<String> subjects, Map<String, String> settings) {
        Map<String, String> env = new java.util.HashMap<>(Map.of(
                "MONGODB_URI", withDatabase(mongodbUri, database),
                "NATS_URL", natsUrl,
                "NATS_CLUSTER_ID", stream,
                "OUTBOXD_STREAM__SUBJECTS", String.join(",", subjects),
                "OUTBOXD_ADMIN__LISTEN", "127.0.0.1:0",
                "OUTBOXD_ALERTS__FILE", folder.resolve(stream + ".alerts").toString(),
                // A relay that was killed is followed soon.
                "OUTBOXD_LEASE__TTL", "3s",
                "OUTBOXD_RETRY__OUTAGE_GRACE", "2s",
                "OUTBOXD_NATS__ACK_TIMEOUT", "1s"));
        env.putAll(settings);
        String binary = Program.find("outboxd", "OUTBOXD_BIN", "outboxd");
        Program migrating = launch(env, binary, "migrate");
        try {
            if (migrating.waitFor() != 0) {
                throw new IllegalStateException("outboxd migrate failed; its log:\n" + migrating.log());
            }
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException("interrupted", e);
        }
        Relay relay = new Relay(this, env, binary);
        relay.start();
        return relay;
    }

    private static String withDatabase(String uri, String database) {
        int host = uri.indexOf("://") + 3;
        int query = uri.indexOf('?');
        int path = uri.indexOf('/', host);
        String front = uri.substring(0, path >= 0 ? path : query >= 0 ? query : uri.length());
        String options = query >= 0 ? uri.substring(query) : "";
        if (uri.indexOf('@') >= 0 && !options.contains("authSource")) {
            options += (options.isEmpty() ? "?" : "&") + "authSource=admin";
        }
        return front + "/" + database + options;
    }

    /** Ends what was started and removes its files. */
    @Override
    public void close() {
        for (int i = started.size() - 1; i >= 0; i--) {
            started.get(i).kill();
        }
        started.clear();
        if (!Files.exists(folder)) {
            return;
        }
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                Files.delete(file);
            }
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    Program launch(Map<String, String> env, String... command) {
        Program program = Program.launch(folder.resolve(started.size() + ".log"), env, command);
        started.add(program);
        return program;
    }

    private void startMongod() throws IOException {
        String binary = Program.find("mongod", "OUTBOXD_MONGOD", "mongod-");
        String host = "127.0.0.1:" + freePort();
        Path data = Files.createDirectory(folder.resolve("mongod"));
        Program program = launch(Map.of(), binary, "--replSet", "rs0", "--dbpath", data.toString(), "--bind_ip",
                "127.0.0.1", "--port", host.substring(host.indexOf(':') + 1), "--nounixsocket", "--quiet",
                "--wiredTigerCacheSizeGB", "0.25");
        MongoClientSettings settings = MongoClientSettings.builder()
                .applyConnectionString(new ConnectionString("mongodb://" + host + "/?directConnection=true"))
                .applyToClusterSettings(cluster -> cluster.serverSelectionTimeout(1, TimeUnit.SECONDS))
                .build();
        try (MongoClient client = MongoClients.create(settings)) {
            program.until("mongod is a writable primary", () -> isPrimary(client.getDatabase("admin"), host));
        }
        mongodbUri = "mongodb://" + host + "/?replicaSet=rs0";
    }

    private static boolean isPrimary(MongoDatabase admin, String host) {
        try {
            Document hello = admin.runCommand(new Document("hello", 1));
            if (!hello.containsKey("setName")) {
                Document member = new Document("_id", 0).append("host", host);
                Document set = new Document("_id", "rs0").append("members", List.of(member));
                admin.runCommand(new Document("replSetInitiate", set));
            }
            return hello.getBoolean("isWritablePrimary", false);
        } catch (MongoException e) {
            return false; // not yet; the log is shown if it stays so
        }
    }

    private void startNats() throws IOException {
        String binary = Program.find("nats-server", "OUTBOXD_NATS_SERVER", "nats-server-");
        Program program = launch(Map.of(), binary, "--addr", "127.0.0.1", "--port", "-1", "--ports_file_dir",
                folder.toString(), "--jetstream", "--store_dir", folder.resolve("nats").toString());
        program.until("nats-server listens", () -> {
            try (Stream<Path> files = Files.list(folder)) {
                for (Path file : files.filter(name -> name.toString().endsWith(".ports")).toList()) {
                    Matcher port = NATS_PORT.matcher(Files.readString(file));
                    if (port.find()) {
                        natsUrl = port.group(1);
                        return true;
                    }
                }
                return false;
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        });
    }

    private static int freePort() throws IOException {
        try (ServerSocket socket = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"))) {
            return socket.getLocalPort();
        }
    }

    /** The outboxd between a database and a stream. */
    public static final class Relay {
        private final Servers servers;
        private final Map<String, String> env;
        private final String binary;
        private Program running;

        Relay(Servers servers, Map<String, String> env, String binary) {
            this.servers = servers;
            this.env = env;
            this.binary = binary;
        }

        /**
         * Returns where MongoDB is.
         *
         * @return a connection string with the database in it
         */
        public String mongodbUri() {
            return env.get("MONGODB_URI");
        }

        /** Starts the relay again after {@link #kill}. */
        public void start() {
            running = servers.launch(env, binary, "run");
        }

        /** Ends the relay as {@code kill -9} does. */
        public void kill() {
            running.kill();
        }
    }
}
