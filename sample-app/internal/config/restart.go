package config

import (
	"reflect"
	"strings"
)

// NeedsRestart returns the keys whose values differ between two configurations and that
// cannot change while the service runs. Those that can are log.level and all in features.
// A changed password is none of them, because passwords are read from their files.
func NeedsRestart(before, after Config) []string {
	// The passwords in the URLs come from the environment or from their files.
	return differences("", reflect.ValueOf(before), reflect.ValueOf(after))
}

func differences(key string, before, after reflect.Value) []string {
	if key == "log.level" || key == "features" {
		return nil
	}
	if a, ok := reflect.TypeAssert[URL](before); ok {
		if b, _ := reflect.TypeAssert[URL](after); a.String() != b.String() {
			return []string{key}
		}
		return nil
	}
	if before.Kind() != reflect.Struct || before.Type() == reflect.TypeFor[Duration]() {
		if before.Interface() != after.Interface() {
			return []string{key}
		}
		return nil
	}
	var keys []string
	for i := range before.NumField() {
		name, _, _ := strings.Cut(before.Type().Field(i).Tag.Get("yaml"), ",")
		keys = append(keys, differences(strings.TrimPrefix(key+"."+name, "."), before.Field(i), after.Field(i))...)
	}
	return keys
}
