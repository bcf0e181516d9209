package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap/zapcore"
	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration in the format of Go, for example 250ms, 30s or 5m. A
// number without a unit is an error.
type Duration struct{ time.Duration }

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("line %d: %q is not a duration such as 250ms, 30s or 5m", n.Line, n.Value)
	}
	d.Duration = v
	return nil
}

// MarshalText implements encoding.TextMarshaler. UnmarshalYAML can read the result.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Level is a level of the log.
type Level struct{ zapcore.Level }

// UnmarshalYAML implements yaml.Unmarshaler.
func (l *Level) UnmarshalYAML(n *yaml.Node) error {
	v, err := zapcore.ParseLevel(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil {
		return fmt.Errorf("line %d: %q is not a level of the log: use debug, info, warn or error", n.Line, n.Value)
	}
	l.Level = v
	return nil
}

// URL is a URL that can contain a password. All formatting with fmt, encoding/json
// and YAML omits the password and the query. Only Reveal returns them.
type URL struct{ raw string }

// NewURL returns a URL. It does not check whether the URL is valid;
// Config.Validate does.
func NewURL(raw string) URL { return URL{raw: raw} }

// Empty reports whether the URL is the empty string.
func (u URL) Empty() bool { return u.raw == "" }

// Reveal returns the complete URL, including the password. Use it only to open
// connections.
func (u URL) Reveal() string { return u.raw }

// String returns the URL without password and query, or "[malformed URL]".
func (u URL) String() string {
	if u.raw == "" {
		return ""
	}
	parsed, err := url.Parse(u.raw)
	if err != nil || parsed.Opaque != "" {
		return "[malformed URL]"
	}
	safe := url.URL{Scheme: parsed.Scheme, Host: parsed.Host, Path: parsed.Path}
	if parsed.User != nil {
		safe.User = url.User(parsed.User.Username())
	}
	return safe.String()
}

// GoString implements fmt.GoStringer, so that %#v does not print the password.
func (u URL) GoString() string { return fmt.Sprintf("%q", u.String()) }

// MarshalText implements encoding.TextMarshaler. The result has no password.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalYAML implements yaml.Unmarshaler. Unlike those of the default
// implementation, its errors do not contain the value.
func (u *URL) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: a URL must be a plain string", n.Line)
	}
	u.raw = ""
	if n.Tag != "!!null" {
		u.raw = n.Value
	}
	return nil
}

// check returns what is wrong with the URL, or "". The text does not contain the
// URL.
func (u URL) check(schemes ...string) string {
	form := strings.Join(schemes, ":// or ") + "://"
	parsed, err := url.Parse(u.raw)
	switch {
	case err != nil:
		return "is not a valid URL (percent-encode special characters in the password)"
	case !slices.Contains(schemes, parsed.Scheme):
		return "must begin with " + form
	case parsed.Host == "":
		return "contains no host name"
	case parsed.Query().Has("password"):
		return "contains the password as a query parameter: write it as user:password@host"
	}
	return ""
}

// checkPort returns what is wrong with a URL that must be a host and a port only, or "".
func (u URL) checkPort() string {
	parsed, err := url.Parse(u.raw)
	switch {
	case u.Empty() || err != nil:
		return ""
	case parsed.User != nil || parsed.RawQuery != "":
		return "must not contain a user, a password or a query: set OTEL_EXPORTER_OTLP_HEADERS"
	case parsed.Host != "" && parsed.Port() == "":
		return "contains no port: add it, for example 4317"
	}
	return ""
}

// withPassword returns the URL with another password.
func (u URL) withPassword(password string) (URL, error) {
	parsed, err := url.Parse(u.raw)
	if err != nil || parsed.Host == "" {
		return URL{}, errors.New("the URL for this password is invalid")
	}
	parsed.User = url.UserPassword(parsed.User.Username(), password)
	return URL{raw: parsed.String()}, nil
}
