package testcluster

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
)

// Addon is a program of the module devcluster/addons, or of another one in devcluster.
type Addon struct {
	Dir   string      // the folder of the module that publishes it, with its chart
	Image name.Digest // an image of the program
}

// Addon builds a program of the module devcluster/addons, and pushes an image of it. The first
// build takes minutes; the go command keeps what it has compiled.
func (c *Cluster) Addon(tb testing.TB, module, program string) Addon {
	tb.Helper()
	return c.AddonOf(tb, "addons", module, program)
}

// AddonOf is Addon for a module in another folder of devcluster.
func (c *Cluster) AddonOf(tb testing.TB, folder, module, program string) Addon {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "go", "env", "GOMOD").Output()
	if err != nil {
		tb.Fatalf("finding the module: %v", err)
	}
	addons := filepath.Join(filepath.Dir(strings.TrimSpace(string(out))), "devcluster", folder)
	run := func(args ...string) []byte {
		tb.Helper()
		cmd := exec.CommandContext(tb.Context(), "go", args...)
		cmd.Dir, cmd.Env = addons, append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=", "GOFLAGS=-trimpath")
		var problems strings.Builder
		cmd.Stderr = &problems
		text, err := cmd.Output()
		if err != nil {
			tb.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, problems.String())
		}
		return text
	}
	var listed struct{ Dir string }
	if err := json.Unmarshal(run("list", "-m", "-json", module), &listed); err != nil {
		tb.Fatal(err)
	}
	file := filepath.Join(tb.TempDir(), "program")
	run("build", "-ldflags", "-s -w", "-o", file, program)
	binary, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	image, err := assemble(binary, "addon")
	if err != nil {
		tb.Fatal(err)
	}
	ref, err := push(tb.Context(), image, c.Registry+"/addons/"+filepath.Base(program))
	if err != nil {
		tb.Fatal(err)
	}
	return Addon{Dir: listed.Dir, Image: ref}
}
