// Command slipway takes a Go service from source to running pods.
//
// Trivy, which scans, compiles only with GOEXPERIMENT=jsonv2, and not with Go 1.27 and
// later, whose package encoding/json/v2 has another interface. In every other case the
// program has everything but the scanner, and the commands that need it say how to
// install all of it.
package main

import (
	"github.com/slipway-ci/slipway/pipeline/command"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// The linker sets these variables with -X, as slipway does in the apps that it builds.
var version, commit, date string

func main() {
	command.Program{
		Version: version, Commit: commit, Date: date,
		Signer:   sigstore.Tool{},
		Deployer: cluster.Tool{},
		Scanner:  scanner(),
	}.Main()
}
