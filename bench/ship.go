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

// The contestants of the whole way, from source to a verified image.
const (
	ourShip = "slipway ship"
	script  = "a script of programs"
)

// keyPassword protects a key that lives as long as the benchmark.
const keyPassword = "benchmark"

// supply are the programs that a script runs after ko, and what both ways share.
type supply struct {
	Trivy         string `json:"-"`
	Cosign        string `json:"-"`
	Linter        string `json:"-"`
	Key           string `json:"-"` // without its extension
	Database      string `json:"-"` // a folder as Trivy keeps it
	TrivyVersion  string `json:"trivy"`
	CosignVersion string `json:"cosign"`
	LinterVersion string `json:"golangci_lint"`
}

// steps is the script: each program after the other, as CI files have it.
// Nothing is looked up on the network, in either way.
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

func (b *bench) shippers() []contestant {
	return []contestant{
		{
			Name: ourShip, Note: "`slipway ship --key KEY` for linux/amd64: lint, race tests, build, scan with reachability, SBOMs, push, signature, three attestations, verification",
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
			Name: script, Note: "golangci-lint, `go test -race`, ko, trivy for the gate and the documents, cosign for one signature, three attestations and their verification, one after another; no reachability",
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

// path puts the programs of the script before the others: both ways take the
// linter from there.
func (b *bench) path(s *site) string {
	dirs := []string{filepath.Join(b.work, "bin"), filepath.Join(s.tools.Goroot, "bin"), os.Getenv("PATH")}
	return "PATH=" + strings.Join(dirs, string(os.PathListSeparator))
}

// buildSupply builds trivy and cosign at the versions slipway is built with,
// and takes the linter and the database that a run of slipway left in its cache.
func (b *bench) buildSupply(ctx context.Context, cache string) error {
	b.supply.Key = filepath.Join(b.work, "bench")
	env := append(os.Environ(), "SLIPWAY_KEY_PASSWORD="+keyPassword)
	if _, err := output(ctx, b.work, env, b.tools.Slipway, "keys", "generate", "--private", b.supply.Key+".key", "--public", b.supply.Key+".pub"); err != nil {
		return err
	}
	bin := filepath.Join(b.work, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("making a folder: %w", err)
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
		// The modules are slipway's own, in a copy: the programs need some more.
		mod := filepath.Join(b.work, p.name+".mod")
		for from, to := range map[string]string{"go.mod": mod, "go.sum": strings.TrimSuffix(mod, ".mod") + ".sum"} {
			text, err := os.ReadFile(filepath.Join(b.root, from))
			if err != nil {
				return fmt.Errorf("reading slipway's modules: %w", err)
			}
			if err := os.WriteFile(to, text, 0o600); err != nil {
				return fmt.Errorf("copying slipway's modules: %w", err)
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

// shipResult is the whole way, measured.
type shipResult struct {
	App         string             `json:"app"`
	Rounds      int                `json:"rounds"`
	Tools       supply             `json:"tools"`
	Contestants []contestantResult `json:"contestants"`
}

// measureShip measures the whole way. The app's tests run without Postgres and
// Redis in both, so those that need them are skipped in both.
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
	rules := strings.ReplaceAll(string(linter), "path: "+p.app.Dir+"/", "path: ") // the app is at the top here
	for _, s := range sites {
		s.goCache = b.goEnv["GOCACHE"]
		if err := os.WriteFile(filepath.Join(s.tree.dir, ".golangci.yml"), []byte(rules), 0o600); err != nil {
			return fmt.Errorf("configuring the linter: %w", err)
		}
		text := fmt.Sprintf("app:\n  main: %s\n  tags: [%s]\n  platforms: [linux/amd64]\nscan:\n  databases: [bundled]\n", p.app.Main, p.app.Tag)
		if err := os.WriteFile(filepath.Join(s.tree.dir, "slipway.yaml"), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configuring the app: %w", err)
		}
	}
	// The first run fetches the linter and makes the database.
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
		r.Contestants = append(r.Contestants, contestantResult{Name: s.Name, Note: s.Note, Runs: map[kase][]reading{}})
	}
	b.results.Ship = r
	return b.measureAll(ctx, sites, r.Contestants, b.shipRounds, 0)
}

// of returns a contestant's result.
func (r *shipResult) of(name string) *contestantResult {
	a := appResult{Contestants: r.Contestants}
	return a.of(name)
}

// link puts a program where the script looks for it.
func link(program, name string) error {
	if err := os.Symlink(program, name); err != nil {
		return fmt.Errorf("putting a program in place: %w", err)
	}
	return nil
}

// find looks for a file by its name.
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
		err = errors.New("it is not there")
	}
	if err != nil {
		return "", fmt.Errorf("looking for %s in slipway's cache: %w", name, err)
	}
	return found, nil
}
