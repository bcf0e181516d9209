package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// list returns the words that go list prints for this package.
func list(t *testing.T, experiment string, args ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append(append([]string{"list"}, args...), ".")...)
	cmd.Env = append(os.Environ(), "GOEXPERIMENT="+experiment, "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return strings.Fields(string(out))
}

// TestPlainGoBuildsIt checks that without GOEXPERIMENT, as in the README, the program
// includes everything but the scanner, and nothing that needs the experiment.
func TestPlainGoBuildsIt(t *testing.T) {
	packages := list(t, "", "-deps")
	for _, want := range []string{"deploy/cluster", "sign/sigstore"} {
		if !slices.Contains(packages, "github.com/slipway-ci/slipway/pipeline/"+want) {
			t.Errorf("the program does not include %s", want)
		}
	}
	for _, p := range packages {
		if strings.HasPrefix(p, "github.com/aquasecurity/trivy") || p == "github.com/slipway-ci/slipway/pipeline/scan/trivy" {
			t.Errorf("the program includes %s", p)
		}
	}
	// The standard library itself may import them.
	imports := list(t, "", "-deps", "-f", `{{if not .Standard}}{{range .Imports}}{{.}}{{"\n"}}{{end}}{{end}}`)
	for _, experimental := range []string{"encoding/json/v2", "encoding/json/jsontext"} {
		if slices.Contains(imports, experimental) {
			t.Errorf("something in the program imports %s", experimental)
		}
	}
}

// TestScannerNeedsTheExperiment checks with which settings the program includes the
// scanner. Go 1.27 has the experiment by default, but Trivy does not compile with it.
func TestScannerNeedsTheExperiment(t *testing.T) {
	for _, tt := range []struct {
		experiment, tags string
		want             bool
	}{
		{"", "", false},
		{"jsonv2", "", true},
		{"jsonv2", "go1.27", false},
	} {
		imports := list(t, tt.experiment, "-tags", tt.tags, "-f", `{{range .Imports}}{{.}}{{"\n"}}{{end}}`)
		if got := slices.Contains(imports, "github.com/slipway-ci/slipway/pipeline/scan/trivy"); got != tt.want {
			t.Errorf("GOEXPERIMENT=%s, tags %q: the scanner is included: %v, want %v", tt.experiment, tt.tags, got, tt.want)
		}
	}
}
