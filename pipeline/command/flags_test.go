package command

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// parseFlags parses flags of slipway ship and returns the default configuration, with an
// environment prod, after the flags have been applied to it.
func parseFlags(t *testing.T, flags string) (config.Config, error) {
	t.Helper()
	r := &request{}
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	for _, c := range stageCommands() {
		if c.name != "ship" {
			continue
		}
		for _, add := range c.flags {
			add(r, f)
		}
	}
	testFlags(r, f)
	imageFlag("")(r, f)
	if err := f.Parse(strings.Fields(flags)); err != nil {
		t.Fatal(err)
	}
	r.Config = config.Default()
	r.Config.Deploy.Environments = map[string]config.Environment{"prod": config.DefaultEnvironment()}
	err := r.apply()
	return r.Config, err
}

// TestFlagsOverrideSettings checks that a flag changes its own setting and no other one.
func TestFlagsOverrideSettings(t *testing.T) {
	environment := func(change func(*config.Environment)) func(*config.Config) {
		return func(c *config.Config) {
			e := config.DefaultEnvironment()
			change(&e)
			c.Deploy.Environments = map[string]config.Environment{"prod": e}
		}
	}
	for flags, change := range map[string]func(*config.Config){
		"":                                    func(*config.Config) {},
		"--dir services/orders":               func(c *config.Config) { c.App.Dir = "services/orders" },
		"--platforms linux/arm64":             func(c *config.Config) { c.App.Platforms = []string{"linux/arm64"} },
		"--main ./cmd/server":                 func(c *config.Config) { c.App.Main = "./cmd/server" },
		"--base alpine":                       func(c *config.Config) { c.Image.Base = "alpine" },
		"--upx":                               func(c *config.Config) { c.Image.UPX = true },
		"--cgo":                               func(c *config.Config) { c.App.CGO = true },
		"--compression zstd":                  func(c *config.Config) { c.Image.Compression = "zstd" },
		"--format docker":                     func(c *config.Config) { c.Image.Format = "docker" },
		"--no-race":                           func(c *config.Config) { c.Test.Race = new(false) },
		"--coverage 80":                       func(c *config.Config) { c.Test.Coverage = 80 },
		"--severity critical":                 func(c *config.Config) { c.Scan.Severities = []string{"CRITICAL"} },
		"--ignore-unfixed":                    func(c *config.Config) { c.Scan.IgnoreUnfixed = true },
		"--reachable-only":                    func(c *config.Config) { c.Scan.FailOn.ReachableOnly = true },
		"--offline":                           func(c *config.Config) { c.Scan.Offline = true },
		"--db-repository a --db-repository b": func(c *config.Config) { c.Scan.Databases = []string{"a", "b"} },
		"--allow-license MIT --allow-license ISC": func(c *config.Config) { c.License.Allow = []string{"MIT", "ISC"} },
		"--mirror m.example.com":                  func(c *config.Config) { c.Registry.Mirrors = map[string][]string{"*": {"m.example.com"}} },
		"--repository r.example.com/a":            func(c *config.Config) { c.Image.Repository = "r.example.com/a" },
		"--repository r.example.com/a --insecure": func(c *config.Config) {
			c.Image.Repository, c.Registry.Insecure = "r.example.com/a", []string{"r.example.com"}
		},
		"--image r.example.com/a:1 --insecure": func(c *config.Config) { c.Registry.Insecure = []string{"r.example.com"} },
		"--key env://KEY":                      func(c *config.Config) { c.Sign.Key = "env://KEY" },
		"--keyless":                            func(c *config.Config) { c.Sign.Keyless = new(config.DefaultKeyless()) },
		"--env prod --timeout 90s":             environment(func(e *config.Environment) { e.Timeout = config.Duration(90 * time.Second) }),
		"--env prod --test":                    environment(func(e *config.Environment) { e.Test = true }),
		"--env prod --rollback-all":            environment(func(e *config.Environment) { e.RollbackAll = true }),
		"--env prod --no-rollback":             environment(func(e *config.Environment) { e.Rollback = new(false) }),
		"--env prod --no-wait-lock":            environment(func(e *config.Environment) { e.LockTimeout = 0 }),
		"--env other --test":                   func(*config.Config) {}, // the lookup of the environment reports it
	} {
		t.Run(flags, func(t *testing.T) {
			got, err := parseFlags(t, flags)
			if err != nil {
				t.Fatal(err)
			}
			want, err := parseFlags(t, "")
			if err != nil {
				t.Fatal(err)
			}
			change(&want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestContradictingFlags(t *testing.T) {
	for flags, want := range map[string]string{
		"--key x --keyless":          "--key and keyless signing exclude each other",
		"--compression brotli":       "image.compression is brotli; it must be one of gzip, zstd",
		"--dir ../elsewhere":         `"../elsewhere" is outside the folder of slipway.yaml`,
		"--platforms linux/pdp11":    `platform "linux/pdp11" is not known`,
		"--forward 5000":             "--forward \"5000\" is not PORT=HOST",
		"--forward x=y":              "--forward \"x=y\" is not PORT=HOST",
		"--coverage 101":             "test.coverage must be at most 100",
		"--repository Upper.CASE/No": "image.repository",
		"--allow-license Apache-2":   `license.allow: "Apache-2" is not an SPDX identifier of a licence; did you mean "Apache-2.0"?`,
	} {
		t.Run(flags, func(t *testing.T) {
			if _, err := parseFlags(t, flags); fault.ExitCode(err) != fault.ExitInput || !strings.Contains(err.Error(), want) {
				t.Errorf("exit %d: %v; want %s", fault.ExitCode(err), err, want)
			}
		})
	}
}

// TestHelpShowsDefaults checks that the help of a flag contains the default value of its
// setting.
func TestHelpShowsDefaults(t *testing.T) {
	r, f := &request{}, pflag.NewFlagSet("test", pflag.ContinueOnError)
	buildFlags(r, f)
	deployFlags(r, f)
	usage := f.FlagUsages()
	for _, want := range []string{
		"(default [linux/amd64,linux/arm64])", `(default "scratch")`, `(default "gzip")`, "(default 5m)",
	} {
		if !strings.Contains(usage, want) {
			t.Errorf("the help does not contain %s:\n%s", want, usage)
		}
	}
}
