package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dagger.io/dagger"
)

func (s *suite) client(t *testing.T) {
	var log bytes.Buffer
	t.Chdir(s.app)
	cli, err := exec.LookPath("dagger")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("_EXPERIMENTAL_DAGGER_CLI_BIN", cli) // otherwise the client downloads one
	c, err := dagger.Connect(t.Context(), dagger.WithLogOutput(&log))
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	defer c.Close()
	if err := c.ModuleSource(s.module).AsModule().Serve(t.Context()); err != nil {
		t.Fatal(err)
	}
	var data struct {
		Slipway struct {
			BuildLayout struct{ File struct{ Contents string } }
			Check       struct{ Passed bool }
		}
	}
	images := ""
	if v := imagesArgument(); v != "" {
		images = "(" + v + ")"
	}
	err = c.Do(t.Context(), &dagger.Request{Query: `{slipway` + images + `{buildLayout{file(path:"index.json"){contents}} check{passed}}}`}, &dagger.Response{Data: &data})
	if err != nil {
		t.Fatal(err)
	}
	m := manifest.FindStringSubmatch(data.Slipway.BuildLayout.File.Contents)
	if want := s.layout(t); m == nil || m[1] != want {
		t.Errorf("the digest is %v with the client and %s with the dagger program", m, want)
	}
	if !data.Slipway.Check.Passed {
		t.Error("check did not pass")
	}
}

// uses copies the module to the application's repository, where a git submodule
// would be, and uses it from there.
func (s *suite) uses(t *testing.T) {
	want := s.layout(t)
	images := imagesArgument()
	if images != "" {
		images += ", "
	}
	const inside = "third_party/slipway"
	for file := range strings.Lines(s.must(t, s.module, "git", "ls-files", "--cached", "--others", "--exclude-standard", "dagger.json", ".dagger", "go.mod", "go.sum", "pipeline", "charts")) {
		file = strings.TrimSpace(file)
		data, err := os.ReadFile(filepath.Join(s.module, file))
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, map[string]string{filepath.Join(inside, file): string(data)})
	}
	const use = `{"name": "slipway", "source": "` + inside + `"}`
	for _, tc := range []struct{ name, config, function string }{
		{"toolchain", `{"name": "orders", "engineVersion": "v0.21.8", "toolchains": [` + use + `]}`, "slipway build-layout"},
		{"blueprint", `{"name": "orders", "engineVersion": "v0.21.8", "blueprint": ` + use + `}`, "build-layout"},
		{"dependency", `{"name": "orders", "engineVersion": "v0.21.8", "sdk": {"source": "dang"}, "source": "ci", "dependencies": [` + use + `]}`, "image"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s.write(t, map[string]string{
				"dagger.json": tc.config,
				"ci/main.dang": "type Orders {\n  pub image(ws: Workspace!): Directory! {\n    slipway(" + images +
					"source: ws.directory(\"/\", exclude: [\"third_party\", \"ci\", \"dagger.json\"])).buildLayout\n  }\n}\n",
				".dockerignore": files[".dockerignore"] + "third_party\nci\ndagger.json\n",
			})
			dir := t.TempDir()
			s.must(t, s.app, "dagger", append(append([]string{"call"}, strings.Fields(tc.function)...), "export", "--path", dir)...)
			got := indexDigest(t, dir)
			if own := s.layout(t); got != own {
				t.Errorf("the digest is %[2]s as a %[1]s, %[3]s with -m, and was %[4]s before", tc.name, got, own, want)
			}
		})
	}
}

// imagesArgument returns the argument of the constructor that selects the images,
// or nothing. The file .env applies neither to a client nor to a dependency.
func imagesArgument() string {
	v := os.Getenv("SLIPWAY_IMAGES")
	if v == "" {
		return ""
	}
	return `images: ["` + strings.ReplaceAll(v, ",", `", "`) + `"]`
}
