package io.outboxd;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.bson.BsonArray;
import org.bson.BsonDocument;
import org.bson.BsonInt32;
import org.bson.BsonString;
import org.bson.BsonValue;

/** The cases that every client passes. */
final class Cases {
    private Cases() {}

    static List<BsonDocument> of(String name) throws IOException {
        String folder = System.getenv().getOrDefault("OUTBOXD_CONFORMANCE", "../conformance");
        BsonDocument file = BsonDocument.parse(Files.readString(Path.of(folder, name + ".json")));
        return file.getArray("cases").stream().map(one -> expanded(one).asDocument()).toList();
    }

    /** Writes out the macros of a case. */
    private static BsonValue expanded(BsonValue value) {
        if (value.isArray()) {
            return new BsonArray(value.asArray().stream().map(Cases::expanded).toList());
        }
        if (!value.isDocument()) {
            return value;
        }
        BsonDocument document = value.asDocument();
        if (document.containsKey("$repeat")) {
            BsonArray parts = document.getArray("$repeat");
            return new BsonString(parts.get(0).asString().getValue().repeat(parts.get(1).asInt32().getValue()));
        }
        if (document.containsKey("$concat")) {
            StringBuilder made = new StringBuilder();
            document.getArray("$concat").forEach(part -> made.append(expanded(part).asString().getValue()));
            return new BsonString(made.toString());
        }
        if (document.get("$nest") instanceof BsonInt32 levels) {
            BsonDocument inner = new BsonDocument();
            for (int i = 1; i < levels.getValue(); i++) {
                inner = new BsonDocument("a", inner);
            }
            return inner;
        }
        BsonDocument made = new BsonDocument();
        document.forEach((name, inner) -> made.append(name, expanded(inner)));
        return made;
    }

    static String text(BsonDocument document, String name) {
        return document.containsKey(name) ? document.getString(name).getValue() : null;
    }
}
