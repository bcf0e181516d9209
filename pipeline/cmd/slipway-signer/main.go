// Command slipway-signer is slipway without the scanner and what deploys. The Dagger
// module verifies with it, so that a verification does not wait for Trivy to compile.
package main

import (
	"github.com/slipway-ci/slipway/pipeline/command"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// Stamped by the linker, as slipway stamps the apps it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date, Signer: sigstore.Tool{}}.Main()
}
