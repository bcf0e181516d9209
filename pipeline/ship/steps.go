package ship

import (
	"slices"

	"github.com/slipway-ci/slipway/pipeline/graph"
)

// The steps.
const (
	Lint     graph.Name = "lint"
	Test     graph.Name = "test"
	Build    graph.Name = "build"
	Compress graph.Name = "compress"
	Image    graph.Name = "image"
	Scan     graph.Name = "scan"
	License  graph.Name = "license"
	SBOMs    graph.Name = "sbom"
	Export   graph.Name = "export"
	Push     graph.Name = "push"
	Sign     graph.Name = "sign"
	Attest   graph.Name = "attest"
	Verify   graph.Name = "verify"
	Plan     graph.Name = "plan"
	Deploy   graph.Name = "deploy"
)

// Gates returns the steps that must pass before an image is exported or pushed, if they
// are part of the run. A command that releases an image has all of them as goals.
func Gates() []graph.Name { return []graph.Name{Lint, Test, Scan, License, SBOMs} }

// reporting returns the steps that write reports.
func reporting() []graph.Name { return []graph.Name{Lint, Test, Scan, License, SBOMs, Deploy} }

// pipeline returns all steps. Each one refers only to steps above it. The list is the
// only place that declares which steps a step needs and which it comes after.
func (p *run) pipeline() []graph.Step {
	type names = []graph.Name
	// A given image is already in a registry. Nothing must be built or pushed
	// before it can be scanned, signed, verified or deployed.
	binary, built, pushed := names{Build}, names{Image}, names{Push}
	if p.given() {
		binary, built, pushed = nil, nil, nil
	}
	gates := Gates()
	return []graph.Step{
		{Name: Lint, Verdict: true, Allow: p.allow(Lint), Run: p.lint},
		{Name: Test, Verdict: true, Allow: p.allow(Test), Run: p.test},
		{Name: Build, Run: p.build},
		{Name: Compress, Needs: names{Build}, Run: p.compress},
		{Name: Image, Needs: names{Compress}, Run: p.image},
		{Name: Scan, Needs: binary, After: names{Build}, Verdict: true, Allow: p.allow(Scan), Check: p.checkScanner, Run: p.scan},
		{Name: License, Needs: names{Build}, Verdict: true, Allow: p.allow(License), Run: p.license},
		{Name: SBOMs, Needs: names{Image}, Check: p.checkScanner, Run: p.sbom},
		{Name: Export, Needs: names{Image}, After: gates, Check: p.checkExport, Run: p.export},
		{Name: Push, Needs: names{Image}, After: gates, Check: p.checkPush, Run: p.push},
		{Name: Sign, Needs: pushed, After: names{Image, Scan, SBOMs}, Check: p.checkKey, Run: p.sign},
		{Name: Attest, Needs: slices.Concat(names{Image, Scan, SBOMs}, pushed), Check: p.checkKey, Run: p.attest},
		{Name: Verify, Needs: pushed, After: names{Sign, Attest}, Check: p.checkPolicy, Run: p.verify},
		{Name: Plan, Needs: built, Check: p.checkPlan, Run: p.plan},
		{Name: Deploy, Needs: names{Verify}, Check: p.checkDeploy, Run: p.deploy},
	}
}

// Stages returns the names of the steps that the goals require, in the order in
// which reports list them. given is true if the image is given by
// [Options.Reference] instead of built. Stages returns an error for an unknown goal.
func Stages(given bool, goals ...graph.Name) ([]graph.Name, error) {
	p := &run{}
	if given {
		p.Reference = "given"
	}
	steps, err := graph.Closure(p.pipeline(), goals...)
	if err != nil {
		return nil, err
	}
	return graph.Names(steps), nil
}
