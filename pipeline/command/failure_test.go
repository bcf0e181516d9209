package command

import (
	"bufio"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// badInput is a command that must end with exit code 2 and print one line.
type badInput struct {
	files map[string]string
	args  []string
	env   []string
	want  string
}

func badInputs() map[string]badInput {
	with := func(more map[string]string, without ...string) map[string]string {
		files := helloApp()
		maps.Copy(files, more)
		for _, name := range without {
			delete(files, name)
		}
		return files
	}
	noPath := "PATH=/nonexistent"
	return map[string]badInput{
		"unknown command":                      {helloApp(), []string{"frobnicate"}, nil, `unknown command "frobnicate"`},
		"unknown flag":                         {helloApp(), []string{"build", "--frob"}, nil, "unknown flag: --frob"},
		"argument":                             {helloApp(), []string{"build", "x"}, nil, "unknown command"},
		"missing folder":                       {helloApp(), []string{"-C", "nowhere", "build"}, nil, "-C nowhere"},
		"missing module":                       {with(nil, "go.mod"), []string{"build"}, nil, "there is no go.mod in"},
		"no main package":                      {with(map[string]string{"main.go": "package x\n"}), []string{"build"}, nil, "has no main package"},
		"several main packages":                {with(map[string]string{"cmd/b/b.go": "package main\n\nfunc main() {}\n"}), []string{"build"}, nil, "set app.main in slipway.yaml to one of ., ./cmd/b"},
		"unknown platform":                     {helloApp(), []string{"build", "--platforms", "linux/pdp11"}, nil, `platform "linux/pdp11" is not known`},
		"compression":                          {helloApp(), []string{"build", "--compression", "ztsd"}, nil, `did you mean "zstd"?`},
		"output":                               {helloApp(), []string{"build", "-o", "tar:x"}, nil, `"tar:x" is not an output`},
		"output of a command without an image": {helloApp(), []string{"check", "-o", "oci:x"}, nil, `-o "oci:x" is not text or json`},
		"archive of two platforms":             {helloApp(), []string{"build", "-o", "docker-archive:x", "--platforms", "linux/amd64,linux/arm64"}, nil, "an archive for docker load holds one platform"},
		"progress":                             {helloApp(), []string{"build", "--progress", "loud"}, nil, `--progress "loud"`},
		"configuration":                        {with(map[string]string{"slipway.yaml": "app:\n  man: x\n"}), []string{"build"}, nil, `slipway.yaml:2:3: unknown key "man" in app; did you mean "main"?`},
		"missing configuration":                {helloApp(), []string{"build", "--config", "x.yaml"}, nil, "no such file"},
		"repository":                           {helloApp(), []string{"publish", "--repository", "Acme/Hello"}, nil, `image.repository: `},
		"tag":                                  {helloApp(), []string{"publish", "--repository", "127.0.0.1:1/a", "--tag", "a b"}, nil, `"a b" is not a tag`},
		"base":                                 {helloApp(), []string{"build", "--base", "a b"}, nil, "a b"},
		"epoch":                                {helloApp(), []string{"build"}, []string{"SOURCE_DATE_EPOCH=now"}, `SOURCE_DATE_EPOCH="now"`},
		"revision":                             {helloApp(), []string{"build", "--revision", "v1"}, nil, `"v1" is not a commit hash`},
		"username without password":            {helloApp(), []string{"publish", "--repository", "127.0.0.1:1/a", "--username", "me"}, nil, "only one is given"},
		"empty password":                       {helloApp(), []string{"publish", "--repository", "127.0.0.1:1/a", "--username", "me", "--password-stdin"}, nil, "standard input has no password"},
		"ignore file":                          {with(map[string]string{".dockerignore": "a[\n"}), []string{"build"}, nil, `pattern "a["`},
		"go is not installed":                  {helloApp(), []string{"build"}, []string{noPath}, "go is not installed or not on PATH"},
		"toolchain":                            {with(map[string]string{"slipway.yaml": "app:\n  toolchain: go1.11\n"}), []string{"build"}, []string{"GOPROXY=off"}, "go1.11"},
		"link out of the repository":           {helloApp(), []string{"build"}, nil, "the program is built from files outside the repository: symbolic link out.go points to"},
		"no scanner":                           {helloApp(), []string{"scan"}, []string{"SLIPWAY_TEST_AS_PROGRAM=core"}, "this slipway was built without the scanner (install all of it with: GOEXPERIMENT=jsonv2 go install github.com/slipway-ci/slipway/pipeline/cmd/slipway@latest)"},
		"ship without the scanner":             {helloApp(), []string{"ship"}, []string{"SLIPWAY_TEST_AS_PROGRAM=core"}, "GOEXPERIMENT=jsonv2 go install"},
		"no key":                               {helloApp(), []string{"ship", "--repository", "127.0.0.1:1/a"}, nil, "there is nothing to sign with (set sign.key or sign.keyless"},
		"sign without an image":                {helloApp(), []string{"sign"}, nil, "--image is missing (name the image"},
		"sign a tag":                           {helloApp(), []string{"sign", "--only-signature", "--image", "127.0.0.1:1/a:v1", "--key", "x"}, nil, "127.0.0.1:1/a:v1 names an image by its tag (give repository@sha256:..."},
		"two signers":                          {helloApp(), []string{"sign", "--image", "127.0.0.1:1/a", "--key", "x", "--keyless"}, nil, "--key and keyless signing exclude each other"},
		"unknown environment":                  {with(map[string]string{"slipway.yaml": "deploy: {environments: {prod: {}, staging: {}}}\n"}), []string{"verify", "--image", "127.0.0.1:1/a", "--env", "pord"}, nil, `no environment "pord" in deploy.environments (use one of prod, staging)`},
		"severity":                             {helloApp(), []string{"scan", "--severity", "SEVERE"}, nil, "scan.severities"},
		"licence":                              {helloApp(), []string{"license", "--allow-license", "MIT", "--allow-license", "Apache"}, nil, `license.allow: "Apache" is not an SPDX identifier of a licence`},
		"licence in slipway.yaml":              {with(map[string]string{"slipway.yaml": "license: {allow: [Apache 2]}\n"}), []string{"license"}, nil, `slipway.yaml:1:19: license.allow: "Apache 2" is not an SPDX`},
		"licence with an output":               {helloApp(), []string{"license", "-o", "oci:x"}, nil, `-o "oci:x" is not text or json`},
		"report":                               {helloApp(), []string{"scan", "--as", "xml"}, nil, `--as "xml" is not table, json`},
		"document of two platforms":            {helloApp(), []string{"sbom", "--as", "cyclonedx", "--platforms", "linux/amd64,linux/arm64"}, nil, "--as prints the document of one platform, but this app has 2"},
		"key exists":                           {with(map[string]string{"cosign.pub": ""}), []string{"keys", "generate"}, []string{"COSIGN_PASSWORD="}, "cosign.pub exists"},
		"no key password":                      {helloApp(), []string{"keys", "generate"}, nil, "there is no password for the key (set SLIPWAY_KEY_PASSWORD"},
		"plan with a push":                     {helloApp(), []string{"plan", "-o", "registry:127.0.0.1:1/a"}, nil, `-o "registry:127.0.0.1:1/a": plan does not push anything (use slipway publish)`},
		"scan of an image with an output":      {helloApp(), []string{"scan", "--image", "127.0.0.1:1/a", "-o", "oci:x"}, nil, `-o "oci:x": with --image, scan builds no image`},
		"deployment of an image with a push":   {helloApp(), []string{"deploy", "--image", "127.0.0.1:1/a", "-o", "registry:127.0.0.1:1/b"}, nil, "is in a registry already"},
		"allow":                                {helloApp(), []string{"ship", "--allow", "lnt"}, nil, `--allow "lnt" is not a gate (use lint, test, scan or license)`},
		"allow in a policy":                    {with(map[string]string{"slipway.yaml": "verify: {allow: [sbom]}\n"}), []string{"build"}, nil, "slipway.yaml:1:18: verify.allow.0 is sbom; it must be one of lint, test, scan, license"},
		"init again":                           {helloApp(), []string{"init"}, nil, "exists already"},
	}
}

func TestBadInputIsOneLineAndExit2(t *testing.T) {
	for title, tt := range badInputs() {
		t.Run(title, func(t *testing.T) {
			dir := testkit.Repository(t, tt.files)
			if title == "link out of the repository" {
				outside := testkit.Tree(t, map[string]string{"out.go": "package main\n"})
				if err := os.Symlink(filepath.Join(outside, "out.go"), filepath.Join(dir, "out.go")); err != nil {
					t.Fatal(err)
				}
			}
			p := newProgram(t, dir)
			p.env = append(p.env, tt.env...)
			e := p.run(t, append(tt.args, "--progress=json")...)
			if strings.Contains(tt.want, "--progress") {
				e = p.run(t, tt.args...)
			}
			var lines []string
			for line := range strings.Lines(e.stderr) {
				if !strings.HasPrefix(line, "{") {
					lines = append(lines, line)
				}
			}
			if e.code != fault.ExitInput || len(lines) != 1 || !strings.Contains(lines[0], tt.want) || !strings.HasPrefix(lines[0], "slipway: ") {
				t.Errorf("exit %d\n%swant %s", e.code, e.stderr, tt.want)
			}
			if e.stdout != "" && !strings.Contains(e.stdout, "failed") {
				t.Errorf("standard output:\n%s", e.stdout)
			}
		})
	}
}

// TestVersion checks that the version and whether the scanner is included are printed.
func TestVersion(t *testing.T) {
	p := newProgram(t, t.TempDir())
	for program, want := range map[string]string{"1": "with the scanner", "core": "without the scanner"} {
		p.env = append(p.env, "SLIPWAY_TEST_AS_PROGRAM="+program)
		for _, args := range [][]string{{"--version"}, {"version"}, {"-v", "version"}} {
			e := p.run(t, args...)
			if e.code != fault.ExitOK || !strings.HasPrefix(e.stdout, "slipway ") || !strings.HasSuffix(e.stdout, ", "+want+"\n") || strings.Count(e.stdout, "\n") != 1 {
				t.Errorf("%v: exit %d\n%s%s", args, e.code, e.stdout, e.stderr)
			}
		}
		e := p.run(t, "version", "-o", "json")
		var v struct {
			Version string
			Scanner bool
		}
		if err := json.Unmarshal([]byte(e.stdout), &v); err != nil || v.Version == "" || v.Scanner != (program == "1") {
			t.Errorf("%v\n%s", err, e.stdout)
		}
	}
}

func TestBuildWithoutGitAndConfiguration(t *testing.T) {
	dir := t.TempDir()
	testkit.Write(t, dir, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"})
	r := newProgram(t, dir).report(t, "build", "--platforms", "linux/amd64")
	if r.Source.Version != "v0.0.0-unversioned" || r.Digest == "" {
		t.Errorf("version %s, digest %q", r.Source.Version, r.Digest)
	}
}

// TestLibrary checks that lint and check accept a module without a main package, and that
// build does not.
func TestLibrary(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "x.go": "// Package x is a library.\npackage x\n"}))
	withLinter(t, p)
	for _, command := range []string{"lint", "check"} {
		if e := p.run(t, command); e.code != fault.ExitOK {
			t.Errorf("%s: exit %d\n%s", command, e.code, e.stderr)
		}
	}
	if e := p.run(t, "build"); e.code != fault.ExitInput || !strings.Contains(e.stderr, "has no main package") {
		t.Errorf("build: exit %d\n%s", e.code, e.stderr)
	}
}

