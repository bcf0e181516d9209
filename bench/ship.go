package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The contestants for the complete pipeline, from source to a verified image.
const (
	ourShip = "slipway ship"
	script  = "a script of programs"
)

// keyPassword protects a key that exists only during the benchmark.
const keyPassword = "benchmark"

// supply contains the programs that the script runs in addition to ko, and the
// files that both contestants use.
type supply struct {
	Trivy         string `json:"-"`
	Cosign        string `json:"-"`
	Linter        string `json:"-"`
	Key           string `json:"-"` // path of the key pair, without extension
	Database      string `json:"-"` // Trivy's cache directory
	TrivyVersion  string `json:"trivy"`
	CosignVersion string `json:"cosign"`
	LinterVersion string `json:"golangci_lint"`
}

// steps is the shell script. Like a typical CI job, it runs one program after the
// other. Neither contestant looks up anything on the network.
const steps = `set -euo pipefail
golangci-lint run ./...
go test -race -tags "$TAG" -coverprofile="$OUT/coverage.out" ./...
image=$(ko build --bare --platform=linux/amd64 --sbom=none "$MAIN")
trivy image --quiet --severity HIGH,CRITICAL --exit-code 1 --scanners vuln,secret "$image"
trivy fs --quiet --severity HIGH,CRITICAL --exit-code 1 --scanners secret .
trivy image --quiet --format spdx-json --output "$OUT/sbom.json" "$image"
trivy image --quiet --format cyclonedx --output "$OUT/sbom.cdx.json" "$image"
trivy image --quiet --format cosign-vuln --output "$OUT/scan.json" "$image"
echo '{"buildDefinition":{"buildType":"https://example.com/script","externalParameters":{}},"runDetails":{"builder":{"id":"https://example.com/script"}}}' >"$OUT/provenance.json"
sign="--key $KEY.key --tlog-upload=false --allow-http-registry --allow-insecure-registry --yes"
cosign sign $sign "$image"
cosign attest $sign --type spdxjson --predicate "$OUT/sbom.json" "$image"
cosign attest $sign --type slsaprovenance1 --predicate "$OUT/provenance.json" "$image"
cosign attest $sign --type vuln --predicate "$OUT/scan.json" "$image"
verify="--key $KEY.pub --insecure-ignore-tlog --allow-http-registry --allow-insecure-registry"
cosign verify $verify "$image" >&2
for type in spdxjson slsaprovenance1 vuln; do
	cosign verify-attestation $verify --type $type "$image" >/dev/null
done
echo "$image"
`

// shippers returns the contestants for the complete pipeline.
func (b *bench) shippers() []contestant {
	return []contestant{
		{
			Name: ourShip, Note: "`slipway ship --key KEY` for linux/amd64: lint, race tests, build, scan with reachability analysis, SBOMs, push, signature, three attestations, verification",
			command: func(s *site) []string {
				return []string{
					s.tools.Slipway, "ship", "-C", s.tree.dir, "--repository", s.repository, "--insecure",
					"--key", b.supply.Key + ".key", "-o", "json",
				}
			},
			env: func(s *site) []string {
				return []string{b.path(s), "SLIPWAY_CACHE=" + s.path("cache"), "SLIPWAY_KEY_PASSWORD=" + keyPassword}
			},
			reference: slipwayReference,
		},
		{
			Name: script, Note: "golangci-lint, `go test -race`, ko, trivy for the scan and the SBOMs, and cosign for one signature, three attestations and their verification, one after another; no reachability analysis",
			command: func(*site) []string { return []string{"bash", "-c", steps} },
			env: func(s *site) []string {
				return []string{
					b.path(s),
					"GOFLAGS=-tags=" + s.app.Tag, "KO_DOCKER_REPO=" + s.repository, "KO_DEFAULTBASEIMAGE=" + s.base, "KOCACHE=" + s.path("cache"),
					"TAG=" + s.app.Tag, "MAIN=" + s.app.Main, "OUT=" + s.path("out"), "KEY=" + b.supply.Key, "COSIGN_PASSWORD=" + keyPassword,
					"TRIVY_CACHE_DIR=" + b.supply.Database, "TRIVY_SKIP_DB_UPDATE=true", "TRIVY_OFFLINE_SCAN=true", "TRIVY_SKIP_VERSION_CHECK=true",
					"TRIVY_DISABLE_TELEMETRY=true", "TRIVY_INSECURE=true", "GOLANGCI_LINT_CACHE=" + s.path("lint"),
				}
			},
			reference: func(stdout []byte) (string, error) {
				lines := strings.Split(strings.TrimSpace(string(stdout)), "\n")
				return lines[len(lines)-1], nil
			},
		},
	}
}

// path returns the variable PATH, with the programs of the script in the first
// place. Both contestants use the linter from there.
func (b *bench) path(s *site) string {
	dirs := []string{filepath.Join(b.work, "bin"), filepath.Join(s.tools.Goroot, "bin"), os.Getenv("PATH")}
	return "PATH=" + strings.Join(dirs, string(os.PathListSeparator))
}

