package scope

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// layout is a shape of a repository, and what is uploaded of it.
type layout struct {
	name  string
	files Files
	// include is what is uploaded of the tree, and folders are those of the modules.
	include, folders, outside []string
	hidden                    []string // what a build does not get of it
}

// above are the files above an app in the folder svc that are always uploaded.
func above(more ...string) []string {
	return slices.Sorted(slices.Values(append(more, ".gitattributes", ".gitignore", ".gitmodules",
		".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml")))
}

//nolint:funlen // a table
func layouts() []layout {
	return []layout{
		{
			name:    "the app is the repository",
			files:   Files{Config: "slipway.yaml", Root: ".", App: ".", RootIgnore: []byte("docs\n!docs/api\n")},
			folders: []string{"."},
			hidden: []string{
				"docs", "!docs/api",
				"!.dockerignore", "!.trivyignore", "!.trivyignore.yaml", "!go.mod", "!go.sum", "!slipway.yaml", "!vendor/modules.txt", "!web/dist",
			},
		},
		{
			name: "the app is a folder with its own ignore file",
			files: Files{
				Config: "slipway.yaml", Root: ".", App: "app",
				Ignore: []byte("# tests\n**/testdata\n*.md\n!README.md\n"), RootIgnore: []byte("app/secret\n"),
			},
			include: above(".dockerignore", ".trivyignore", ".trivyignore.yaml", "app", "slipway.yaml"),
			folders: []string{"app"},
			hidden: []string{
				"app/**/testdata", "app/*.md", "!app/README.md",
				"!.dockerignore", "!.trivyignore", "!.trivyignore.yaml", "!app/.dockerignore", "!app/go.mod", "!app/go.sum", "!app/vendor/modules.txt",
				"!slipway.yaml", "!web/dist",
			},
		},
		{
			name:    "the ignore file above the app",
			files:   Files{Config: "slipway.yaml", Root: ".", App: "app", RootIgnore: []byte("lib\n*/tmp\n**/*.md\napp/x\n!app/x/y\n")},
			include: above(".dockerignore", ".trivyignore", ".trivyignore.yaml", "app", "slipway.yaml"),
			folders: []string{"app"},
			hidden: []string{
				"lib", "*/tmp", "**/*.md", "app/x", "!app/x/y",
				"!.dockerignore", "!.trivyignore", "!.trivyignore.yaml", "!app/.dockerignore", "!app/go.mod", "!app/go.sum", "!app/vendor/modules.txt",
				"!slipway.yaml", "!web/dist",
			},
		},
		{
			name: "modules that replace others",
			files: Files{
				Config: "svc/slipway.yaml", Root: "svc", App: "svc",
				Modules: map[string][]byte{"svc": []byte("module m\n\nreplace a => ../lib/a\nreplace b => example.com/near v1.0.0\nreplace c => ./in\n" +
					"replace d => ../../elsewhere\nreplace e => /opt/e\n")},
			},
			include: above("lib/a", "svc", "svc/.dockerignore", "svc/.trivyignore", "svc/.trivyignore.yaml", "svc/slipway.yaml"),
			folders: []string{"lib/a", "svc"},
			outside: []string{"../../elsewhere", "/opt/e"},
		},
		{
			name: "a workspace",
			files: Files{
				Config: "svc/slipway.yaml", Root: "svc", App: "svc", Workspace: ".",
				Work: []byte("go 1.26\n\nuse (\n\t./svc\n\tlibs/money\n\t../far\n)\n\nreplace z => ./third/z\n"),
				Modules: map[string][]byte{
					"svc": []byte("module m\n"), "libs/money": []byte("module money\n\nreplace x => ../x\n"),
				},
			},
			include: above("go.work", "go.work.sum", "libs/money", "libs/x", "svc", "svc/.dockerignore", "svc/.trivyignore", "svc/.trivyignore.yaml",
				"svc/slipway.yaml", "third/z", "vendor"),
			folders: []string{"libs/money", "libs/x", "svc", "third/z"},
			outside: []string{"../far"},
		},
		{
			name: "a workspace that uses the folder at the top",
			files: Files{
				Config: "slipway.yaml", Root: ".", App: "svc", Workspace: ".", Work: []byte("go 1.26\n\nuse (\n\t.\n\t./svc\n)\n"),
			},
			folders: []string{"."},
		},
		{
			name: "what slipway.yaml names is uploaded, but not the private key",
			files: Files{
				Config: "deploy/slipway.yaml", Root: "deploy", App: "deploy/app",
				Settings: Read([]byte("lint: {config: ../lint.yml}\nregistry: {ca: ca.pem}\nscan: {ignoreFile: accepted.yaml, vex: [vex.json], charts: [charts/app]}\n" +
					"sign: {key: cosign.key, keyless: {trustedRoot: a.json}}\nverify: {keys: [cosign.pub, env://KEY]}\n" +
					"deploy: {environments: {prod: {verify: {keys: [prod.pub], trustedRoot: ../../b.json}}}}\n")),
			},
			include: above("deploy/.dockerignore", "deploy/.gitattributes", "deploy/.gitignore",
				"deploy/.golangci.json", "deploy/.golangci.toml", "deploy/.golangci.yaml", "deploy/.golangci.yml",
				"deploy/.trivyignore", "deploy/.trivyignore.yaml", "deploy/a.json", "deploy/accepted.yaml", "deploy/app", "deploy/ca.pem",
				"deploy/charts/app", "deploy/cosign.pub", "deploy/prod.pub", "deploy/slipway.yaml", "deploy/vex.json", "lint.yml"),
			folders: []string{"deploy/app"},
		},
		{
			name:    "odd names",
			files:   Files{Config: "a [b]/slipway.yaml", Root: "a [b]", App: "a [b]"},
			include: above(`a \[b]`, "a [b]/.dockerignore", "a [b]/.trivyignore", "a [b]/.trivyignore.yaml", "a [b]/slipway.yaml"),
			folders: []string{"a [b]"},
		},
	}
}

