// Command slipway-deployer is slipway without the scanner. The Dagger module deploys
// with it, so that a deployment does not wait for Trivy to compile.
package main

import (
	"github.com/slipway-ci/slipway/pipeline/command"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// Stamped by the linker, as slipway stamps the apps it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date, Signer: sigstore.Tool{}, Deployer: cluster.Tool{}}.Main()
}
