package config

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a [time.Duration] written as in Go: 90s, 5m, 1h30m.
type Duration time.Duration

// UnmarshalText reads Go's duration syntax.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 90s or 5m", text)
	}
	if v <= 0 {
		return fmt.Errorf("%q: a duration must be above zero", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes Go's duration syntax without zero units.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes Go's duration syntax without zero units: 5m, not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}
