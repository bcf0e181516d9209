// Command slipway-deployer is slipway without the scanner. The Dagger module uses it for
// deployments, so that they do not wait for Trivy to compile.
package main

import (
	"github.com/slipway-ci/slipway/pipeline/command"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// The linker sets these variables with -X, as slipway does in the apps that it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date, Signer: sigstore.Tool{}, Deployer: cluster.Tool{}}.Main()
}
