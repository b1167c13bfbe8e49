package outbox

// How the JSON that a value makes of itself becomes BSON.

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strconv"
	"strings"

	"go.mongodb.org/mongo-driver/v2/bson"
)

// parse returns JSON as BSON, with its fields in their order.
func parse(text []byte, where *at, depth int) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return parseValue(decoder, where, depth)
}

func parseValue(decoder *json.Decoder, where *at, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, refusePayload("%s is no JSON: %v", where, err)
	}

	switch token := token.(type) {
	case json.Number:
		return convertNumber(token.String(), where)
	case json.Delim:
		if depth >= maxDepth {
			return nil, refusePayload("it is nested deeper than 100 levels")
		}
		if token == '[' {
			return parseArray(decoder, where, depth)
		}
		return parseDocument(decoder, where, depth)
	default:
		return token, nil
	}
}

func parseArray(decoder *json.Decoder, where *at, depth int) (any, error) {
	made := bson.A{}
	for decoder.More() {
		value, err := parseValue(decoder, where.item(len(made)), depth+1)
		if err != nil {
			return nil, err
		}
		made = append(made, value)
	}
	_, err := decoder.Token()
	return made, err
}

func parseDocument(decoder *json.Decoder, where *at, depth int) (any, error) {
	made := bson.D{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, refusePayload("%s is no JSON: %v", where, err)
		}
		name, _ := token.(string) // before a value it is nothing else
		inside := where.inside(name)
		if strings.Contains(name, "\x00") {
			return nil, notJSON(inside, "named with a null character")
		}
		value, err := parseValue(decoder, inside, depth+1)
		if err != nil {
			return nil, err
		}
		made = append(made, bson.E{Key: name, Value: value})
	}
	_, err := decoder.Token()
	return made, err
}

// convertNumber returns the number that a text names, and refuses one that would lose digits.
func convertNumber(text string, where *at) (any, error) {
	if text == "" {
		return int32(0), nil // as encoding/json writes an empty json.Number
	}
	if !strings.ContainsAny(text, ".eE") {
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, notJSON(where, "a whole number beyond 64 bits")
		}
		return integer(number), nil
	}

	number, err := strconv.ParseFloat(text, 64)
	if err != nil || digits(text) > doubleDigits {
		return nil, notJSON(where, "a number that no double holds")
	}
	return number, nil
}

// digits returns how many digits of a number count.
func digits(text string) int {
	mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
	count := strings.Map(func(r rune) rune {
		if r < '0' || r > '9' {
			return -1
		}
		return r
	}, mantissa)
	return len(strings.Trim(count, "0"))
}
