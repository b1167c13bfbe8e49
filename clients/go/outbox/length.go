package outbox

import (
	"encoding/base64"
	"math"
	"strconv"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// publishedLen returns how many bytes a checked payload has as the relay publishes it.
func publishedLen(payload any) int {
	switch payload := payload.(type) {
	case string:
		return len(payload)
	case bson.Binary:
		return len(payload.Data)
	}
	return jsonLen(payload)
}

func jsonLen(value any) int {
	switch value := value.(type) {
	case bson.D:
		length := 2 + max(0, len(value)-1)
		for _, element := range value {
			length += textLen(element.Key) + 1 + jsonLen(element.Value)
		}
		return length
	case bson.A:
		length := 2 + max(0, len(value)-1)
		for _, item := range value {
			length += jsonLen(item)
		}
		return length
	case string:
		return textLen(value)
	case bson.Symbol:
		return textLen(string(value))
	case bool:
		return len(strconv.FormatBool(value))
	case int32:
		return len(strconv.FormatInt(int64(value), 10))
	case int64:
		return len(strconv.FormatInt(value, 10))
	case float64:
		return doubleLen(value)
	case bson.ObjectID:
		return 26
	case bson.DateTime:
		return 2 + len(time.UnixMilli(int64(value)).UTC().Format(time.RFC3339Nano))
	case bson.Decimal128:
		return 2 + len(value.String())
	case bson.Binary:
		if value.Subtype == uuidSubtype && len(value.Data) == 16 {
			return 38
		}
		return 2 + base64.StdEncoding.EncodedLen(len(value.Data))
	}
	return len("null")
}

func textLen(text string) int {
	length := 2
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\' || c == '\b' || c == '\f' || c == '\n' || c == '\r' || c == '\t':
			length += 2
		case c < 0x20:
			length += 6
		default:
			length++
		}
	}
	return length
}

// doubleLen is the length of a double as `JSON.stringify` writes it.
func doubleLen(number float64) int {
	if number == 0 {
		return 1 // minus zero, too
	}
	size := math.Abs(number)
	if size >= 1e-6 && size < 1e21 {
		return len(strconv.FormatFloat(number, 'f', -1, 64))
	}
	text := strconv.FormatFloat(number, 'e', -1, 64)
	// Go writes at least two digits of an exponent.
	if end := len(text); text[end-2] == '0' {
		return end - 1
	}
	return len(text)
}
