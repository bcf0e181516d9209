package config

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Duration is a time.Duration written as in Go: 250ms, 30s, 5m. A bare number
// is an error, because nobody means nanoseconds.
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

// MarshalText implements encoding.TextMarshaler with the form that is read.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// URL is an address that may hold a password. Printing it, in any way that fmt,
// encoding/json and YAML know, leaves password and query out; Reveal does not.
type URL struct{ raw string }

// NewURL wraps an address. It is not checked here: see Config.Validate.
func NewURL(raw string) URL { return URL{raw: raw} }

// Empty reports whether no address was given.
func (u URL) Empty() bool { return u.raw == "" }

// Reveal returns the address as given. Hand it only to what opens connections.
func (u URL) Reveal() string { return u.raw }

// String returns scheme, user, host and path.
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

// GoString keeps %#v from printing the raw field.
func (u URL) GoString() string { return fmt.Sprintf("%q", u.String()) }

// MarshalText implements encoding.TextMarshaler with the redacted form.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalYAML implements yaml.Unmarshaler. Unlike the default it never quotes
// the value it could not use.
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

// check says what is wrong with the address, without quoting it.
func (u URL) check(schemes ...string) string {
	form := strings.Join(schemes, ":// or ") + "://"
	parsed, err := url.Parse(u.raw)
	switch {
	case err != nil:
		return "is not a valid URL (percent-encode special characters in the password)"
	case !slices.Contains(schemes, parsed.Scheme):
		return "must begin with " + form
	case parsed.Host == "":
		return "names no host"
	case parsed.Query().Has("password"):
		return "carries the password as a query parameter: write it as user:password@host"
	}
	return ""
}

// withPassword returns the address with its password replaced.
func (u URL) withPassword(password string) (URL, error) {
	parsed, err := url.Parse(u.raw)
	if err != nil || parsed.Host == "" {
		return URL{}, errors.New("is not a URL that a password can be added to")
	}
	parsed.User = url.UserPassword(parsed.User.Username(), password)
	return URL{raw: parsed.String()}, nil
}
