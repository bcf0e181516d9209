package scope

import (
	"path"
	"slices"
	"testing"
)

// layout is a shape of a repository and what is uploaded of it.
type layout struct {
	name    string
	files   Files
	include []string
	exclude []string
	// policies are files from the folder of slipway.yaml that only a build and what
	// follows it get; hidden are those that nothing gets.
	policies, hidden []string
}

func layouts() []layout {
	return []layout{
		{
			name:    "the app is the repository",
			files:   Files{Config: "slipway.yaml", Root: ".", App: ".", RootIgnore: []byte("docs\n!docs/api\n")},
			exclude: []string{".git", "**/.slipway", "docs", "!docs/api", "!slipway.yaml", "!.dockerignore", "!.dockerignore"},
		},
		{
			name: "the app is a folder with its own ignore file",
			files: Files{
				Config: "slipway.yaml", Root: ".", App: "app",
				Ignore: []byte("# tests\n**/testdata\n*.md\n!README.md\n"), RootIgnore: []byte("app/secret\n"),
			},
			include: []string{".dockerignore", ".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml", "app", "slipway.yaml"},
			exclude: []string{
				".git", "**/.slipway", "app/**/testdata", "app/*.md", "!app/README.md",
				"!slipway.yaml", "!app/.dockerignore", "!.dockerignore",
			},
		},
		{
			// Outside the app the program excludes nothing either.
			name:    "the ignore file above the app excludes only files of the app",
			files:   Files{Config: "slipway.yaml", Root: ".", App: "app", RootIgnore: []byte("lib\n*/tmp\n**/*.md\napp/x\n!app/x/y\n")},
			include: []string{".dockerignore", ".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml", "app", "slipway.yaml"},
			exclude: []string{
				".git", "**/.slipway", "*/tmp", "**/*.md", "app/x", "!app/x/y",
				"!slipway.yaml", "!app/.dockerignore", "!.dockerignore",
			},
		},
		{
			name: "modules outside the app are uploaded too",
			files: Files{
				Config: "slipway.yaml", Root: ".", App: "services/orders",
				Module: []byte("module m\n\nreplace example.com/lib => ../../lib\nreplace example.com/far => example.com/near v1.0.0\n"),
			},
			include: []string{
				".dockerignore", ".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml", "lib",
				"services/.golangci.json", "services/.golangci.toml", "services/.golangci.yaml", "services/.golangci.yml",
				"services/orders", "slipway.yaml",
			},
			exclude: []string{".git", "**/.slipway", "!slipway.yaml", "!services/orders/.dockerignore", "!.dockerignore"},
		},
		{
			name: "what the scan and the policies name is uploaded, the private key is not",
			files: Files{
				Config: "deploy/slipway.yaml", Root: "deploy", App: "deploy/app",
				Settings: Read([]byte("scan: {ignoreFile: accepted.yaml, vex: [vex.json], charts: [charts/app]}\n" +
					"sign: {key: cosign.key, keyless: {trustedRoot: a.json}}\nverify: {keys: [cosign.pub, env://KEY]}\n" +
					"deploy: {environments: {prod: {verify: {keys: [prod.pub], trustedRoot: b.json}}}}\n")),
			},
			include: []string{
				".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml",
				"deploy/.dockerignore", "deploy/.golangci.json", "deploy/.golangci.toml", "deploy/.golangci.yaml", "deploy/.golangci.yml",
				"deploy/app", "deploy/slipway.yaml",
			},
			policies: []string{"a.json", "accepted.yaml", "b.json", "charts/app", "cosign.pub", "prod.pub", "vex.json"},
			hidden:   []string{"cosign.key"},
			exclude:  []string{".git", "**/.slipway", "deploy/cosign.key", "!deploy/slipway.yaml", "!deploy/app/.dockerignore", "!deploy/.dockerignore"},
		},
		{
			name:    "a go.work at the top takes everything",
			files:   Files{Config: "slipway.yaml", Root: ".", App: "app", Workspace: "."},
			exclude: []string{".git", "**/.slipway", "!slipway.yaml", "!app/.dockerignore", "!.dockerignore"},
		},
		{
			name:    "slipway.yaml lies in a folder",
			files:   Files{Config: "svc/slipway.yaml", Root: "svc", App: "svc", RootIgnore: []byte("vendor\n"), Settings: Read([]byte("lint: {config: ../lint.yml}\nregistry: {ca: ca.pem}"))},
			include: []string{".golangci.json", ".golangci.toml", ".golangci.yaml", ".golangci.yml", "lint.yml", "svc", "svc/.dockerignore", "svc/ca.pem", "svc/slipway.yaml"},
			exclude: []string{".git", "**/.slipway", "svc/vendor", "!svc/slipway.yaml", "!svc/.dockerignore", "!svc/.dockerignore"},
		},
	}
}

func TestFiltersFollowTheApp(t *testing.T) {
	for _, tc := range layouts() {
		t.Run(tc.name, func(t *testing.T) {
			f, err := tc.files.Build()
			if err != nil {
				t.Fatal(err)
			}
			built := slices.Clone(tc.include)
			if built != nil { // not everything
				for _, file := range append(tc.policies, ".trivyignore", ".trivyignore.yaml") {
					built = append(built, path.Join(tc.files.Root, file))
				}
				slices.Sort(built)
			}
			if !slices.Equal(f.Include, built) {
				t.Errorf("include\n got %q\nwant %q", f.Include, built)
			}
			if !slices.Equal(f.Exclude, tc.exclude) {
				t.Errorf("exclude\n got %q\nwant %q", f.Exclude, tc.exclude)
			}
			if check := tc.files.Check(); !slices.Equal(check.Include, tc.include) || len(check.Exclude) != 2+len(tc.hidden) {
				t.Errorf("lint and tests must see hidden files too: %q", check)
			}
		})
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

// No ignore file and no slipway.yaml may stop the module with a panic.
func FuzzFilters(f *testing.F) {
	f.Add([]byte("a\n!b\n/c/\n"), []byte("app: {dir: x}"), []byte("module m\nreplace a => ../b\n"))
	f.Fuzz(func(t *testing.T, ignore, config, module []byte) {
		files := Files{Config: "slipway.yaml", Root: ".", App: "x", Ignore: ignore, Module: module, Settings: Read(config)}
		if _, err := files.Build(); err != nil {
			t.Skip(err)
		}
		files.Check()
	})
}
