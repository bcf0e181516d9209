package scan

import (
	"go/version"
	"regexp"
	"runtime"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Toolchain is the toolchain line of go.mod, with which the scanner compiles.
const Toolchain = "go1.26.8"

// withoutScanner is the first version of Go with which it does not.
const withoutScanner = "go1.27"

// release matches the version of a release, which the module proxy has.
var release = regexp.MustCompile(`^v[0-9]+[.][0-9]+[.][0-9]+(-(alpha|beta|rc)[.0-9]*)?$`)

// Absent returns the error of a program that does not include the scanner and has the given
// version. The fix says how to install a program that includes it.
func Absent(of string) *fault.Error {
	at := "latest"
	if release.MatchString(of) {
		at = of
	}
	settings := "GOEXPERIMENT=jsonv2"
	if with, _, _ := strings.Cut(runtime.Version(), "-"); version.Compare(with, withoutScanner) >= 0 {
		settings = "GOTOOLCHAIN=" + Toolchain + " " + settings
	}
	return fault.Inputf("scan.no-scanner", "this slipway was built without the scanner").
		WithFix("install all of it with: %s go install github.com/slipway-ci/slipway/pipeline/cmd/slipway@%s", settings, at)
}
