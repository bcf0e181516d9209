// Package starter finds out what slipway init proposes for a repository: which of its main
// packages is the service. The proposal is a guess, so it comes with its reasons.
//
// The package promises no compatibility to programs other than slipway.
package starter

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/listener"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Options are the options of [Choose].
type Options struct {
	Dir        string        // folder of the app's module, absolute
	Module     string        // module path
	Mains      []string      // main packages relative to Dir: "." or "./cmd/x"
	Repository string        // root of the git repository, absolute; may be empty
	Go         *toolchain.Go // the app's toolchain; without it, no program is known to listen
	Env        []string      // additional environment variables for the go command, NAME=value
}

// Candidate is a main package that may be the service.
type Candidate struct {
	Main    string   // relative to the module
	Reasons []string // why it looks like the service, most important first
	Doubts  []string // why it looks like something else

	score int
}

// The weights of the reasons. A Dockerfile says most, because somebody has decided it. A
// program that listens is more likely the service than one that is named as the module,
// but a name together with another reason wins over that.
const (
	weighDockerfile = 8
	weighListens    = 4
	weighNamed      = 3
	weighServer     = 1 // is named as servers often are
	weighHelper     = -4
)

// Choose returns the main packages, the one that looks most like the service first.
//
// A package that cannot be read only lacks a reason, so Choose returns no error except that
// of ctx.
func Choose(ctx context.Context, o Options) ([]Candidate, error) {
	all := make([]Candidate, 0, len(o.Mains))
	if len(o.Mains) == 1 {
		return append(all, Candidate{Main: o.Mains[0], Reasons: []string{"is the only main package"}}), ctx.Err()
	}
	listening := listener.Find(ctx, listener.Options{Dir: o.Dir, Module: o.Module, Mains: o.Mains, Go: o.Go, Env: o.Env})
	builds := dockerfiles(ctx, o)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	for _, main := range o.Mains {
		c := Candidate{Main: main}
		if file := builds[main]; file != "" {
			c.add(weighDockerfile, "is built by "+file)
		}
		if at := listening[main]; at != "" {
			c.add(weighListens, "listens on a port ("+at+")")
		}
		if what := named(o, main); what != "" {
			c.add(weighNamed, "is named as the "+what)
		}
		c.judgeName(o)
		all = append(all, c)
	}
	slices.SortStableFunc(all, func(a, b Candidate) int { return cmp.Compare(b.score, a.score) })
	return all, nil
}

// add adds a reason for or against a candidate.
func (c *Candidate) add(weight int, text string) {
	c.score += weight
	if weight < 0 {
		c.Doubts = append(c.Doubts, text)
		return
	}
	c.Reasons = append(c.Reasons, text)
}

// Why returns the reasons as one text, for example "listens on a port (main.go:7), is named
// as the module".
func (c Candidate) Why() string {
	if len(c.Reasons) == 0 {
		return "is the first one, because nothing tells which is the service"
	}
	return display.Clean(strings.Join(c.Reasons, ", ")) // it may contain names of files
}

// named returns "module" or "repository" if the program has its name, and otherwise "".
func named(o Options, main string) string {
	name := programName(o, main)
	switch {
	case name == listener.PackageName(o.Module):
		return "module"
	case o.Repository != "" && name == filepath.Base(o.Repository):
		return "repository"
	}
	return ""
}

// programName returns the name that go build gives to the program of a main package.
func programName(o Options, main string) string {
	if main == "." {
		return listener.PackageName(o.Module)
	}
	return path.Base(main)
}

var (
	serverName = regexp.MustCompile(`^(server|serve|api|app|service|svc|web|http|grpc|gateway|backend|daemon)$|[-_](server|service|svc|api|daemon)$`)
	helperName = regexp.MustCompile(`^(examples?|samples?|demos?|tests?|testing|testdata|e2e|hack|tools?|scripts?|build|ci|docs?|bench(mark)?s?|gen|generate|generator|codegen|migrate|migrations?|migrator|seed|fixtures?|fake|mock|client|cli|ctl|debug|playground|internal)$` +
		`|[-_](gen|generator|cli|ctl|client|tool|test|migrate|migrations?|seed|example|demo|mock|bench)$|^(gen|test|example|mock|migrate)[-_]|[a-z]ctl$`)
)

// judgeName weighs what the name of the package usually means.
func (c *Candidate) judgeName(o Options) {
	elements := strings.Split(strings.TrimPrefix(c.Main, "./"), "/")
	if c.Main == "." {
		elements = []string{programName(o, c.Main)}
	}
	for _, element := range elements {
		if helperName.MatchString(element) {
			c.add(weighHelper, fmt.Sprintf("%s is a usual name for something else", element))
			return
		}
	}
	if name := elements[len(elements)-1]; serverName.MatchString(name) {
		c.add(weighServer, fmt.Sprintf("%s is a usual name for a service", name))
	}
}
