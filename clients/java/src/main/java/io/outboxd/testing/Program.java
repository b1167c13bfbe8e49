package io.outboxd.testing;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.function.BooleanSupplier;
import java.util.stream.Stream;

/** A program that runs for a test. */
final class Program {
    /** How long a server may take to start. */
    private static final Duration PATIENCE = Duration.ofSeconds(60);
    /** Ends its program when its own input ends, which it does however this process ends. */
    private static final String WRAPPER = "\"$@\" & p=$!; cat >/dev/null; kill -9 $p; wait $p";

    private final Process process;
    private final Path log;

    private Program(Process process, Path log) {
        this.process = process;
        this.log = log;
    }

    static Program launch(Path log, Map<String, String> env, String... command) {
        boolean ends = command[command.length - 1].equals("migrate");
        List<String> words = new ArrayList<>(ends ? List.of() : List.of("sh", "-c", WRAPPER, "sh"));
        words.addAll(List.of(command));
        ProcessBuilder builder = new ProcessBuilder(words).redirectErrorStream(true).redirectOutput(log.toFile());
        builder.environment().putAll(env);
        try {
            return new Program(builder.start(), log);
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    int waitFor() throws InterruptedException {
        return process.waitFor();
    }

    /** Returns once the program has ended. May be called more than once. */
    void kill() {
        try {
            process.getOutputStream().close();
            process.waitFor();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    void until(String what, BooleanSupplier done) {
        long end = System.nanoTime() + PATIENCE.toNanos();
        while (!done.getAsBoolean()) {
            if (!process.isAlive() || System.nanoTime() > end) {
                throw new IllegalStateException("waited in vain until " + what + "; its log:\n" + log());
            }
            try {
                Thread.sleep(100);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                throw new IllegalStateException("interrupted before " + what, e);
            }
        }
    }

    String log() {
        try {
            List<String> lines = Files.readAllLines(log);
            return String.join("\n", lines.subList(Math.max(0, lines.size() - 20), lines.size()));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** Returns the path of a program. */
    static String find(String name, String variable, String cached) {
        String given = System.getenv(variable);
        if (given != null && !given.isEmpty()) {
            return given;
        }
        for (String folder : System.getenv().getOrDefault("PATH", "").split(java.io.File.pathSeparator)) {
            Path path = Path.of(folder, name);
            if (isProgram(path)) {
                return path.toString();
            }
        }

        Path cache = cache();
        if (Files.isDirectory(cache)) {
            try (Stream<Path> files = Files.list(cache)) {
                var found = files.filter(path -> path.getFileName().toString().startsWith(cached))
                        .filter(Program::isProgram)
                        .max(Comparator.comparing(Path::getFileName));
                if (found.isPresent()) {
                    return found.get().toString();
                }
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
        throw new IllegalStateException("no " + name + ": set " + variable + " to its path, or put it on PATH or as "
                + cached + "* into " + cache);
    }

    private static boolean isProgram(Path path) {
        return Files.isRegularFile(path) && Files.isExecutable(path);
    }

    private static Path cache() {
        String own = System.getenv("OUTBOXD_CACHE");
        if (own != null && !own.isEmpty()) {
            return Path.of(own);
        }
        String xdg = System.getenv("XDG_CACHE_HOME");
        boolean hasXdg = xdg != null && !xdg.isEmpty();
        return (hasXdg ? Path.of(xdg) : Path.of(System.getProperty("user.home"), ".cache")).resolve("outboxd");
    }
}