func TestFiltersFollowTheApp(t *testing.T) {
	for _, tc := range layouts() {
		t.Run(tc.name, func(t *testing.T) {
			check := tc.files.Check()
			if want := slices.Sorted(slices.Values(tc.include)); !slices.Equal(check.Include, want) {
				t.Errorf("include\n got %q\nwant %q", check.Include, want)
			}
			hidden, err := tc.files.Hidden([]string{"web/dist"})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(hidden, tc.hidden) {
				t.Errorf("hidden\n got %q\nwant %q", hidden, tc.hidden)
			}
			if got := tc.files.Folders(); !slices.Equal(got, tc.folders) {
				t.Errorf("folders: got %q, want %q", got, tc.folders)
			}
			if got := tc.files.Outside(); !slices.Equal(got, tc.outside) {
				t.Errorf("outside: got %q, want %q", got, tc.outside)
			}
			for _, f := range []Filter{check, tc.files.Ignored(), tc.files.Deploy()} {
				for _, never := range []string{".git", "**/.git/**", "**/.slipway"} {
					if !slices.Contains(f.Exclude, never) {
						t.Errorf("%q lacks %s", f.Exclude, never)
					}
				}
				if key := tc.files.Settings.Sign.Key; key != "" && !slices.Contains(f.Exclude, path.Join(tc.files.Root, key)) {
					t.Errorf("%q lacks the private key", f.Exclude)
				}
			}
		})
	}
}

// Of the files that git ignores, those are uploaded that the go command compiles, that
// slipway.yaml names, and that the caller wants.
func TestIgnored(t *testing.T) {
	f := Files{
		Config: "svc/slipway.yaml", Root: "svc", App: "svc", Further: []string{"svc/testdata/big"},
		Modules:  map[string][]byte{"svc": []byte("module m\n\nreplace a => ../lib\n")},
		Settings: Read([]byte("scan: {vex: [vex.json]}\nlint: {config: lint.yml}\nregistry: {ca: ../../ca.pem}\n")),
	}
	include := f.Ignored().Include
	for _, want := range []string{"svc/testdata/big", "svc/vex.json", "svc/lint.yml", "svc/slipway.yaml", "svc/**/*.go", "lib/**/*.go", "svc/**/*.[sS]", "lib/**/go.mod"} {
		if !slices.Contains(include, want) {
			t.Errorf("%q lacks %s", include, want)
		}
	}
	for _, p := range include {
		if strings.HasPrefix(p, "..") || p == "." {
			t.Errorf("%s leaves the folders of the app", p)
		}
	}
}

