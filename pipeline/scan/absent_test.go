package scan_test

import (
	"os"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

func TestAbsentScanner(t *testing.T) {
	for release, want := range map[string]string{"": "@latest", "dev": "@latest", "(devel)": "@latest", "v1.2.3": "@v1.2.3", "v2.0.0-rc.1": "@v2.0.0-rc.1",
		"v0.0.0-20261123071834-eecfaed242f8": "@latest", "v1.2.3+dirty": "@latest",
	} {
		err := scan.Absent(release)
		testkit.WantInput(t, err, "scan.no-scanner")
		if !strings.Contains(err.Error(), "GOEXPERIMENT=jsonv2 go install github.com/slipway-ci/slipway/pipeline/cmd/slipway"+want+")") {
			t.Errorf("%q: %v", release, err)
		}
	}
}

// The toolchain that the fix names is that of go.mod.
func TestAbsentScannerNamesTheToolchain(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(mod), "\ntoolchain "+scan.Toolchain+"\n") {
		t.Errorf("go.mod has another toolchain than %s", scan.Toolchain)
	}
}
