package outbox

// How a payload becomes BSON that the relay publishes as expected.
//
// Go's own values are written so that the message is what encoding/json would have sent: its struct
// tags, omitempty, embedded fields and marshalers count. BSON's own values keep their types, and the
// relay publishes them as plain JSON. What JSON lacks is refused with its path.

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.mongodb.org/mongo-driver/v2/bson"
)

const (
	// maxDepth is the deepest nesting of documents and arrays.
	maxDepth = 100
	// earliestDate and latestDate bound the dates that RFC 3339 can write.
	earliestDate = -62_167_219_200_000
	latestDate   = 253_402_300_799_999
	// doubleDigits is how many digits name a double. A text with more would lose some.
	doubleDigits = 17
)

// at is the place of a value in a payload; nil is the payload itself.
type at struct {
	outer *at
	name  string
	index int // of an array, if name is empty and isField false
	field bool
}

func (a *at) inside(name string) *at { return &at{outer: a, name: name, field: true} }
func (a *at) item(index int) *at     { return &at{outer: a, index: index} }

func (a *at) String() string {
	switch {
	case a == nil:
		return "payload"
	case !a.field:
		return fmt.Sprintf("%s[%d]", a.outer, a.index)
	case isPlainName(a.name):
		return a.outer.String() + "." + a.name
	default:
		return fmt.Sprintf("%s[%q]", a.outer, shortened(a.name))
	}
}

