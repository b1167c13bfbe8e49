package io.outboxd;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.nats.client.PushSubscribeOptions;
import io.outboxd.testing.Servers;
import java.io.File;
import java.net.Socket;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.ToolProvider;
import org.bson.Document;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The examples of the README, and the test kit as a service uses it. */
class ReadmeTest {
    @TempDir
    Path folder;

    private static String java() {
        return Path.of(System.getProperty("java.home"), "bin", "java").toString();
    }

    private String classes() {
        return folder + File.pathSeparator + System.getProperty("java.class.path");
    }

    @Test
    void bothExamplesAreCompiledAndWorkTogether() throws Exception {
        Matcher example = Pattern.compile("```java\n(import .*?public class (\\w+) .*?)```", Pattern.DOTALL)
                .matcher(Files.readString(Path.of("README.md")));
        List<String> command = new ArrayList<>(List.of("-cp", classes(), "-d", folder.toString()));
        while (example.find()) {
            Path file = Files.writeString(folder.resolve(example.group(2) + ".java"), example.group(1));
            command.add(file.toString());
        }
        assertEquals(6, command.size());
        assertEquals(0, ToolProvider.getSystemJavaCompiler().run(null, null, null, command.toArray(String[]::new)));

        try (World w = new World("SHOP", "order.>")) {
            assertEquals(0, started(w, "Shop").waitFor());
            var messages = w.nats.jetStream().subscribe(">", PushSubscribeOptions.builder().stream("SHOP").ordered(true).build());
            var message = messages.nextMessage(Duration.ofSeconds(30));
            assertEquals("order.placed", message.getSubject());
            assertEquals("{\"id\":\"1042\",\"total\":25,\"version\":0}", new String(message.getData(), StandardCharsets.UTF_8));

            Process consumer = started(w, "Shipping");
            try {
                var shipments = w.client.getDatabase("shipping").getCollection("shipments");
                World.until("it is shipped", () -> shipments.countDocuments(new Document("order", "1042")) == 1);
                consumer.destroy(); // SIGTERM
                assertTrue(consumer.waitFor(30, java.util.concurrent.TimeUnit.SECONDS));
            } finally {
                consumer.destroyForcibly();
            }
        }
    }

    private Process started(World w, String name) throws Exception {
        ProcessBuilder builder = new ProcessBuilder(java(), "-cp", classes(), name).inheritIO();
        builder.redirectOutput(ProcessBuilder.Redirect.DISCARD);
        builder.environment().put("MONGODB_URI", w.relay.mongodbUri());
        builder.environment().put("NATS_URL", w.servers.natsUrl());
        return builder.start();
    }

    private static boolean listens(String uri) {
        URI parsed = URI.create(uri);
        try (Socket socket = new Socket(parsed.getHost(), parsed.getPort())) {
            return true;
        } catch (java.io.IOException e) {
            return false;
        }
    }

    /** Starts servers and keeps them. */
    public static void main(String[] args) throws Exception {
        Servers servers = Servers.start();
        System.out.println(servers.mongodbUri() + " " + servers.natsUrl());
        Thread.sleep(Long.MAX_VALUE);
    }

    @Test
    void theServersEndWhenTheyAreClosedAndWithTheirProcess() throws Exception {
        Servers servers = Servers.start();
        assertTrue(listens(servers.mongodbUri()) && listens(servers.natsUrl()));
        servers.close();
        assertFalse(listens(servers.mongodbUri()) || listens(servers.natsUrl()));
        servers.close();

        // A process that is killed leaves its files.
        Process process = new ProcessBuilder(java(), "-Djava.io.tmpdir=" + folder, "-cp", classes(), ReadmeTest.class.getName())
                .redirectError(ProcessBuilder.Redirect.INHERIT).start();
        String[] uris = process.inputReader().readLine().split(" ");
        assertTrue(listens(uris[0]) && listens(uris[1]));
        process.destroyForcibly().waitFor();
        World.until("the servers have ended", () -> !listens(uris[0]) && !listens(uris[1]));
    }
}
