package ship

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Allowable returns the gates that [Options.Allow] can name.
func Allowable() []graph.Name { return []graph.Name{Lint, Test, Scan, License} }

// ParseAllow returns the gates with the given names. For any other name it returns a
// [fault.Input] error.
func ParseAllow(names []string) ([]graph.Name, error) {
	var gates []graph.Name
	for _, name := range names {
		gate := graph.Name(name)
		if !slices.Contains(Allowable(), gate) {
			return nil, fault.Inputf("usage", "--allow %q is not a gate", name).WithFix("use lint, test, scan or license")
		}
		if !slices.Contains(gates, gate) {
			gates = append(gates, gate)
		}
	}
	return gates, nil
}

// checkAllow removes the gates from [Options.Allow] that the policy of the run does not
// accept as failed, so that they stop the run as usual, and says so.
func (p *run) checkAllow(ctx context.Context) error {
	if len(p.Allow) == 0 || !p.includes(Verify) {
		return nil
	}
	v, err := p.Config.Policy(p.Environment)
	if err != nil {
		return err
	}
	if v.Allow == nil {
		return nil
	}
	var refused []string
	p.Allow = slices.DeleteFunc(slices.Clone(p.Allow), func(gate graph.Name) bool {
		if slices.Contains(v.Allow, string(gate)) {
			return false
		}
		refused = append(refused, string(gate))
		return true
	})
	if len(refused) > 0 {
		where := "verify.allow"
		if p.Environment != "" {
			where += " of environment " + p.Environment
		}
		progress.Warnf(ctx, "--allow %s has no effect, because %s does not accept an image that was made although that gate failed", strings.Join(refused, ","), where)
	}
	return nil
}

// allow returns the function that decides whether a gate may fail. Mistakes in the
// configuration still stop the run.
func (p *run) allow(gate graph.Name) func(error) bool {
	return func(err error) bool {
		input, ok := errors.AsType[*fault.Error](err)
		if !slices.Contains(p.Allow, gate) || ok && input.Kind == fault.Input {
			return false
		}
		p.allowedMu.Lock()
		defer p.allowedMu.Unlock()
		p.report.Allowed = append(p.report.Allowed, gate)
		slices.Sort(p.report.Allowed)
		return true
	}
}

// acceptedGates returns the gates that may have failed when the image was made: those of
// the policy or, if that does not decide it, those that this run allows.
func (p *run) acceptedGates(policy []string) []string {
	if policy != nil {
		return policy
	}
	var gates []string
	for _, gate := range p.Allow {
		gates = append(gates, string(gate))
	}
	return gates
}
