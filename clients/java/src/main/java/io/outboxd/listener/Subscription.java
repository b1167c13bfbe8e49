package io.outboxd.listener;

import com.mongodb.client.ClientSession;
import io.outboxd.Message;
import io.outboxd.Subject;
import java.util.List;

/** A subject, which may have wildcards, and what is done with its messages. */
record Subscription(String subject, Handler<Message> handler) {

    static <T> Subscription of(Subject<T> subject, Handler<? super T> handler, Decoder decoder) {
        return new Subscription(subject.name(), (ClientSession session, Message message, Message same) ->
                handler.handle(session, message, decoder.decode(message, subject.type())));
    }

    /** Reads payloads. */
    interface Decoder {
        <T> T decode(Message message, Class<T> type) throws Exception;
    }

    /**
     * Returns what the consumer asks for. The server refuses subjects that overlap, so those that another one covers are
     * left out.
     */
    static List<String> subjects(List<Subscription> all) {
        return all.stream()
                .map(Subscription::subject)
                .filter(one -> all.stream().noneMatch(other -> !other.subject.equals(one) && other.matches(one)))
                .distinct()
                .sorted()
                .toList();
    }

    /** True if this covers a subject, which may have wildcards itself. */
    boolean matches(String other) {
        String[] wanted = subject.split("\\.");
        String[] tokens = other.split("\\.");
        for (int i = 0; i < wanted.length; i++) {
            if (wanted[i].equals(">")) {
                return i < tokens.length;
            }
            boolean isSame = i < tokens.length && !tokens[i].equals(">")
                    && (wanted[i].equals("*") || wanted[i].equals(tokens[i]));
            if (!isSame) {
                return false;
            }
        }
        return wanted.length == tokens.length;
    }

    static boolean isPattern(String subject) {
        String[] tokens = subject.split("\\.", -1);
        for (int i = 0; i < tokens.length; i++) {
            boolean isToken = !tokens[i].isEmpty() && tokens[i].chars().noneMatch(c -> c <= ' ')
                    && (!tokens[i].equals(">") || i == tokens.length - 1);
            if (!isToken) {
                return false;
            }
        }
        return true;
    }
}
