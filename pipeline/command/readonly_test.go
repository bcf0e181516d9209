package command

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// readOnly mounts a folder read-only, as for a container, and returns the mount. The
// permissions of files would not do, because they do not restrict root.
func readOnly(t *testing.T, dir string) string {
	t.Helper()
	at := t.TempDir()
	err := syscall.Mount(dir, at, "", syscall.MS_BIND, "")
	if err == nil {
		t.Cleanup(func() { _ = syscall.Unmount(at, syscall.MNT_DETACH) })
		err = syscall.Mount("", at, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, "")
	}
	if err != nil {
		t.Skipf("SKIPPED: a folder cannot be mounted read-only: %v", err)
	}
	if err := os.WriteFile(filepath.Join(at, "x"), nil, 0o644); err == nil {
		t.Fatal("the mount is writable, so this test proves nothing")
	}
	return at
}

// TestReadOnlySource runs every command on a source that cannot be written to. If the
// output goes elsewhere it works. Otherwise the error is one line with the flag that makes
// it work.
func TestReadOnlySource(t *testing.T) {
	testkit.Slow(t, "runs every command")
	files := serverApp(t, "v0.44.0")
	files["chart/Chart.yaml"] = "apiVersion: v2\nname: serves\nversion: 1.0.0\n"
	files["slipway.yaml"] = "app:\n  platforms: [linux/amd64]\nscan:\n  databases: [bundled]\ndeploy: {environments: {dev: {}}}\n"
	source := testkit.Repository(t, files)
	out := t.TempDir()
	p := newProgram(t, readOnly(t, source))
	withLinter(t, p)
	p.env = append(p.env, passwordVariable+"=", "KUBECONFIG=/nonexistent")
	const reports = "read-only file system (name another one with --reports DIR)"
	image := "" // of the first publish
	for _, tt := range []struct {
		args string // OUT stands for another folder, IMAGE for the image that was published
		want string // the error; empty if the command succeeds
	}{
		{"source", ""},
		{"keys generate", "writing cosign.key: read-only file system (choose a file in a writable folder)"},
		{"keys generate --private OUT/a.key --public OUT/a.pub", ""},
		{"lint", reports}, {"lint --reports OUT", ""},
		{"test", reports}, {"test --reports OUT", ""},
		{"check", reports}, {"check --reports OUT --force", ""},
		{"build", "read-only file system (name another one with -o oci:DIR)"},
		{"build -o oci:OUT/layout", ""}, {"build -o docker-archive:OUT/a.tar --digest-file OUT/digest", ""},
		{"publish", ""}, {"publish -o oci:OUT/layout", ""},
		{"scan", reports}, {"scan --reports OUT", ""},
		{"scan --image IMAGE", reports}, {"scan --image IMAGE --reports OUT", ""},
		{"license --allow-license BSD-3-Clause", reports}, {"license --allow-license BSD-3-Clause --reports OUT", ""},
		{"sbom", reports}, {"sbom --reports OUT", ""},
		{"sign --image IMAGE --key OUT/a.key", reports}, {"sign --image IMAGE --key OUT/a.key --reports OUT", ""},
		{"sign --image IMAGE --key OUT/a.key --only-signature", ""},
		{"verify --image IMAGE --key OUT/a.pub", ""},
		{"ship", reports}, {"ship --reports OUT", ""},
		{"deploy --env dev", reports}, {"deploy --env dev --image IMAGE", reports},
		{"deploy --env dev --image IMAGE --reports OUT", "/nonexistent"}, // needs a cluster
		{"plan --env dev", "/nonexistent"}, {"status --env dev", "/nonexistent"},
	} {
		args := strings.Fields(strings.NewReplacer("OUT", out, "IMAGE", image).Replace(tt.args))
		e := p.run(t, append(args, "--progress", "json")...)
		if tt.args == "publish" {
			image = p.report(t, "publish").Reference
		}
		var lines []string
		for line := range strings.Lines(e.stderr) {
			if strings.HasPrefix(line, "slipway: ") {
				lines = append(lines, line)
			}
		}
		switch {
		case tt.want == "" && e.code != fault.ExitOK:
			t.Errorf("slipway %s: exit %d\n%s", tt.args, e.code, e.stderr)
		case tt.want != "" && (e.code != fault.ExitInput || len(lines) != 1 || !strings.Contains(lines[0], tt.want)):
			t.Errorf("slipway %s: exit %d\n%swant %s", tt.args, e.code, e.stderr, tt.want)
		}
	}
	if changed := testkit.Git(t, source, "status", "--porcelain", "--ignored"); changed != "" {
		t.Errorf("the source has changed:\n%s", changed)
	}
}
