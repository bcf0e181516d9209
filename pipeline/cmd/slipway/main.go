// Command slipway takes a Go service from source to running pods.
package main

import (
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/command"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// The linker sets these variables with -X, as slipway does in the apps that it builds.
var version, commit, date string

func main() {
	command.Program{
		Version: version, Commit: commit, Date: date,
		Signer:   sigstore.Tool{},
		Deployer: cluster.Tool{},
		Scanner:  func(dir cache.Dir) scan.Scanner { return trivy.New(dir) },
	}.Main()
}