func TestCompilerErrorsExit1AndAreShown(t *testing.T) {
	files := helloApp()
	files["main.go"] = "package main\n\nfunc main() { undefined() }\n"
	e := newProgram(t, testkit.Repository(t, files)).run(t, "build", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "main.go:3:15: undefined: undefined") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

func TestFailingTestsKeepTheirReports(t *testing.T) {
	files := helloApp()
	files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestNo(t *testing.T) { t.Error(\"it is broken\") }\n"
	dir := testkit.Repository(t, files)
	e := newProgram(t, dir).run(t, "test", "--no-race", "--progress", "plain", "-o", "json")
	if e.code != fault.ExitFailed {
		t.Fatalf("exit %d\n%s", e.code, e.stderr)
	}
	var r struct {
		Test  struct{ Failed int }
		Error struct{ Code string }
	}
	if err := json.Unmarshal([]byte(e.stdout), &r); err != nil {
		t.Fatal(err)
	}
	if r.Test.Failed != 1 || r.Error.Code != "test.failed" {
		t.Errorf("got %+v", r)
	}
	for _, name := range []string{"junit.xml", "cobertura.xml"} {
		if data, err := os.ReadFile(filepath.Join(dir, ".slipway", "reports", name)); err != nil || len(data) == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerdictsAreReusedUntilSomethingChanges checks that a second run reuses the result of
// the tests, and that a changed file, a missing report or --force makes them run again.
func TestVerdictsAreReusedUntilSomethingChanges(t *testing.T) {
	files := helloApp()
	files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestYes(t *testing.T) {}\n"
	dir := testkit.Repository(t, files)
	p := newProgram(t, dir)
	outcome := func(args ...string) progress.Outcome {
		t.Helper()
		return p.report(t, append([]string{"test", "--no-race"}, args...)...).Outcome
	}
	for _, step := range []struct {
		change func()
		args   []string
		want   progress.Outcome
	}{
		{func() {}, nil, progress.Passed},
		{func() {}, nil, progress.Unchanged},
		{func() {}, []string{"--force"}, progress.Passed},
		{func() { testkit.Write(t, dir, map[string]string{"testdata/x": "x"}) }, nil, progress.Passed},
		{func() {}, nil, progress.Unchanged},
		{func() { _ = os.Remove(filepath.Join(dir, ".slipway/reports/junit.xml")) }, nil, progress.Passed},
		{func() { testkit.Write(t, dir, map[string]string{"slipway.yaml": "test: {coverage: 0.1}\n"}) }, nil, progress.Failed},
	} {
		step.change()
		if step.want == progress.Failed {
			if e := p.run(t, "test", "--no-race", "--progress", "plain"); e.code != fault.ExitFailed {
				t.Errorf("exit %d, want a failed gate\n%s", e.code, e.stderr)
			}
			continue
		}
		if got := outcome(step.args...); got != step.want {
			t.Errorf("got %s, want %s", got, step.want)
		}
	}
}

// TestInterruptLeavesNoFiles stops runs in every stage. After SIGINT and SIGTERM the exit
// code must be 130, and no temporary files may remain. After SIGKILL the next run must
// remove them. In all cases the next run must produce the digest of a run without an
// interrupt.
func TestInterruptLeavesNoFiles(t *testing.T) {
	testkit.Slow(t, "builds, lints or tests whole apps for more than five seconds")
	dir := testkit.Repository(t, helloApp())
	want := newProgram(t, dir).report(t, "build").Digest
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, stage := range []string{"build", "image", "export", "push"} {
			t.Run(sig.String()+"/"+stage, func(t *testing.T) {
				p := newProgram(t, dir)
				out := filepath.Join(t.TempDir(), "layout")
				args := []string{"publish", "--repository", testkit.Registry(t) + "/x", "-o", "oci:" + out, "--progress", "json"}
				cmd := p.command(t, args...)
				stderr, err := cmd.StderrPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				signalled := false
				for lines := bufio.NewScanner(stderr); lines.Scan(); {
					var e progress.Event
					if json.Unmarshal(lines.Bytes(), &e) == nil && e.Stage == stage && e.Kind == progress.Started && !signalled {
						signalled = true
						if err := cmd.Process.Signal(sig); err != nil {
							t.Fatal(err)
						}
					}
				}
				_ = cmd.Wait() // the exit code is checked below
				code := cmd.ProcessState.ExitCode()
				if !signalled {
					t.Fatalf("stage %s never started", stage)
				}
				// The run may have ended before it received the signal.
				if sig != syscall.SIGKILL && code != fault.ExitInterrupted && code != fault.ExitOK {
					t.Errorf("exit %d, want 130", code)
				}
				if sig != syscall.SIGKILL {
					wantNoLeftovers(t, p, out)
				}
				if got := p.report(t, "publish", "--repository", testkit.Registry(t)+"/x", "-o", "oci:"+out).Digest; got != want {
					t.Errorf("the next run produced %s, want %s", got, want)
				}
				if sig == syscall.SIGKILL {
					wantNoLeftovers(t, p, out)
				}
			})
		}
	}
}

// wantNoLeftovers checks that a run has left no temporary files in the cache and next to
// its output.
func wantNoLeftovers(t *testing.T, p *program, out string) {
	t.Helper()
	runs, err := os.ReadDir(filepath.Join(p.variable("SLIPWAY_CACHE"), "runs"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range runs {
		t.Errorf("temporary file in the cache: %s", e.Name())
	}
	siblings, err := os.ReadDir(filepath.Dir(out))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range siblings {
		if e.Name() != filepath.Base(out) {
			t.Errorf("temporary file next to the output: %s", e.Name())
		}
	}
}

// TestWithoutHome checks that without HOME one line says what to set, and that setting
// exactly that is enough.
func TestWithoutHome(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	goCache, modCache, own := p.variable("GOCACHE"), p.variable("GOMODCACHE"), p.variable("SLIPWAY_CACHE")
	bare := []string{"SLIPWAY_TEST_AS_PROGRAM=1", "PATH=" + p.variable("PATH"), "TMPDIR=" + p.variable("TMPDIR"), "GOPROXY=off"}
	for _, tt := range []struct {
		env  []string
		want string // the error; empty if the build succeeds
	}{
		{nil, "neither $XDG_CACHE_HOME nor $HOME are defined (set HOME to a writable folder, or set SLIPWAY_CACHE, GOCACHE and GOMODCACHE)"},
		{[]string{"SLIPWAY_CACHE=" + own}, "HOME is not set, so Go has no folder for its caches (set HOME to a writable folder, or set GOCACHE and GOMODCACHE)"},
		{[]string{"SLIPWAY_CACHE=" + own, "GOCACHE=" + goCache}, "(set HOME to a writable folder, or set GOMODCACHE)"},
		{[]string{"XDG_CACHE_HOME=" + own}, "(set HOME to a writable folder, or set GOMODCACHE)"},
		{[]string{"SLIPWAY_CACHE=" + own, "GOCACHE=" + goCache, "GOMODCACHE=" + modCache}, ""},
	} {
		p.env = append(slices.Clone(bare), tt.env...)
		e := p.run(t, "build", "--progress", "plain")
		if tt.want == "" {
			if e.code != fault.ExitOK {
				t.Errorf("%q: exit %d\n%s", tt.env, e.code, e.stderr)
			}
			continue
		}
		if e.code != fault.ExitInput || strings.Count(e.stderr, "\n") != 1 || !strings.Contains(e.stderr, tt.want) {
			t.Errorf("%q: exit %d\n%swant %s", tt.env, e.code, e.stderr, tt.want)
		}
	}
	// A command that does not run Go needs none of its folders.
	p.env = append(slices.Clone(bare), "SLIPWAY_CACHE="+own)
	if e := p.run(t, "verify", "--image", "127.0.0.1:1/x:v1", "--progress", "plain"); e.code != fault.ExitFailed || !strings.Contains(e.stderr, "registry 127.0.0.1:1") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

// TestFullDisk runs with a cache on a file system that is too small.
func TestFullDisk(t *testing.T) {
	dir := testkit.Repository(t, helloApp())
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=700k"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	p := newProgram(t, dir)
	p.env = append(p.env, "SLIPWAY_CACHE="+small)
	out := filepath.Join(t.TempDir(), "layout")
	e := p.run(t, "build", "-o", "oci:"+out, "--progress", "json")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "no space left on device") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the output exists")
	}
	if files, err := os.ReadDir(filepath.Join(small, "runs")); err != nil || len(files) > 0 {
		t.Errorf("temporary files in the cache: %v, error %v", files, err)
	}
}

// TestRegistryPasswordIsNeverWritten checks that the password of a registry is not in the
// output of the program and not in any file that it writes.
func TestRegistryPasswordIsNeverWritten(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	repo := strings.TrimPrefix(s.URL, "http://") + "/acme/hello"
	dir := testkit.Repository(t, helloApp())
	p := newProgram(t, dir)
	p.stdin = strings.NewReader(secret + "\n")
	e := p.run(t, "publish", "--repository", repo, "--username", "me", "--password-stdin", "-o", "json", "-v", "--progress", "plain")
	if e.code != fault.ExitOK {
		t.Fatalf("exit %d\n%s", e.code, e.stderr)
	}
	wantNoSecret(t, secret, e.stdout+e.stderr, dir, p.variable("HOME"))
	ref, err := name.ParseReference(repo + ":latest")
	if err == nil {
		_, err = remote.Head(ref)
	}
	if err == nil {
		t.Error("the registry does not require the password, so this test proves nothing")
	}

	p = newProgram(t, dir)
	p.env = append(p.env, "SLIPWAY_REGISTRY_USERNAME=me", "SLIPWAY_REGISTRY_PASSWORD="+secret+"x")
	e = p.run(t, "publish", "--repository", repo, "-v", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "requires credentials") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	wantNoSecret(t, secret, e.stdout+e.stderr, dir, p.variable("HOME"))
}

func TestHelpHasExamples(t *testing.T) {
	a := &app{}
	for _, c := range a.root().Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s has no example or no short description", c.Name())
		}
	}
}
