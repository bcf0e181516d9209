package build_test

import (
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// TestStamps: the version, the commit and the date are set where the app has string
// variables of these names. Variables of other types, such as a flag named version, stay
// as they are. Only app.ldflags of the app itself can be wrong.
func TestStamps(t *testing.T) {
	for name, tt := range map[string]struct {
		declared string // in package main
		ldflags  []string
		want     string // output of the program
		failure  string
	}{
		"strings":         {declared: `var version, commit, date string`, want: "v1.2.3 0123456789ab 2026-01-02T03:04:05Z"},
		"none":            {declared: `const version, commit, date = "a", "b", "c"`, want: "a b c"},
		"a flag":          {declared: "import \"flag\"\n\nvar version = *flag.Bool(\"version\", false, \"\")\nvar commit, date string", want: "false 0123456789ab 2026-01-02T03:04:05Z"},
		"all others":      {declared: "type text string\n\nvar version, commit = 5, []int{}\nvar date text = \"never\"", want: "5 [] never"},
		"configured":      {declared: "var version = 5\nvar commit, date, other string", ldflags: []string{"-X main.commit={{.Version}}"}, want: "5 v1.2.3 2026-01-02T03:04:05Z"},
		"configured, bad": {declared: `var version, commit, date = 5, "", ""`, ldflags: []string{"-X main.version={{.Version}}"}, failure: "main.version: cannot set with -X: not a var of type string (type:int)"},
		"does not build":  {declared: `var version, commit = 5, 6`, failure: "undefined: date"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testkit.Tree(t, map[string]string{
				"go.mod":  "module example.com/app\n\ngo 1.26\n",
				"main.go": "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(version, commit, date) }\n",
				"vars.go": "package main\n\n" + tt.declared + "\n",
			})
			found, err := toolchain.Find(t.Context(), dir, "")
			if err != nil {
				t.Fatal(err)
			}
			s := source.Source{Dir: dir, Main: ".", Name: "app", Module: "example.com/app", Version: "v1.2.3", Revision: "0123456789ab", Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
			r, err := build.Run(t.Context(), build.Options{
				Source: s, Go: found, Cache: cache.Dir(t.TempDir()), RunDir: t.TempDir(),
				Settings: config.App{Platforms: []string{runtime.GOOS + "/" + runtime.GOARCH}, LDFlags: tt.ldflags},
			})
			if tt.failure != "" {
				if err == nil || !strings.Contains(err.Error(), tt.failure) {
					t.Errorf("got  %v\nwant %s", err, tt.failure)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out, err := exec.CommandContext(t.Context(), r.Binaries[0].Path).Output()
			if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, err, tt.want)
			}
		})
	}
}
