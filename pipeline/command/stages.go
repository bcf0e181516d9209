package command

import (
	"slices"

	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// stageCommand is a command that runs steps of the pipeline. It names goals; package ship
// determines the steps that they need.
type stageCommand struct {
	name, short, long, example string

	// goals returns the goals, which can depend on the flags. A command without
	// goals exports the image; see [stageCommand.destinations].
	goals func(*request) []graph.Name
	// builds reports whether the command can build an image, so that it accepts
	// outputs for an image in -o.
	builds bool
	// dry reports whether the command must not push anything.
	dry bool
	// needsImage reports whether --image is required.
	needsImage bool

	flags []flagGroup
}

// fixedGoals returns a function for goals that do not depend on flags.
func fixedGoals(goals ...graph.Name) func(*request) []graph.Name {
	return func(*request) []graph.Name { return goals }
}

// everything returns the goals that an image must pass before it is deployed.
func everything() []graph.Name {
	return append(ship.Gates(), ship.Sign, ship.Attest, ship.Verify)
}

// stageCommands returns the commands that run steps of the pipeline.
func stageCommands() []stageCommand {
	return slices.Concat(gateCommands(), imageCommands(), clusterCommands())
}

// gateCommands returns the commands that check the source and the image.
func gateCommands() []stageCommand {
	return []stageCommand{
		{
			name: "check", short: "Run lint and tests: the gate before a push", goals: fixedGoals(ship.Lint, ship.Test),
			example: `  slipway check
  slipway check --force               even if nothing changed
  slipway check --allow lint          only the tests decide`,
			flags: []flagGroup{sourceFlags, verdictFlags, allowFlag},
		},
		{
			name: "lint", short: "Run golangci-lint on the app's code", goals: fixedGoals(ship.Lint),
			example: `  slipway lint
  slipway lint -o json | jq .lint.findings`,
			flags: []flagGroup{sourceFlags, verdictFlags},
		},
		{
			name: "test", short: "Run the tests with the race detector and the services they need", goals: fixedGoals(ship.Test),
			example: `  slipway test
  slipway test --coverage 80          fail below 80 % of statements`,
			flags: []flagGroup{sourceFlags, verdictFlags, testFlags},
		},
		{
			name: "scan", short: "Scan for vulnerabilities, secrets and misconfiguration", goals: fixedGoals(ship.Scan), builds: true,
			example: `  slipway scan
  slipway scan --severity CRITICAL --reachable-only
  slipway scan --as sarif > scan.sarif
  slipway scan --image ghcr.io/acme/orders:v1.2.3
  slipway scan --offline --db-repository oci:trivy-db`,
			long: `Scan builds the app and looks for known vulnerabilities in its modules, in Go's
standard library and in the base image, for secrets in the image and the source,
and for misconfiguration in charts. Findings of the severities in scan.severities
fail the scan. For a vulnerability in Go code it says whether the program calls
the vulnerable function.

The plain binary is scanned, so packing with UPX hides nothing. Without a
vulnerability database the scan fails. Reports are written to .slipway/reports.`,
			flags: []flagGroup{sourceFlags, verdictFlags, buildFlags, digestFlags, scanFlags, accessFlags, imageFlag("scan this `IMAGE` in a registry as it is, instead of building one"), scanFormatFlag},
		},
		{
			name: "license", short: "Check the licences of the modules in the program", goals: fixedGoals(ship.License),
			example: `  slipway license
  slipway license --allow-license MIT --allow-license Apache-2.0
  slipway license -o json | jq -r '.license.modules[] | [.path, .version, .licenses[]] | @tsv'`,
			long: `License builds the app and checks that every module in the program has a licence that
license.allow lists, except the app's own module and Go's standard library. Which
modules these are is read from the program. If a module has several licences, all of
them must be allowed; of a choice such as MIT OR GPL-3.0-only, one is enough.

Modules in license.exceptions are not checked. If license.allow is empty, nothing is.
The report is written to .slipway/reports.`,
			flags: []flagGroup{sourceFlags, verdictFlags, buildFlags, licenseFlags},
		},
	}
}

// imageCommands returns the commands that build, publish, sign or verify an image.
func imageCommands() []stageCommand {
	return []stageCommand{
		{
			name: "build", short: "Build the image for every platform", goals: fixedGoals(), builds: true,
			example: `  slipway build                       into .slipway/image
  slipway build -o oci:out --platforms linux/arm64
  slipway build -o docker-archive:app.tar --platforms linux/amd64
  slipway build --upx --base distroless
  SOURCE_DATE_EPOCH=0 slipway build   with a time other than the commit's`,
			flags: []flagGroup{sourceFlags, buildFlags, digestFlags},
		},
		{
			name: "publish", short: "Build the image and push it", goals: fixedGoals(ship.Push), builds: true,
			example: `  slipway publish --repository ghcr.io/acme/orders
  slipway publish --tag v1.2.3 --tag latest --digest-file digest.txt
  echo "$TOKEN" | slipway publish --username ci --password-stdin`,
			flags: []flagGroup{sourceFlags, buildFlags, digestFlags, pushFlags, accessFlags, hermeticFlag},
		},
		{
			name: "sbom", short: "List what is in the image: a software bill of materials", goals: fixedGoals(ship.SBOMs), builds: true,
			example: `  slipway sbom                        SPDX and CycloneDX of every platform, into .slipway/reports
  slipway sbom --platforms linux/amd64 --as spdx-json > sbom.spdx.json`,
			flags: []flagGroup{sourceFlags, buildFlags, digestFlags, reportsFlag, sbomFormatFlag},
		},
		{
			name: "sign", short: "Sign an image by digest and attest what is known of it", builds: true, needsImage: true,
			goals: func(r *request) []graph.Name {
				if r.onlySignature {
					return []graph.Name{ship.Sign}
				}
				return []graph.Name{ship.Sign, ship.Attest}
			},
			example: `  slipway sign --image ghcr.io/acme/orders@sha256:... --key cosign.key
  slipway sign --image ghcr.io/acme/orders@sha256:... --keyless
  slipway sign --image ghcr.io/acme/orders@sha256:... --only-signature --key awskms:///alias/release`,
			long: `Sign signs the index and every manifest in it in the way cosign does, and attests
the SBOM, the provenance and the scan result. An attestation says how the image
was made, so the image must be what this source builds: the same commit gives the
same digest. Signing an image again adds nothing.`,
			flags: []flagGroup{sourceFlags, reportsFlag, buildFlags, digestFlags, scanFlags, allowFlag, hermeticFlag, signFlags, accessFlags, imageFlag("the `IMAGE`, as repository@sha256:..."), onlySignatureFlag},
		},
		{
			name: "verify", short: "Check an image's signatures, attestations and the age of its scan", goals: fixedGoals(ship.Verify), needsImage: true,
			example: `  slipway verify --image ghcr.io/acme/orders@sha256:... --env prod
  slipway verify --image ghcr.io/acme/orders:v1.2.3 --key cosign.pub
  slipway verify --image ghcr.io/acme/orders:v1.2.3 -o json | jq .verify`,
			flags: []flagGroup{accessFlags, imageFlag("the `IMAGE`; a tag is resolved once"), policyFlags},
		},
	}
}

// clusterCommands returns the commands that deploy an image, or show what a deployment
// would change.
func clusterCommands() []stageCommand {
	return []stageCommand{
		{
			name: "plan", short: "Show what a deployment would change", goals: fixedGoals(ship.Plan), builds: true, dry: true,
			example: `  slipway plan --env prod
  slipway plan --env prod --image ghcr.io/acme/orders@sha256:...
  slipway plan --env prod -o json | jq '.plan.clusters[].changes[].object'`,
			long: `Plan renders the chart and asks the cluster what would become of every object. It
does so with dry runs of the very changes that a deployment would send. Values of
Secrets are hidden. Nothing is pushed or changed.

Exit codes: 0 if nothing would change, 3 if something would. The others are those
of every command.`,
			flags: []flagGroup{sourceFlags, buildFlags, digestFlags, clusterFlags, accessFlags, imageFlag("the `IMAGE`, as repository@sha256:... (default: what this source builds)")},
		},
		{
			name: "deploy", short: "Deploy an image to a cluster and follow the rollout", builds: true,
			goals: func(r *request) []graph.Name {
				if r.Reference != "" {
					return []graph.Name{ship.Deploy}
				}
				return append(everything(), ship.Deploy)
			},
			example: `  slipway deploy --env staging                      everything from the source on
  slipway deploy --env prod --image ghcr.io/acme/orders@sha256:...
  slipway deploy --env prod --image ... --yes       protected, in CI
  slipway deploy --env prod --image ... -o json | jq .deploy.clusters`,
			long: `Deploy verifies the image's signature against the policy of the environment,
installs or upgrades the Helm release and follows its pods until they are ready.
If the rollout fails, deploy says why, with events and logs, and rolls back to the
newest good revision. Without --image it runs everything before it: lint, test,
build, scan, push, sign and attest.

A release is locked while it is deployed. A release that a dead run left pending is
recovered. Deploying what is already running changes nothing.`,
			flags: []flagGroup{sourceFlags, verdictFlags, hermeticFlag, buildFlags, digestFlags, pushFlags, accessFlags, clusterFlags, deployFlags, gateFlags, signFlags,
				imageFlag("the `IMAGE`, as repository@sha256:... (default: what this source builds)")},
		},
		{
			name: "ship", short: "Run everything: from the source to a signed image and, with --env, to running pods", builds: true,
			goals: func(r *request) []graph.Name {
				switch {
				case r.unsigned:
					return append(ship.Gates(), ship.Push)
				case r.Environment != "":
					return append(everything(), ship.Deploy)
				}
				return everything()
			},
			example: `  slipway ship                        to the embedded registry if none is configured
  slipway ship --env staging          and deploy it there
  slipway ship --repository registry.example.com/acme/orders
  slipway ship --key env://SIGNING_KEY
  slipway ship --allow lint,scan      begin although these gates fail today
  slipway ship -o json | jq -r .reference`,
			flags: []flagGroup{sourceFlags, verdictFlags, hermeticFlag, buildFlags, digestFlags, pushFlags, accessFlags, gateFlags, signFlags, clusterFlags, deployFlags, unsignedFlag},
		},
	}
}