func isPlainName(name string) bool {
	for i, r := range name {
		isLetter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r == '_' || r == '$'
		if !isLetter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

func refusePayload(format string, arguments ...any) error {
	return refuse(CodePayload, "invalid payload: "+format, arguments...)
}

func notJSON(where *at, what string) error {
	return refusePayload("%s is %s; it has no plain form in JSON", where, what)
}

// checkPayload returns a payload as a bson.D, a bson.A, a string or a bson.Binary.
func checkPayload(payload any) (any, error) {
	switch payload := payload.(type) {
	case string:
		return payload, checkText(payload, nil)
	case []byte:
		return bson.Binary{Data: payload}, nil
	case bson.Binary:
		return payload, nil
	}

	made, err := convert(reflect.ValueOf(payload), nil, 0)
	if err != nil {
		return nil, err
	}
	switch made.(type) {
	case bson.D, bson.A:
		return made, nil
	}
	kind := "null"
	if payload != nil {
		kind = fmt.Sprintf("%T", payload)
	}
	return nil, refusePayload("it is of type %s; a payload is a document, an array, a string or binary", kind)
}

func checkText(text string, where *at) error {
	if !utf8.ValidString(text) {
		return notJSON(where, "text that is not UTF-8")
	}
	return nil
}

// convert returns a value as BSON. Depth is that of the documents and arrays around it.
func convert(v reflect.Value, where *at, depth int) (any, error) {
	for pointers := 0; v.Kind() == reflect.Interface || v.Kind() == reflect.Pointer; pointers++ {
		if v.IsNil() {
			return nil, nil
		}
		if pointers > maxDepth {
			return nil, refusePayload("it is nested deeper than 100 levels")
		}
		if v.Kind() == reflect.Pointer && !isBSON(v.Elem()) {
			if made, done, err := marshaled(v.Interface(), where, depth); done {
				return made, err
			}
		}
		v = v.Elem()
	}
	if !v.IsValid() {
		return nil, nil
	}

	value := v.Interface()
	if isBSON(v) {
		return convertBSON(value, where, depth)
	}
	if v.CanAddr() {
		value = v.Addr().Interface() // has the methods of the pointer, too
	}
	if made, done, err := marshaled(value, where, depth); done {
		return made, err
	}
	return convertKind(v, where, depth)
}

// isBSON is true of the types that convertBSON knows. They are converted whichever marshalers they
// have.
func isBSON(v reflect.Value) bool {
	switch v.Type() {
	case reflect.TypeFor[bson.D](), reflect.TypeFor[json.Number](), reflect.TypeFor[time.Time]():
		return true
	}
	return v.Kind() != reflect.Map && v.Type().PkgPath() == reflect.TypeFor[bson.D]().PkgPath() &&
		v.Type() != reflect.TypeFor[bson.A]() && v.Type() != reflect.TypeFor[bson.E]()
}

// convertBSON returns a value of BSON's own types.
func convertBSON(value any, where *at, depth int) (made any, err error) {
	switch value := value.(type) {
	case bson.D:
		made, err = convertDocument(value, where, depth)
	case bson.Raw:
		var document bson.D
		if err = bson.Unmarshal(value, &document); err == nil {
			made, err = convertDocument(document, where, depth)
		}
	case bson.RawArray:
		var items bson.A
		if err = bson.UnmarshalValue(bson.TypeArray, value, &items); err == nil {
			made, err = convertArray(reflect.ValueOf(items), where, depth)
		}
	case bson.RawValue:
		var inner any
		if err = value.Unmarshal(&inner); err == nil {
			made, err = convert(reflect.ValueOf(inner), where, depth)
		}
	case bson.ObjectID, bson.Binary:
		made = value
	case bson.Symbol:
		made, err = value, checkText(string(value), where)
	case bson.Null, bson.Undefined:
		made = nil
	case bson.DateTime:
		if value < earliestDate || value > latestDate {
			return nil, notJSON(where, "a date outside the years 0 to 9999")
		}
		made = value
	case bson.Decimal128:
		made = value
		if text := strings.ToLower(value.String()); strings.Contains(text, "nan") {
			err = notJSON(where, "a decimal NaN")
		} else if strings.Contains(text, "inf") {
			err = notJSON(where, "a decimal "+value.String())
		}
	case bson.Regex:
		err = notJSON(where, "of type regex")
	case bson.JavaScript:
		err = notJSON(where, "of type javascript")
	case bson.CodeWithScope:
		err = notJSON(where, "of type javascriptWithScope")
	case bson.Timestamp:
		err = notJSON(where, "of type timestamp")
	case bson.DBPointer:
		err = notJSON(where, "of type dbPointer")
	case bson.MinKey:
		err = notJSON(where, "of type minKey")
	case bson.MaxKey:
		err = notJSON(where, "of type maxKey")
	case json.Number:
		made, err = convertNumber(value.String(), where)
	case time.Time:
		// As encoding/json writes it: nanoseconds and zone stay.
		var text []byte
		if text, err = value.MarshalText(); err != nil {
			err = notJSON(where, "a date outside the years 0 to 9999")
		}
		made = string(text)
	default:
		err = notJSON(where, fmt.Sprintf("of type %T", value))
	}
	return made, err
}

func convertDocument(document bson.D, where *at, depth int) (any, error) {
	if depth >= maxDepth {
		return nil, refusePayload("it is nested deeper than 100 levels")
	}
	made := make(bson.D, 0, len(document))
	for _, element := range document {
		inner, err := convertField(element.Key, reflect.ValueOf(element.Value), where, depth)
		if err != nil {
			return nil, err
		}
		made = append(made, inner)
	}
	return made, nil
}

func convertField(name string, v reflect.Value, where *at, depth int) (bson.E, error) {
	inside := where.inside(name)
	if strings.Contains(name, "\x00") {
		return bson.E{}, notJSON(inside, "named with a null character")
	}
	if !utf8.ValidString(name) {
		return bson.E{}, notJSON(inside, "named by text that is not UTF-8")
	}
	value, err := convert(v, inside, depth+1)
	return bson.E{Key: name, Value: value}, err
}

// marshaled returns a value that knows its own JSON or text; done is false for all others.
func marshaled(value any, where *at, depth int) (made any, done bool, err error) {
	switch value := value.(type) {
	case json.Marshaler:
		text, err := json.Marshal(value)
		if err != nil {
			return nil, true, refusePayload("%s can't be written as JSON: %v", where, err)
		}
		made, err := parse(text, where, depth)
		return made, true, err
	case encoding.TextMarshaler:
		text, err := value.MarshalText()
		if err != nil {
			return nil, true, refusePayload("%s can't be written as text: %v", where, err)
		}
		return string(text), true, checkText(string(text), where)
	}
	return nil, false, nil
}

func convertKind(v reflect.Value, where *at, depth int) (any, error) {
	switch v.Kind() {
	case reflect.Bool:
		return v.Bool(), nil
	case reflect.String:
		return v.String(), checkText(v.String(), where)
	case reflect.Int64:
		return v.Int(), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32:
		return integer(v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		if v.Uint() > math.MaxInt64 {
			return nil, notJSON(where, "a whole number beyond 64 bits")
		}
		return integer(int64(v.Uint())), nil
	case reflect.Float32:
		// The shortest digits that name it, as encoding/json writes a float32.
		number, err := strconv.ParseFloat(strconv.FormatFloat(v.Float(), 'g', -1, 32), 64)
		if err != nil {
			number = v.Float()
		}
		return number, checkDouble(number, where)
	case reflect.Float64:
		return v.Float(), checkDouble(v.Float(), where)
	case reflect.Slice:
		if v.IsNil() {
			return nil, nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return bson.Binary{Data: v.Bytes()}, nil
		}
		return convertArray(v, where, depth)
	case reflect.Array:
		return convertArray(v, where, depth)
	case reflect.Map:
		return convertMap(v, where, depth)
	case reflect.Struct:
		return convertStruct(v, where, depth)
	}
	return nil, notJSON(where, "of type "+v.Type().String())
}

func integer(number int64) any {
	if number >= math.MinInt32 && number <= math.MaxInt32 {
		return int32(number)
	}
	return number
}

func checkDouble(number float64, where *at) error {
	switch {
	case math.IsNaN(number):
		return notJSON(where, "NaN")
	case math.IsInf(number, 1):
		return notJSON(where, "Infinity")
	case math.IsInf(number, -1):
		return notJSON(where, "-Infinity")
	}
	return nil
}

func convertArray(v reflect.Value, where *at, depth int) (any, error) {
	if depth >= maxDepth {
		return nil, refusePayload("it is nested deeper than 100 levels")
	}
	made := make(bson.A, v.Len())
	for i := range v.Len() {
		inner, err := convert(v.Index(i), where.item(i), depth+1)
		if err != nil {
			return nil, err
		}
		made[i] = inner
	}
	return made, nil
}

// convertMap writes the fields in the order of their names, as encoding/json does.
func convertMap(v reflect.Value, where *at, depth int) (any, error) {
	if v.IsNil() {
		return nil, nil
	}
	if depth >= maxDepth {
		return nil, refusePayload("it is nested deeper than 100 levels")
	}

	made := make(bson.D, 0, v.Len())
	for entries := v.MapRange(); entries.Next(); {
		name, err := mapKey(entries.Key(), where)
		if err != nil {
			return nil, err
		}
		element, err := convertField(name, entries.Value(), where, depth)
		if err != nil {
			return nil, err
		}
		made = append(made, element)
	}
	slices.SortFunc(made, func(a, b bson.E) int { return strings.Compare(a.Key, b.Key) })
	return made, nil
}

func mapKey(key reflect.Value, where *at) (string, error) {
	if key.Kind() == reflect.String {
		return key.String(), nil
	}
	if text, ok := key.Interface().(encoding.TextMarshaler); ok {
		made, err := text.MarshalText()
		if err != nil {
			return "", refusePayload("a name in %s can't be written as text: %v", where, err)
		}
		return string(made), nil
	}
	switch {
	case key.CanInt():
		return strconv.FormatInt(key.Int(), 10), nil
	case key.CanUint():
		return strconv.FormatUint(key.Uint(), 10), nil
	}
	return "", notJSON(where, "a map by "+key.Type().String())
}

func convertStruct(v reflect.Value, where *at, depth int) (any, error) {
	if depth >= maxDepth {
		return nil, refusePayload("it is nested deeper than 100 levels")
	}

	made := bson.D{}
	for _, one := range fieldsOf(v.Type()) {
		inner, err := v.FieldByIndexErr(one.index)
		if err != nil || one.isLeftOut(inner) {
			continue // the error is an embedded pointer that is nil
		}
		element, err := convertField(one.name, inner, where, depth)
		if err != nil {
			return nil, err
		}
		if one.quoted && element.Value != nil {
			text, err := json.Marshal(inner.Interface())
			if err != nil {
				return nil, refusePayload("%s can't be written as JSON: %v", where.inside(one.name), err)
			}
			element.Value = string(text)
		}
		made = append(made, element)
	}
	return made, nil
}
