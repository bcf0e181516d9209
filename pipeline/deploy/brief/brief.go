// Package brief shortens the errors of API servers to what matters. Such an error can
// repeat a value of many kilobytes, or the same cause for every object.
//
// The package promises no compatibility to programs other than slipway.
package brief

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// The lengths in bytes to which parts of a text are shortened.
const (
	maxText  = 700 // the whole text
	maxItem  = 300 // one of several causes
	maxValue = 80  // a value in quotes
	maxItems = 3   // the number of causes
)

// Text returns a text on one line, with at most 700 bytes. Long values in quotes are cut. Of
// several causes it keeps the first three, and of those that differ only in names, numbers
// and values the first one. If that is still too long, the middle of the text is omitted,
// because an error begins with what was being done and ends with its cause.
func Text(s string) string {
	before, all := causes(strings.ToValidUTF8(s, "\uFFFD"))
	return cut(strings.TrimSpace(strings.TrimSpace(before)+" "+list(all, "; ")), maxText)
}

// Error returns an error with the text of err that is shortened by [Text]. mask hides
// secrets and is called before, so that no part of a secret remains. It may be nil. If err
// is nil, Error returns nil.
func Error(err error, mask func(string) string) error {
	if err == nil {
		return nil
	}
	if mask == nil {
		mask = func(s string) string { return s }
	}
	return &shortened{err, mask}
}

// shortened is an error with a shortened text.
type shortened struct {
	error
	mask func(string) string
}

func (e *shortened) Error() string { return Text(e.mask(e.error.Error())) }

func (e *shortened) Unwrap() error { return e.error }

// Whole returns the whole texts of the errors in the tree of err that [Error] has
// shortened, with their secrets hidden. It returns an empty text if nothing is omitted.
func Whole(err error) string {
	var all []string
	var walk func(error)
	walk = func(err error) {
		if s, ok := err.(*shortened); ok { //nolint:errorlint // the tree is walked here
			if whole := strings.TrimSpace(s.mask(s.error.Error())); oneLine(whole) != s.Error() {
				all = append(all, whole)
			}
			return
		}
		switch u := err.(type) { //nolint:errorlint // the tree is walked here
		case interface{ Unwrap() []error }:
			for _, e := range u.Unwrap() {
				walk(e)
			}
		default:
			if inner := errors.Unwrap(err); inner != nil {
				walk(inner)
			}
		}
	}
	walk(err)
	return strings.Join(slices.Compact(all), "\n")
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// bullet begins a cause in a list of several, as Helm and the go-multierror library write
// them.
var (
	bullet  = regexp.MustCompile(`(?m)^\s*\* `)
	heading = regexp.MustCompile(`\d+ errors? occurred:$`)
)

// causes splits a text into its causes and what is before them, and shortens all of them.
func causes(s string) (before string, all []string) {
	at := bullet.FindAllStringIndex(s, -1)
	if len(at) == 0 {
		return "", []string{fields(values(oneLine(s)))}
	}
	before = cut(values(heading.ReplaceAllString(oneLine(s[:at[0][0]]), "")), maxItem)
	for i, from := range at {
		to := len(s)
		if i+1 < len(at) {
			to = at[i+1][0]
		}
		item := fields(values(oneLine(s[from[1]:to])))
		if len(at) > 1 {
			item = cut(item, maxItem)
		}
		if item != "" {
			all = append(all, item)
		}
	}
	if len(all) == 0 {
		return "", []string{oneLine(s)}
	}
	return before, all
}

// list joins the first of several causes, and says how many more there are. Of causes that
// are alike it takes the first.
func list(all []string, separator string) string {
	seen := map[string]int{} // the index in kept
	var kept []string
	var more []int // how many others are like it
	for _, c := range all {
		k := kind(c)
		if i, ok := seen[k]; ok {
			more[i]++
			continue
		}
		seen[k] = len(kept)
		kept, more = append(kept, c), append(more, 0)
	}
	var out []string
	for i := range kept[:min(len(kept), maxItems)] {
		if more[i] > 0 {
			kept[i] += fmt.Sprintf(" (and %d more like this)", more[i])
		}
		out = append(out, kept[i])
	}
	if n := len(kept) - len(out); n > 0 {
		out = append(out, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(out, separator)
}

// specific is what differs between causes of the same kind: values in quotes, names of
// objects and numbers.
var specific = regexp.MustCompile(`"[^"]*"|\b[a-z]+(\.[a-z.]+)?/[\w.-]+|\d+`)

func kind(cause string) string { return specific.ReplaceAllString(cause, "#") }

// values shortens long values in quotes.
func values(s string) string {
	var b strings.Builder
	for {
		start := strings.IndexByte(s, '"')
		if start < 0 {
			break
		}
		end := start + 1
		for end < len(s) && s[end] != '"' {
			if s[end] == '\\' {
				end++
			}
			end++
		}
		if end >= len(s) {
			break
		}
		b.WriteString(s[:start+1])
		if value := s[start+1 : end]; len(value) > maxValue {
			b.WriteString(strings.ToValidUTF8(value[:maxValue/2], "") + "...")
		} else {
			b.WriteString(value)
		}
		b.WriteByte('"')
		s = s[end+1:]
	}
	return b.String() + s
}

// field begins the problem of one field in a list of them, as the validation of the API
// server writes it
// (https://pkg.go.dev/k8s.io/apimachinery/pkg/util/validation/field#ErrorType).
var field = regexp.MustCompile(`(^|, )[^\s,]+: (Not found|Required value|Duplicate value|Invalid value|Unsupported value|Forbidden|Too long|Too many|Internal error)`)

// fields shortens the list of fields in a validation error, which is written as [a, b].
func fields(s string) string {
	before, rest, ok := strings.Cut(s, " is invalid: [")
	if !ok {
		return s
	}
	inside, after, closed := cutLast(rest, "]")
	at := field.FindAllStringIndex(inside, -1)
	if !closed || len(at) < 2 {
		return s
	}
	var all []string
	for i, from := range at {
		to := len(inside)
		if i+1 < len(at) {
			to = at[i+1][0]
		}
		all = append(all, cut(strings.TrimPrefix(inside[from[0]:to], ", "), maxItem/2))
	}
	return before + " is invalid: [" + list(all, ", ") + "]" + after
}

// cutLast is [strings.Cut] around the last instance of sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// cut omits the middle of a text that is longer than limit.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const gap = " ... "
	tail := limit / 3
	head := limit - tail - len(gap)
	return strings.ToValidUTF8(s[:head], "") + gap + strings.ToValidUTF8(s[len(s)-tail:], "")
}