// buildSupply builds trivy and cosign at the versions that slipway is built with,
// and finds the linter and the vulnerability database in the cache of an earlier
// run of slipway.
func (b *bench) buildSupply(ctx context.Context, cache string) error {
	b.supply.Key = filepath.Join(b.work, "bench")
	env := append(os.Environ(), "SLIPWAY_KEY_PASSWORD="+keyPassword)
	if _, err := output(ctx, b.work, env, b.tools.Slipway, "keys", "generate", "--private", b.supply.Key+".key", "--public", b.supply.Key+".pub"); err != nil {
		return err
	}
	bin := filepath.Join(b.work, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("creating a directory: %w", err)
	}
	for _, p := range []struct{ module, main, name string }{
		{"github.com/aquasecurity/trivy", "/cmd/trivy", "trivy"},
		{"github.com/sigstore/cosign/v2", "/cmd/cosign", "cosign"},
	} {
		b.log.Info("building", "program", p.name)
		version, err := output(ctx, b.root, os.Environ(), "go", "list", "-m", "-f", "{{.Version}}", p.module)
		if err != nil {
			return err
		}
		v := strings.TrimSpace(string(version))
		if p.name == "trivy" {
			b.supply.TrivyVersion = v
		} else {
			b.supply.CosignVersion = v
		}
		// The programs need some modules in addition to those of slipway, so they
		// are built with a copy of slipway's go.mod.
		mod := filepath.Join(b.work, p.name+".mod")
		for from, to := range map[string]string{"go.mod": mod, "go.sum": strings.TrimSuffix(mod, ".mod") + ".sum"} {
			text, err := os.ReadFile(filepath.Join(b.root, from))
			if err != nil {
				return fmt.Errorf("reading slipway's go.mod and go.sum: %w", err)
			}
			if err := os.WriteFile(to, text, 0o600); err != nil {
				return fmt.Errorf("copying slipway's go.mod and go.sum: %w", err)
			}
		}
		env := append(os.Environ(), "GOEXPERIMENT=jsonv2", "GOFLAGS=-trimpath -mod=mod -modfile="+mod)
		if _, err := output(ctx, b.root, env, "go", "build", "-ldflags", "-s -w", "-o", filepath.Join(bin, p.name), p.module+p.main); err != nil {
			return err
		}
	}
	if err := link(b.tools.Ko, filepath.Join(bin, "ko")); err != nil {
		return err
	}
	linter, err := find(cache, "golangci-lint")
	if err != nil {
		return err
	}
	b.supply.LinterVersion, _, _ = strings.Cut(strings.TrimPrefix(filepath.Base(filepath.Dir(linter)), "golangci-lint-"), "-")
	if err := link(linter, filepath.Join(bin, "golangci-lint")); err != nil {
		return err
	}
	database, err := find(cache, "trivy.db")
	if err != nil {
		return err
	}
	b.supply.Database = filepath.Join(b.work, "trivy")
	return os.CopyFS(filepath.Join(b.supply.Database, "db"), os.DirFS(filepath.Dir(database)))
}

// shipResult is the result of the complete pipeline.
type shipResult struct {
	App         string             `json:"app"`
	Rounds      int                `json:"rounds"`
	Tools       supply             `json:"tools"`
	Contestants []contestantResult `json:"contestants"`
}

// measureShip measures the complete pipeline. Postgres and Redis are not running,
// so both contestants skip the tests that need them.
func (b *bench) measureShip(ctx context.Context, p place) error {
	p.work = filepath.Join(p.work, "ship")
	p.app.Edit = *p.app.Untested
	sites, err := b.sites(ctx, p, b.shippers())
	if err != nil {
		return err
	}
	linter, err := os.ReadFile(filepath.Join(b.root, ".golangci.yml"))
	if err != nil {
		return fmt.Errorf("reading the linter's configuration: %w", err)
	}
	rules := strings.ReplaceAll(string(linter), "path: "+p.app.Dir+"/", "path: ") // here the application is in the root directory
	for _, s := range sites {
		s.goCache = b.goEnv["GOCACHE"]
		if err := os.WriteFile(filepath.Join(s.tree.dir, ".golangci.yml"), []byte(rules), 0o600); err != nil {
			return fmt.Errorf("configuring the linter: %w", err)
		}
		text := fmt.Sprintf("app:\n  main: %s\n  tags: [%s]\n  platforms: [linux/amd64]\nscan:\n  databases: [bundled]\n", p.app.Main, p.app.Tag)
		if err := os.WriteFile(filepath.Join(s.tree.dir, "slipway.yaml"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configuring the application: %w", err)
		}
	}
	// The first run downloads the linter and creates the vulnerability database.
	ours := sites[0]
	b.log.Info("filling slipway's cache")
	fill := append(os.Environ(), "SLIPWAY_CACHE="+ours.path("warm"))
	for _, command := range []string{"lint", "scan"} {
		if _, err := output(ctx, ours.tree.dir, fill, b.tools.Slipway, command, "-C", ours.tree.dir); err != nil {
			return err
		}
	}
	if err := b.buildSupply(ctx, ours.path("warm")); err != nil {
		return err
	}
	r := &shipResult{App: p.app.Name, Rounds: b.shipRounds, Tools: b.supply}
	for _, s := range sites {
		r.Contestants = append(r.Contestants, contestantResult{Name: s.Name, Note: s.Note, Runs: map[scenario][]reading{}})
	}
	b.results.Ship = r
	return b.measureAll(ctx, sites, r.Contestants, b.shipRounds, 0)
}

// of returns the result of the named contestant, or nil if there is none.
func (r *shipResult) of(name string) *contestantResult {
	a := appResult{Contestants: r.Contestants}
	return a.of(name)
}

// link makes a program available to the script under the given path.
func link(program, name string) error {
	if err := os.Symlink(program, name); err != nil {
		return fmt.Errorf("linking a program: %w", err)
	}
	return nil
}

// find returns the path of a file with the given name in dir.
func find(dir, name string) (string, error) {
	found := ""
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name && d.Type().IsRegular() {
			found = path
			return filepath.SkipAll
		}
		return err
	})
	if err == nil && found == "" {
		err = errors.New("it does not exist")
	}
	if err != nil {
		return "", fmt.Errorf("looking for %s in slipway's cache: %w", name, err)
	}
	return found, nil
}
