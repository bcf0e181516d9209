package command

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
)

// variant is a command with flags.
type variant struct{ command, flags string }

// variants returns the commands with all flags that change which steps they run.
func variants() []variant {
	const image = "--image IMAGE"
	return []variant{
		{"check", ""},
		{"lint", ""},
		{"test", ""},
		{"build", ""},
		{"publish", ""},
		{"scan", ""},
		{"scan", image},
		{"license", ""},
		{"sbom", ""},
		{"sign", image},
		{"sign", image + " --only-signature"},
		{"verify", image},
		{"plan", ""},
		{"plan", image},
		{"deploy", ""},
		{"deploy", image},
		{"ship", ""},
		{"ship", "--env ENVIRONMENT"},
		{"ship", "--unsigned"},
	}
}

// stagesOf returns the steps that a variant runs with the given outputs, in order.
func stagesOf(t *testing.T, v variant, places ...string) ([]graph.Name, error) {
	t.Helper()
	all := stageCommands()
	i := slices.IndexFunc(all, func(c stageCommand) bool { return c.name == v.command })
	if i < 0 {
		t.Fatalf("there is no command %s", v.command)
	}
	r := &request{}
	f := pflag.NewFlagSet(v.command, pflag.ContinueOnError)
	for _, add := range all[i].flags {
		add(r, f)
	}
	if err := f.Parse(strings.Fields(v.flags)); err != nil {
		t.Fatal(err)
	}
	return all[i].resolve(r, places)
}

// TestStagesOfEveryCommand compares docs/commands.md, which lists the steps of each command
// with each output, or writes it with -update.
func TestStagesOfEveryCommand(t *testing.T) {
	outputs := []string{"", "oci:DIR", "docker-archive:FILE", "registry:REPOSITORY"}
	var table bytes.Buffer
	table.WriteString("# What each command runs\n\n" +
		"A command names goals; the steps that they need are computed from the graph in\n" +
		"`pipeline/ship/steps.go`. This page is generated from it by the tests of\n" +
		"`pipeline/command`. Steps that do not depend on each other run at the same time.\n\n" +
		"| command | `-o` | steps, in order |\n|---|---|---|\n")
	for _, v := range variants() {
		for _, o := range outputs {
			var places []string
			if o != "" {
				places = []string{o}
			}
			names, err := stagesOf(t, v, places...)
			call := strings.TrimSpace("slipway " + v.command + " " + v.flags)
			if err != nil {
				if fault.ExitCode(err) != fault.ExitInput || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s -o %s: exit %d: %v", call, o, fault.ExitCode(err), err)
				}
				fmt.Fprintf(&table, "| `%s` | `%s` | error: %s |\n", call, o, err)
				continue
			}
			texts := make([]string, 0, len(names))
			for _, n := range names {
				texts = append(texts, string(n))
			}
			if o != "" {
				o = "`" + o + "`"
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", call, o, strings.Join(texts, ", "))
		}
	}
	testkit.Golden(t, "../../docs/commands.md", table.Bytes())
}

// TestVariantsContainEveryCommand checks that docs/commands.md contains every command.
func TestVariantsContainEveryCommand(t *testing.T) {
	for _, c := range stageCommands() {
		if !slices.ContainsFunc(variants(), func(v variant) bool { return v.command == c.name }) {
			t.Errorf("docs/commands.md does not contain slipway %s: add it to variants", c.name)
		}
	}
}