// A filter that includes nothing would include everything.
func TestDeployIsNeverEverything(t *testing.T) {
	f := Files{Config: "slipway.yaml", Root: ".", App: ".", Settings: Read([]byte("deploy: {chart: ../chart}\n"))}
	if got, want := f.Deploy().Include, []string{"slipway.yaml"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Git's configuration, logs and hooks are never uploaded.
func TestGit(t *testing.T) {
	f := Files{Settings: Read([]byte("lint: {newFrom: origin/main}\n"))}
	include := Git("a[b]/.git", f.References()...).Include
	for _, want := range []string{`a\[b]/.git/refs/remotes`, `a\[b]/.git/HEAD`, `a\[b]/.git/index`, `a\[b]/.git/objects`, `a\[b]/.git/refs/heads`} {
		if !slices.Contains(include, want) {
			t.Errorf("%q lacks %s", include, want)
		}
	}
	for _, p := range include {
		for _, secret := range []string{"config", "config.worktree", "hooks", "logs", "*", "**"} {
			if path.Base(p) == secret {
				t.Errorf("%s is uploaded", p)
			}
		}
	}
}

func TestSubmodules(t *testing.T) {
	for name, tc := range map[string]struct {
		link, output string
		want         []Submodule
	}{
		"none":             {"", "tracked\tx\n", nil},
		"in a repository":  {"", "submodule\tlib\tgitdir: ../.git/modules/lib\n", []Submodule{{"lib", "modules/lib", true}}},
		"with a name":      {"", "submodule\ta/b\tgitdir: ../../.git/modules/name\n", []Submodule{{"a/b", "modules/name", true}}},
		"in a submodule":   {"gitdir: ../.git/modules/s\n", "submodule\tlib\tgitdir: ../../.git/modules/s/modules/lib\n", []Submodule{{"lib", "modules/lib", true}}},
		"in a linked tree": {"gitdir: /m/.git/worktrees/w\n", "submodule\tlib\tgitdir: ../../m/.git/worktrees/w/modules/lib\n", []Submodule{{"lib", "worktrees/w/modules/lib", true}}},
		"with its own":     {"", "submodule\tlib\t\n", []Submodule{{"lib", "lib/.git", false}}},
		"quoted":           {"", "submodule\t\"a\\tb\"\tgitdir: ../.git/modules/x\n", []Submodule{{"a\tb", "modules/x", true}}},
		"elsewhere":        {"", "submodule\tlib\tgitdir: /opt/lib\nsubmodule\tx\tgitdir: ../.git/../../y\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Submodules(tc.output, tc.link); !slices.Equal(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestNeeds(t *testing.T) {
	for name, tc := range map[string]struct {
		output string
		want   []string
	}{
		"nothing":         {"", nil},
		"a tracked file":  {"tracked\tapp/x.txt\n", []string{"app/x.txt"}},
		"a quoted name":   {"tracked\t\"app/q\\\"[1].txt\"\n", []string{`app/q"\[1].txt`}},
		"an octal name":   {"tracked\t\"tab\\there\"\n", []string{"tab\there"}},
		"a pattern":       {"embed\t./web/x.go://go:embed dist *.txt\n", []string{"web/*.txt", "web/dist"}},
		"all of a folder": {"embed\tx.go://go:embed all:dist\n", []string{"dist"}},
		"quoted patterns": {"embed\ta/x.go://go:embed \"a b.txt\" `all:c d`  e\r\n", []string{"a/a b.txt", "a/c d", "a/e"}},
		"a folder to escape": {
			"embed\t./[a]/x.go://go:embed [b]\n", []string{`\[a]/[b]`},
		},
		"a pattern that leaves":  {"embed\tx.go://go:embed ../x /y\n", nil},
		"a half quotation":       {"embed\tx.go://go:embed a \"b\n", []string{`"b`, "a"}},
		"a link":                 {"link\tapp/x.go\t../shared/x.go\n", []string{"shared/x.go"}},
		"links that leave":       {"link\tx\t/etc/passwd\nlink\ty\t../../y\n", nil},
		"a name that is negated": {"tracked\t!x\n", []string{`\!x`}},
		"something else":         {"warning: x\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Needs(tc.output); !slices.Equal(got, tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	many := strings.Repeat("tracked\tdocs/a/x\ntracked\tdocs/b/y\n", maxTracked)
	if got, want := Needs(many), []string{"docs/a", "docs/b"}; !slices.Equal(got, want) {
		t.Errorf("of many files: got %q, want %q", got, want)
	}
}

func TestReadKeepsWhatItCan(t *testing.T) {
	s := Read([]byte("app: {dir: svc, cgo: true, platforms: [linux/arm64]}\nimage: {upx: true}\ntest: {services: [redis]}\nunknown: {}\n"))
	if s.App.Dir != "svc" || !s.App.CGO || !s.Image.UPX || !slices.Equal(s.Test.Services, []string{"redis"}) || !slices.Equal(s.App.Platforms, []string{"linux/arm64"}) {
		t.Errorf("read %+v", s)
	}
	if s := Read([]byte("app: [")); s.App.Dir != "" {
		t.Errorf("read %+v from a broken file", s)
	}
}

// No file of a repository may stop the module with a panic.
func FuzzFilters(f *testing.F) {
	f.Add([]byte("a\n!b\n/c/\n"), []byte("app: {dir: x}"), []byte("module m\nreplace a => ../b\n"), []byte("go 1.26\nuse ./x\n"), "embed\tx.go://go:embed y\n")
	f.Fuzz(func(t *testing.T, ignore, config, module, work []byte, output string) {
		files := Files{
			Config: "slipway.yaml", Root: ".", App: "x", Ignore: ignore, Settings: Read(config),
			Workspace: ".", Work: work, Modules: map[string][]byte{"x": module},
		}
		if _, err := files.Hidden(Needs(output)); err != nil {
			t.Skip(err)
		}
		files.Check()
		Submodules(output, string(ignore))
	})
}
