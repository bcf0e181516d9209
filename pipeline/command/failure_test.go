package command

import (
	"bufio"
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
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

// badInput is a call that must end with exit code 2 and one line.
type badInput struct {
	files map[string]string
	args  []string
	env   []string
	want  string
}

func badInputs() map[string]badInput {
	with := func(more map[string]string, without ...string) map[string]string {
		files := hello()
		maps.Copy(files, more)
		for _, name := range without {
			delete(files, name)
		}
		return files
	}
	noPath := "PATH=/nonexistent"
	return map[string]badInput{
		"unknown command":   {hello(), []string{"frobnicate"}, nil, `unknown command "frobnicate"`},
		"unknown flag":      {hello(), []string{"build", "--frob"}, nil, "unknown flag: --frob"},
		"argument":          {hello(), []string{"build", "x"}, nil, "unknown command"},
		"no folder":         {hello(), []string{"-C", "nowhere", "build"}, nil, "-C nowhere"},
		"no module":         {with(nil, "go.mod"), []string{"build"}, nil, "there is no go.mod in"},
		"no main":           {with(map[string]string{"main.go": "package x\n"}), []string{"build"}, nil, "has no main package"},
		"several mains":     {with(map[string]string{"cmd/b/b.go": "package main\n\nfunc main() {}\n"}), []string{"build"}, nil, "set app.main in slipway.yaml to one of ., ./cmd/b"},
		"unknown platform":  {hello(), []string{"build", "--platforms", "linux/pdp11"}, nil, `platform "linux/pdp11" is not known`},
		"compression":       {hello(), []string{"build", "--compression", "ztsd"}, nil, `did you mean "zstd"?`},
		"output":            {hello(), []string{"build", "-o", "tar:x"}, nil, `"tar:x" is not an output`},
		"output of a check": {hello(), []string{"check", "-o", "oci:x"}, nil, `-o "oci:x" is not text or json`},
		"archive of two":    {hello(), []string{"build", "-o", "docker-archive:x", "--platforms", "linux/amd64,linux/arm64"}, nil, "an archive for docker load holds one platform"},
		"progress":          {hello(), []string{"build", "--progress", "loud"}, nil, `--progress "loud"`},
		"configuration":     {with(map[string]string{"slipway.yaml": "app:\n  man: x\n"}), []string{"build"}, nil, `slipway.yaml:2:3: unknown key "man" in app; did you mean "main"?`},
		"no configuration":  {hello(), []string{"build", "--config", "x.yaml"}, nil, "no such file"},
		"repository":        {hello(), []string{"publish", "--repository", "Acme/Hello"}, nil, `image.repository: `},
		"tag":               {hello(), []string{"publish", "--repository", "127.0.0.1:1/a", "--tag", "a b"}, nil, `"a b" is not a tag`},
		"base":              {hello(), []string{"build", "--base", "a b"}, nil, "a b"},
		"epoch":             {hello(), []string{"build"}, []string{"SOURCE_DATE_EPOCH=now"}, `SOURCE_DATE_EPOCH="now"`},
		"revision":          {hello(), []string{"build", "--revision", "v1"}, nil, `"v1" is not a commit hash`},
		"half credentials":  {hello(), []string{"publish", "--repository", "127.0.0.1:1/a", "--username", "me"}, nil, "only one is given"},
		"empty password":    {hello(), []string{"publish", "--repository", "127.0.0.1:1/a", "--username", "me", "--password-stdin"}, nil, "standard input has no password"},
		"ignore file":       {with(map[string]string{".dockerignore": "a[\n"}), []string{"build"}, nil, `pattern "a["`},
		"go is missing":     {hello(), []string{"build"}, []string{noPath}, "go is not installed or not on PATH"},
		"toolchain":         {with(map[string]string{"slipway.yaml": "app:\n  toolchain: go1.11\n"}), []string{"build"}, []string{"GOPROXY=off"}, "go1.11"},
		"link leaves":       {hello(), []string{"build"}, nil, "symbolic link out points outside the source tree"},
		"no scanner":        {hello(), []string{"scan"}, []string{"SLIPWAY_TEST_AS_PROGRAM=core"}, "this slipway was built without the scanner (use the slipway program"},
		"no key":            {hello(), []string{"ship", "--repository", "127.0.0.1:1/a"}, nil, "there is nothing to sign with (set sign.key or sign.keyless"},
		"sign what":         {hello(), []string{"sign"}, nil, "--image is missing (name the image"},
		"sign a tag":        {hello(), []string{"sign", "--only-signature", "--image", "127.0.0.1:1/a:v1", "--key", "x"}, nil, "127.0.0.1:1/a:v1 names an image by its tag (give repository@sha256:..."},
		"two signers":       {hello(), []string{"sign", "--image", "127.0.0.1:1/a", "--key", "x", "--keyless"}, nil, "--key and keyless signing exclude each other"},
		"environment":       {with(map[string]string{"slipway.yaml": "deploy: {environments: {prod: {}, staging: {}}}\n"}), []string{"verify", "--image", "127.0.0.1:1/a", "--env", "pord"}, nil, `no environment "pord" in deploy.environments (use one of prod, staging)`},
		"severity":          {hello(), []string{"scan", "--severity", "SEVERE"}, nil, "scan.severities"},
		"report":            {hello(), []string{"scan", "--as", "xml"}, nil, `--as "xml" is not table, json`},
		"documents":         {hello(), []string{"sbom", "--as", "cyclonedx", "--platforms", "linux/amd64,linux/arm64"}, nil, "--as prints the document of one platform, but this app has 2"},
		"key is there":      {with(map[string]string{"cosign.pub": ""}), []string{"keys", "generate"}, []string{"COSIGN_PASSWORD="}, "cosign.pub exists"},
		"key password":      {hello(), []string{"keys", "generate"}, nil, "there is no password for the key (set SLIPWAY_KEY_PASSWORD"},
		"plan and push":     {hello(), []string{"plan", "-o", "registry:127.0.0.1:1/a"}, nil, `-o "registry:127.0.0.1:1/a": plan does not push anything (use slipway publish)`},
		"scan and write":    {hello(), []string{"scan", "--image", "127.0.0.1:1/a", "-o", "oci:x"}, nil, `-o "oci:x": with --image, scan builds no image`},
		"deploy and push":   {hello(), []string{"deploy", "--image", "127.0.0.1:1/a", "-o", "registry:127.0.0.1:1/b"}, nil, "is in a registry already"},
		"initialized":       {hello(), []string{"init"}, nil, "exists already"},
	}
}

func TestBadInputIsOneLineAndExit2(t *testing.T) {
	for title, tt := range badInputs() {
		t.Run(title, func(t *testing.T) {
			dir := testkit.Repository(t, tt.files)
			if title == "link leaves" {
				if err := os.Symlink(t.TempDir(), filepath.Join(dir, "out")); err != nil {
					t.Fatal(err)
				}
			}
			p := here(t, dir)
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

func TestWithoutGitAndWithoutConfiguration(t *testing.T) {
	dir := t.TempDir()
	testkit.Write(t, dir, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"})
	r := here(t, dir).report(t, "build", "--platforms", "linux/amd64")
	if r.Source.Version != "v0.0.0-unversioned" || r.Digest == "" {
		t.Errorf("got %s, %s", r.Source.Version, r.Digest)
	}
}

// TestLibrary: lint and tests accept a module without a main package. A build does
// not.
func TestLibrary(t *testing.T) {
	p := here(t, testkit.Repository(t, map[string]string{"go.mod": "module example.com/x\n\ngo 1.26\n", "x.go": "// Package x is a library.\npackage x\n"}))
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
	files := hello()
	files["main.go"] = "package main\n\nfunc main() { undefined() }\n"
	e := here(t, testkit.Repository(t, files)).run(t, "build", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "main.go:3:15: undefined: undefined") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
}

func TestFailingTestsKeepTheirReports(t *testing.T) {
	files := hello()
	files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestNo(t *testing.T) { t.Error(\"it is broken\") }\n"
	dir := testkit.Repository(t, files)
	e := here(t, dir).run(t, "test", "--no-race", "--progress", "plain", "-o", "json")
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

// TestVerdictsAreKeptUntilSomethingChanges: the second check runs nothing, a
// changed file or --force runs the tests again.
func TestVerdictsAreKeptUntilSomethingChanges(t *testing.T) {
	files := hello()
	files["main_test.go"] = "package main\n\nimport \"testing\"\n\nfunc TestYes(t *testing.T) {}\n"
	dir := testkit.Repository(t, files)
	p := here(t, dir)
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

// TestInterruptLeavesNothing stops a run at every stage it passes through.
// SIGINT must end it with 130; after SIGKILL the next run must mend what is
// left. Either way a further run gives the digest of an undisturbed one.
func TestInterruptLeavesNothing(t *testing.T) {
	dir := testkit.Repository(t, hello())
	want := here(t, dir).report(t, "build").Digest
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, stage := range []string{"build", "image", "export", "push"} {
			t.Run(sig.String()+"/"+stage, func(t *testing.T) {
				p := here(t, dir)
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
				_ = cmd.Wait() // its exit code is looked at below
				code := cmd.ProcessState.ExitCode()
				if !signalled {
					t.Fatalf("stage %s never started", stage)
				}
				// A run that was nearly done may be done before the signal is seen.
				if sig != syscall.SIGKILL && code != fault.ExitInterrupted && code != fault.ExitOK {
					t.Errorf("exit %d, want 130", code)
				}
				if sig != syscall.SIGKILL {
					noLeftovers(t, p, out)
				}
				if got := p.report(t, "publish", "--repository", testkit.Registry(t)+"/x", "-o", "oci:"+out).Digest; got != want {
					t.Errorf("afterwards %s, want %s", got, want)
				}
				if sig == syscall.SIGKILL {
					noLeftovers(t, p, out)
				}
			})
		}
	}
}

// noLeftovers checks that no unfinished work of a run is left in the cache or
// beside its output.
func noLeftovers(t *testing.T, p *program, out string) {
	t.Helper()
	var cache string
	for _, kv := range p.env {
		if v, ok := strings.CutPrefix(kv, "SLIPWAY_CACHE="); ok {
			cache = v
		}
	}
	runs, err := os.ReadDir(filepath.Join(cache, "runs"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range runs {
		t.Errorf("left in the cache: %s", e.Name())
	}
	beside, err := os.ReadDir(filepath.Dir(out))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range beside {
		if e.Name() != filepath.Base(out) {
			t.Errorf("left beside the output: %s", e.Name())
		}
	}
}

// TestFullDisk runs with a cache that has hardly any room.
func TestFullDisk(t *testing.T) {
	dir := testkit.Repository(t, hello())
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=700k"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(small, syscall.MNT_DETACH) })
	p := here(t, dir)
	p.env = append(p.env, "SLIPWAY_CACHE="+small)
	out := filepath.Join(t.TempDir(), "layout")
	e := p.run(t, "build", "-o", "oci:"+out, "--progress", "json")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "no space left on device") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("there is an output")
	}
	if left, err := os.ReadDir(filepath.Join(small, "runs")); err != nil || len(left) > 0 {
		t.Errorf("left in the cache: %v %v", left, err)
	}
}

// TestSecretsAreNowhere plants a password and looks for it in everything the
// program writes.
func TestSecretsAreNowhere(t *testing.T) {
	const secret = "correct-horse-battery-staple"
	inner := registry.New(registry.Logger(quiet()))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "me" || password != secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	repo := strings.TrimPrefix(s.URL, "http://") + "/acme/hello"
	dir := testkit.Repository(t, hello())
	look := func(p *program, e ended) {
		t.Helper()
		if strings.Contains(e.stdout+e.stderr, secret) {
			t.Errorf("the secret is printed:\n%s%s", e.stdout, e.stderr)
		}
		for _, root := range []string{dir, homeOf(p)} {
			err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				data, err := os.ReadFile(path)
				if err == nil && strings.Contains(string(data), secret) {
					t.Errorf("the secret is in %s", path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	p := here(t, dir)
	p.stdin = strings.NewReader(secret + "\n")
	e := p.run(t, "publish", "--repository", repo, "--username", "me", "--password-stdin", "-o", "json", "-v", "--progress", "plain")
	if e.code != fault.ExitOK {
		t.Fatalf("exit %d\n%s", e.code, e.stderr)
	}
	look(p, e)
	ref, err := name.ParseReference(repo + ":latest")
	if err == nil {
		_, err = remote.Head(ref)
	}
	if err == nil {
		t.Error("the registry lets anybody in, so this test shows nothing")
	}

	p = here(t, dir)
	p.env = append(p.env, "SLIPWAY_REGISTRY_USERNAME=me", "SLIPWAY_REGISTRY_PASSWORD="+secret+"x")
	e = p.run(t, "publish", "--repository", repo, "-v", "--progress", "plain")
	if e.code != fault.ExitFailed || !strings.Contains(e.stderr, "requires credentials") {
		t.Errorf("exit %d\n%s", e.code, e.stderr)
	}
	look(p, e)
}

func homeOf(p *program) string {
	for _, kv := range p.env {
		if v, ok := strings.CutPrefix(kv, "HOME="); ok {
			return v
		}
	}
	return ""
}

func TestHelpHasExamples(t *testing.T) {
	a := &app{}
	for _, c := range a.root().Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s has no example", c.Name())
		}
	}
}

func TestInitThenBuild(t *testing.T) {
	files := hello()
	delete(files, "slipway.yaml")
	delete(files, ".dockerignore")
	dir := testkit.Repository(t, files)
	p := here(t, dir)
	if e := p.run(t, "init"); e.code != fault.ExitOK || !strings.Contains(e.stdout, "wrote") {
		t.Fatalf("exit %d\n%s%s", e.code, e.stdout, e.stderr)
	}
	testkit.Commit(t, dir)
	if r := p.report(t, "build", "--platforms", "linux/amd64"); r.Source.Dirty {
		t.Errorf("building made the tree dirty: %v", r.Source.Changed)
	}
	e := p.run(t, "doctor", "-o", "json")
	var d struct{ Findings []finding }
	if err := json.Unmarshal([]byte(e.stdout), &d); err != nil || len(d.Findings) < 5 {
		t.Errorf("doctor: %v\n%s%s", err, e.stdout, e.stderr)
	}
}
