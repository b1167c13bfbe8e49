package outbox

import (
	"encoding/hex"
	"reflect"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const (
	// maxName is the longest subject, key and string id, in bytes.
	maxName        = 255
	maxHeaders     = 64
	maxHeaderBytes = 32 * 1024
	// uuidSubtype is the one binary subtype whose byte order doesn't depend on the driver.
	uuidSubtype = bson.TypeBinaryUUID
)

// Event is what a service hands to its outbox.
type Event struct {
	// Subject is where the event is published: tokens of printable ASCII, joined by dots.
	Subject string

	// Key is the id of the record that the event is about: a string, a [bson.ObjectID] or a UUID
	// ([bson.Binary] of subtype 4, or a type whose underlying type is [16]byte). Events of one key are
	// published in order. Nil is an event without order.
	Key any

	// Payload is what consumers get. A string, []byte or [bson.Binary] goes out byte for byte.
	// Anything else goes out as JSON, as [encoding/json] writes it; values of BSON's own types go out
	// as plain JSON: an ObjectID and a UUID as text, a [bson.DateTime] as RFC 3339, a decimal as text.
	Payload any

	// Headers are NATS headers.
	Headers map[string]string

	// ID is the id of the event: a [bson.ObjectID], a UUID or a string of printable ASCII. Nil makes a
	// new ObjectID. An id names one event, for ever.
	ID any
}

// Subject is a subject together with the type of its payloads. A writer makes events of it, and a
// listener handles them:
//
//	var TicketCreated = outbox.Subject[Ticket]("ticket.created")
type Subject[T any] string

// Event returns an event of this subject.
func (s Subject[T]) Event(key any, payload T) Event {
	return Event{Subject: string(s), Key: key, Payload: payload}
}

func checkSubject(subject string) error {
	invalid := func(reason string) error { return refuse(CodeSubject, "invalid subject: %s", reason) }
	switch {
	case subject == "":
		return invalid("it is empty")
	case len(subject) > maxName:
		return invalid("it is longer than 255 bytes")
	case strings.ContainsAny(subject, "*>"):
		return invalid("wildcards are for subscribers")
	case !isGraphic(subject):
		return invalid("only printable ASCII without spaces is allowed")
	case strings.Contains("."+subject+".", ".."):
		return invalid("it has an empty token")
	case subject[0] == '$':
		return invalid("subjects that begin with `$` belong to the server")
	case subject == "_INBOX" || strings.HasPrefix(subject, "_INBOX."):
		return invalid("`_INBOX` belongs to replies")
	}
	return nil
}

func isGraphic(text string) bool {
	for i := range len(text) {
		if text[i] < '!' || text[i] > '~' {
			return false
		}
	}
	return true
}

func checkKey(key any) (string, error) {
	invalid := func(reason string) error { return refuse(CodeKey, "invalid key: %s", reason) }
	text, ok := nameOf(key).(string)
	if id := nameOf(key); !ok {
		switch id := id.(type) {
		case bson.ObjectID:
			text = id.Hex()
		case bson.Binary:
			text = uuidText(id.Data)
		default:
			return "", invalid("it is neither text, an ObjectId nor a UUID of subtype 4")
		}
	}

	switch {
	case text == "":
		return "", invalid("it is empty; leave the key out for an event without order")
	case !utf8.ValidString(text):
		return "", invalid("it is not UTF-8")
	case len(text) > maxName:
		return "", invalid("it is longer than 255 bytes")
	}
	return text, nil
}

func checkID(id any) (any, error) {
	invalid := func(reason string) error { return refuse(CodeID, "invalid event id: %s", reason) }
	switch id := nameOf(id).(type) {
	case nil:
		return nil, invalid("it is neither an ObjectId, a UUID of subtype 4 nor text")
	case string:
		if id == "" || len(id) > maxName {
			return nil, invalid("a string id has 1 to 255 bytes")
		}
		if !isGraphic(id) {
			return nil, invalid("a string id is printable ASCII without spaces")
		}
		return id, nil
	default:
		return id, nil
	}
}

// nameOf returns a key or id as a string, an ObjectID or a UUID, or nil if it is none of them.
func nameOf(value any) any {
	switch value := value.(type) {
	case string, bson.ObjectID:
		return value
	case bson.Binary:
		if value.Subtype == uuidSubtype && len(value.Data) == 16 {
			return value
		}
		return nil
	}

	v := reflect.ValueOf(value)
	switch {
	case v.Kind() == reflect.String:
		return v.String()
	case v.Kind() == reflect.Array && v.Len() == 16 && v.Type().Elem().Kind() == reflect.Uint8:
		data := make([]byte, 16)
		reflect.Copy(reflect.ValueOf(data), v)
		return bson.Binary{Subtype: uuidSubtype, Data: data}
	case v.Kind() == reflect.Array && v.CanConvert(reflect.TypeFor[bson.ObjectID]()):
		return v.Convert(reflect.TypeFor[bson.ObjectID]()).Interface()
	}
	return nil
}

func uuidText(data []byte) string {
	text := hex.EncodeToString(data)
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// checkHeaders returns headers as they are written, in the order of their names.
func checkHeaders(headers map[string]string) (bson.D, error) {
	names := make([]string, 0, len(headers))
	for name := range headers {
		names = append(names, name)
	}
	sort.Strings(names)

	made := make(bson.D, 0, len(headers))
	for _, name := range names {
		if reason := checkHeader(made, name, headers[name]); reason != "" {
			return nil, refuse(CodeHeader, "invalid header %q: %s", shortened(name), reason)
		}
		made = append(made, bson.E{Key: name, Value: headers[name]})
	}
	return made, nil
}

// checkHeader returns what is wrong with one more header.
func checkHeader(made bson.D, name, value string) string {
	if name == "" || strings.IndexFunc(name, isNoToken) >= 0 {
		return "a name is letters, digits and !#$%&'*+-.^_`|~"
	}
	if len(name) >= 5 && strings.EqualFold(name[:5], "nats-") {
		return "names that begin with `Nats-` belong to the server"
	}
	if !utf8.ValidString(value) {
		return "a value is UTF-8"
	}
	if strings.IndexFunc(value, unicode.IsControl) >= 0 {
		return "a value has no control characters or line breaks"
	}

	bytes := len(name) + len(value)
	for _, taken := range made {
		if strings.EqualFold(taken.Key, name) {
			return "it is there twice"
		}
		bytes += len(taken.Key) + len(taken.Value.(string))
	}
	if len(made) >= maxHeaders {
		return "an event has at most 64 headers"
	}
	if bytes > maxHeaderBytes {
		return "all headers together are over 32 KiB"
	}
	return ""
}

// isNoToken is true of what the `token` of RFC 9110 lacks.
func isNoToken(r rune) bool {
	isAlphanumeric := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
	return !isAlphanumeric && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
}

func shortened(name string) string {
	if runes := []rune(name); len(runes) > 64 {
		return string(runes[:64])
	}
	return name
}
