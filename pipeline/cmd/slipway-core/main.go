// Command slipway-core is slipway without support for scanning, signing and deployments.
// It compiles in half a minute, compared with five minutes for the complete program, so
// the Dagger module uses it for lint, test, build and publish.
package main

import "github.com/slipway-ci/slipway/pipeline/command"

// The linker sets these variables with -X, as slipway does in the apps that it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date}.Main()
}
