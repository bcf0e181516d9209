package build

import (
	"testing"

	"github.com/slipway-ci/slipway/pipeline/source"
)

// TestMisses: a message of the go command is about a file or not.
func TestMisses(t *testing.T) {
	c := compiler{Options: Options{Source: source.Source{Dir: "/src", Module: "example.com/app"}}}
	for name, tt := range map[string]struct {
		line, file string
		want       bool
	}{
		"embedded file":      {"main.go:8:12: pattern README.md: no matching files found", "/src/README.md", true},
		"another file":       {"main.go:8:12: pattern README.md: no matching files found", "/src/NOTES.md", false},
		"in another folder":  {"main.go:8:12: pattern README.md: no matching files found", "/src/web/README.md", false},
		"pattern":            {"web/web.go:3:12: pattern static/*.md: no matching files found", "/src/web/static/a.md", true},
		"folder":             {"web/web.go:3:12: pattern all:static: no matching files found", "/src/web/static/deep/a.md", true},
		"nothing in folder":  {"web/web.go:3:12: pattern static: cannot embed directory static: contains no embeddable files", "/src/web/static/a.md", true},
		"undefined name":     {"./main.go:3:15: undefined: helper", "/src/helper.go", true},
		"in a test":          {"./main.go:3:15: undefined: helper", "/src/helper_test.go", false},
		"in another package": {"./main.go:3:15: undefined: helper", "/src/x/helper.go", false},
		"missing package":    {"main.go:3:8: package example.com/app/internal/db is not in std", "/src/internal/db/db.go", true},
		"of a module":        {"main.go:3:8: no required module provides package example.com/app/db; to add it:", "/src/db/db.go", true},
		"no source":          {"main.go:3:8: package example.com/app/internal/db is not in std", "/src/internal/db/db.sql", false},
		"unrelated":          {"./main.go:3:15: cannot use 1 as string value in argument", "/src/main.go", false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.misses(tt.line, tt.file); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
