package brief_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
)

// many joins texts for the numbers below n.
func many(n int, format, separator string) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(format, i))
	}
	return strings.Join(all, separator)
}

func TestText(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, tt := range map[string]struct{ text, want string }{
		"short":    {"services \"a\" not found", "services \"a\" not found"},
		"on lines": {"a:\n  b\n\n", "a: b"},
		"a long value": {
			`Deployment.apps "x" is invalid: metadata.labels: Invalid value: "` + long + `": must be no more than 63 characters`,
			`Deployment.apps "x" is invalid: metadata.labels: Invalid value: "` + long[:40] + `...": must be no more than 63 characters`,
		},
		"an escaped quote": {`Invalid value: "a\"` + long + `": no`, `Invalid value: "a\"` + long[:37] + `...": no`},
		"an open quote":    {`a "b`, `a "b`},
		"many fields that are alike": {
			`Deployment.apps "x" is invalid: [` + many(40, `spec.template.spec.containers[0].env[%d].name: Invalid value: "a b": must consist of letters, digits, or '-'`, ", ") + `]`,
			`Deployment.apps "x" is invalid: [spec.template.spec.containers[0].env[0].name: Invalid value: "a b": must consist of letters, digits, or '-' (and 39 more like this)]`,
		},
		"many different fields": {
			`Pod "x" is invalid: [spec.a: Required value, spec.b: Forbidden: no, spec.c: Invalid value: 5: no, spec.d: Not found: "z", spec.e: Too many: 5: must have at most 3 items]`,
			`Pod "x" is invalid: [spec.a: Required value, spec.b: Forbidden: no, spec.c: Invalid value: 5: no, and 2 more]`,
		},
		"the same cause for many objects": {
			"30 errors occurred:\n" + many(30, "\t* services \"s%d\" is forbidden: exceeded quota: small, requested: services=1\n", "") + "\n",
			`services "s0" is forbidden: exceeded quota: small, requested: services=1 (and 29 more like this)`,
		},
		"a heading": {"unable to continue: 2 errors occurred:\n\t* a failed\n\t* b failed\n", "unable to continue: a failed; b failed"},
		"different causes": {
			"5 errors occurred:\n\t* a failed\n\t* b failed\n\t* c failed\n\t* d failed\n\t* e failed\n\n",
			"a failed; b failed; c failed; and 2 more",
		},
		"the cause comes last": {
			"template: " + long + " execution error: image.digest is empty",
			"",
		},
		"a webhook": {
			`admission webhook "policy.example.com" denied the request: ` + many(200, "rule %d is violated by the container", ", "),
			"",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := brief.Text(tt.text)
			if tt.want != "" && got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			if tt.want == "" && (len(got) < 300 || got[:30] != tt.text[:30] || !strings.HasSuffix(got, tt.text[len(tt.text)-100:])) {
				t.Errorf("the beginning or the end is missing: %s", got)
			}
			check(t, tt.text)
		})
	}
}

// check checks what holds for every text.
func check(t *testing.T, text string) {
	t.Helper()
	got := brief.Text(text)
	if len(got) > 700 || strings.ContainsAny(got, "\n\r") || !utf8.ValidString(got) {
		t.Errorf("%d bytes, valid UTF-8 %v: %q", len(got), utf8.ValidString(got), got)
	}
	if strings.TrimSpace(text) != "" && got == "" {
		t.Errorf("nothing remains of %q", text)
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "\xff", "a\n* b\n * c\n", `x is invalid: [a: Required value, b: Forbidden: "q\"]`, strings.Repeat("\u00e9", 800), `"` + strings.Repeat("\u00e9", 90) + `"`} {
		f.Add(s)
	}
	f.Fuzz(check)
}

func TestErrorKeepsTheWholeText(t *testing.T) {
	cause := errors.New("denied: secret-" + strings.Repeat("y", 2000))
	mask := strings.NewReplacer(strings.Repeat("y", 2000), "***").Replace
	if err := brief.Error(cause, mask); err.Error() != "denied: secret-***" || !errors.Is(err, cause) || brief.Whole(err) != "" {
		t.Errorf("%v, %q", err, brief.Whole(err))
	}
	long := errors.New("1 error occurred:\n\t* \"" + strings.Repeat("z", 300) + "\" is wrong\n\n")
	err := fmt.Errorf("applying: %w", errors.Join(errors.New("a"), brief.Error(long, nil)))
	if len(err.Error()) > 150 || brief.Whole(err) != strings.TrimSpace(long.Error()) {
		t.Errorf("%v, %q", err, brief.Whole(err))
	}
	if brief.Error(nil, nil) != nil || brief.Whole(nil) != "" {
		t.Error("nil is not an error")
	}
}
