// Command slipway-core is slipway without the scanner, the signer and what deploys. It
// compiles in half a minute, and the whole program in five, so the Dagger module uses
// it for lint, test, build and publish.
package main

import "github.com/slipway-ci/slipway/pipeline/command"

// Stamped by the linker, as slipway stamps the apps it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date}.Main()
}
