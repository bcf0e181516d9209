package config

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a [time.Duration] in the syntax of [time.ParseDuration], for example
// 90s, 5m or 1h30m.
type Duration time.Duration

// UnmarshalText parses a duration. It returns an error unless the duration is
// greater than zero.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write for example 90s or 5m", text)
	}
	if v <= 0 {
		return fmt.Errorf("duration %q must be greater than zero", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText returns the text of [Duration.String].
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String returns the duration without trailing zero units: 5m, not 5m0s.
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
