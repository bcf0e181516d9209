package command

import (
	"bufio"
	"os"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
)

// serveRegistry runs slipway registry until the end of the test and returns its address.
func serveRegistry(t *testing.T, p *program) string {
	t.Helper()
	cmd := p.command(t, "registry")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(line, " on ")
	address, _, ok := strings.Cut(rest, " until")
	if !ok {
		t.Fatalf("slipway registry printed %q", line)
	}
	return address
}

// TestRunsBesideARegistry runs publish while slipway registry serves the same cache, and
// while one serves the cache of somebody else. Neither fails because of the port, and a
// second run finds what the first pushed.
func TestRunsBesideARegistry(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	dir := testkit.Repository(t, helloApp())
	mine, other := newProgram(t, dir), newProgram(t, dir)
	served := serveRegistry(t, mine)
	otherData := cache.Dir(other.variable("SLIPWAY_CACHE")).Path("registry")
	for _, tt := range []struct {
		p    *program
		host string
	}{
		{mine, served},
		{other, embedded.Host(embedded.Ports(otherData)[1])},
	} {
		first := tt.p.report(t, "publish")
		if !strings.HasPrefix(first.Reference, tt.host+"/hello@sha256:") {
			t.Errorf("the reference is %s, want one in %s", first.Reference, tt.host)
		}
		if again := tt.p.report(t, "publish"); again.Reference != first.Reference || again.Stages[len(again.Stages)-1].Outcome != progress.Unchanged {
			t.Errorf("the second run pushed %s again", again.Reference)
		}
		e := tt.p.run(t, "scan", "--image", first.Reference, "--db-repository", "bundled", "--progress", "plain")
		if e.code != fault.ExitOK {
			t.Errorf("%s: exit %d\n%s", first.Reference, e.code, e.stderr)
		}
	}
	if second := serveRegistry(t, mine); second == served {
		t.Errorf("two processes serve %s", second)
	}
	e := other.run(t, "publish", "--progress", "plain")
	if !strings.Contains(e.stderr, "warning: another program, or the registry of another cache, uses 127.0.0.1:5077") {
		t.Errorf("nothing says that the port is used:\n%s", e.stderr)
	}
}
