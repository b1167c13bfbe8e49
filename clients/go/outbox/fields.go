package outbox

// The fields of a struct, as encoding/json finds them.

import (
	"reflect"
	"slices"
	"strings"
	"sync"
	"unicode"
)

type structField struct {
	name      string
	index     []int
	isTagged  bool
	omitEmpty bool
	omitZero  bool
	quoted    bool
}

// known has the fields of each type that was seen.
var known sync.Map

func fieldsOf(t reflect.Type) []structField {
	if fields, ok := known.Load(t); ok {
		return fields.([]structField)
	}
	var all []structField
	gather(t, nil, nil, &all)

	byName := map[string][]structField{}
	for _, one := range all {
		byName[one.name] = append(byName[one.name], one)
	}
	var fields []structField
	for _, same := range byName {
		if one, ok := dominant(same); ok {
			fields = append(fields, one)
		}
	}
	slices.SortFunc(fields, func(a, b structField) int { return slices.Compare(a.index, b.index) })
	known.Store(t, fields)
	return fields
}

// dominant returns the field that hides the others of its name: the one that is embedded least
// deeply, and of those the one with a tag. If two are left, none is written.
func dominant(same []structField) (structField, bool) {
	least := len(slices.MinFunc(same, func(a, b structField) int { return len(a.index) - len(b.index) }).index)
	same = slices.DeleteFunc(same, func(one structField) bool { return len(one.index) > least })
	if slices.ContainsFunc(same, func(one structField) bool { return one.isTagged }) {
		same = slices.DeleteFunc(same, func(one structField) bool { return !one.isTagged })
	}
	return same[0], len(same) == 1
}

func gather(t reflect.Type, index []int, around []reflect.Type, all *[]structField) {
	if slices.Contains(around, t) {
		return
	}
	around = append(slices.Clone(around), t)

	for i := range t.NumField() {
		one := t.Field(i)
		kind := one.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		tag := one.Tag.Get("json")
		isHidden := !one.IsExported() && !(one.Anonymous && kind.Kind() == reflect.Struct)
		if isHidden || tag == "-" {
			continue
		}

		name, options, _ := strings.Cut(tag, ",")
		if strings.IndexFunc(name, isNoTag) >= 0 {
			name = ""
		}
		path := append(slices.Clone(index), i)
		if one.Anonymous && name == "" && kind.Kind() == reflect.Struct {
			gather(kind, path, around, all)
			continue
		}
		if !one.IsExported() {
			continue
		}

		made := structField{name: name, index: path, isTagged: name != ""}
		if name == "" {
			made.name = one.Name
		}
		for option := range strings.SplitSeq(options, ",") {
			made.omitEmpty = made.omitEmpty || option == "omitempty"
			made.omitZero = made.omitZero || option == "omitzero"
			made.quoted = made.quoted || option == "string" && isQuotable(kind.Kind())
		}
		*all = append(*all, made)
	}
}

func isNoTag(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("!#$%&()*+-./:;<=>?@[]^_{|}~ ", r)
}

func isQuotable(kind reflect.Kind) bool {
	return kind == reflect.String || kind >= reflect.Bool && kind <= reflect.Float64
}

func (f structField) isLeftOut(v reflect.Value) bool {
	if f.omitZero {
		if zero, ok := v.Interface().(interface{ IsZero() bool }); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
			return zero.IsZero()
		}
		if v.IsZero() {
			return true
		}
	}
	if !f.omitEmpty {
		return false
	}
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}
