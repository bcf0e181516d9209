// Command slipway-core is slipway without scanner and signer: lint, test, build
// and publish. It compiles in half a minute where the whole takes five, so the
// Dagger module does these with it.
package main

import "github.com/slipway-ci/slipway/pipeline/command"

// Stamped by the linker, as slipway stamps the apps it builds.
var version, commit, date string

func main() {
	command.Program{Version: version, Commit: commit, Date: date}.Main()
}
