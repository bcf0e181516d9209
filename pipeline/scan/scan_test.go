package scan_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func options() scan.Options { return scan.Options{Settings: config.Default().Scan, Now: now} }

func vulnerability(id, severity, pkg, installed, fixed string) scan.Finding {
	status := "fixed"
	if fixed == "" {
		status = "affected"
	}
	return scan.Finding{
		Kind: scan.Vulnerability, ID: id, Severity: severity, Package: pkg, Type: "gobinary", Installed: installed, Fixed: fixed, Status: status,
		PURL: "pkg:golang/" + pkg + "@" + installed, Title: "something about " + pkg, ImagePath: "server", Targets: []string{"acme/orders"}, Platforms: []string{"linux/amd64"},
		PrimaryURL: "https://avd.aquasec.com/nvd/" + strings.ToLower(id), Reachability: scan.Unknown,
	}
}

// result returns a result with findings of every kind, after the gate.
func result(t *testing.T) (scan.Result, error) {
	t.Helper()
	called := vulnerability("CVE-2023-45288", "HIGH", "golang.org/x/net", "v0.20.0", "0.23.0")
	called.Reachability, called.Trace = scan.Called, []string{"example.com/orders.main", "http2.ConfigureServer", "http2.Framer.ReadFrame"}
	called.Aliases, called.Path, called.Line = []string{"GHSA-4v7x-pqxf-cx7m", "GO-2024-2687"}, "app/go.mod", 7
	called.URL = "https://pkg.go.dev/vuln/GO-2024-2687"
	other := called
	other.Platforms = []string{"linux/arm64"}
	notCalled := vulnerability("CVE-2024-45338", "HIGH", "golang.org/x/net", "v0.20.0", "0.33.0")
	notCalled.Reachability = scan.NotCalled
	stdlib := vulnerability("CVE-2024-24790", "CRITICAL", "stdlib", "v1.22.0", "1.21.11, 1.22.4")
	unfixed := vulnerability("CVE-2099-0001", "LOW", "libc6", "2.36-9", "")
	unfixed.Type, unfixed.ImagePath, unfixed.Reachability, unfixed.PURL = "debian", "", "", "pkg:deb/debian/libc6@2.36-9"
	unfixed.Title = "hostile \x1b[31mtitle\x00 <b>&\"quoted\"]]></b> ::error::%0A\r\nsecond line, which is longer than the table is wide"
	r := scan.Result{
		Time: now, Scanner: scan.Tool{Name: "trivy", Version: "0.74.0"},
		Targets:  []scan.Subject{{Name: "acme/orders", Platform: "linux/amd64", Digest: "sha256:abc", OS: "debian 12"}},
		Database: scan.Database{Source: "mirror.gcr.io/aquasec/trivy-db:2", Digest: "sha256:def", UpdatedAt: now.Add(-50 * time.Hour), FetchedAt: now, AgeSeconds: 50 * 3600},
		Findings: []scan.Finding{
			unfixed, notCalled, called, other, stdlib,
			{Kind: scan.Secret, ID: "aws-access-key-id", Severity: "CRITICAL", Title: "AWS Access Key ID", Path: "app/a b%,:c.go", Line: 3, EndLine: 3},
			{Kind: scan.Misconfiguration, ID: "KSV-0017", Aliases: []string{"AVD-KSV-0017"}, Severity: "HIGH", Title: "Container is privileged", Type: "helm", Path: "charts/x/templates/d.yaml", Line: 10, EndLine: 20, URL: "https://example.com"},
			vulnerability("CVE-2020-0001", "MEDIUM", "example.com/m", "v1.0.0", "1.0.1"),
		},
		Ignored: []scan.Ignored{{Finding: vulnerability("CVE-2020-0002", "HIGH", "example.com/v", "v1.0.0", ""), By: "vex.json", Reason: "not_affected"}},
	}
	rules, err := scan.ParseRules(".trivyignore", []byte("CVE-2020-0001 exp:2026-04-01 # not used here\nCVE-2024-45338 exp:2026-02-28\n"))
	if err != nil {
		t.Fatal(err)
	}
	return r, scan.Judge(t.Context(), options(), rules, &r)
}

func TestJudge(t *testing.T) {
	r, err := result(t)
	var e *fault.Error
	if !errors.As(err, &e) || e.Kind != fault.Gate || e.Code != "scan.findings" {
		t.Fatal(err)
	}
	want := "5 of 6 findings fail the gate: aws-access-key-id (CRITICAL) in app/a b%,:c.go:3: AWS Access Key ID; CVE-2024-24790 (CRITICAL) in stdlib v1.22.0, fixed in 1.21.11, 1.22.4; " +
		"KSV-0017 (HIGH) in charts/x/templates/d.yaml:10: Container is privileged; and 2 more (go get golang.org/x/net@v0.33.0; revoke the secret and remove it from the git history; " +
		"build with Go 1.22.4; see the report for the rest; or ignore it with a reason in .trivyignore.yaml)"
	if err.Error() != want {
		t.Errorf("error\n%s\nwant\n%s", err, want)
	}
	if r.Passed || r.Counts != (scan.Counts{Critical: 2, High: 3, Low: 1, Total: 6, Failing: 5, Ignored: 2}) {
		t.Errorf("counts %+v", r.Counts)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], ".trivyignore:2: the entry for CVE-2024-45338 expired on 2026-02-28") {
		t.Errorf("warnings %q", r.Warnings)
	}
	if i := r.Ignored[1]; i.By != ".trivyignore:1" || i.Reason != "not used here" || i.Expires != "2026-04-01" {
		t.Errorf("ignored %+v", i)
	}
}

func TestGateSettings(t *testing.T) {
	fixed := vulnerability("CVE-1", "HIGH", "a.b/c", "v1.0.0", "1.0.1")
	unfixed := vulnerability("CVE-2", "HIGH", "a.b/c", "v1.0.0", "")
	notCalled := vulnerability("CVE-3", "HIGH", "a.b/c", "v1.0.0", "1.0.1")
	notCalled.Reachability = scan.NotCalled
	system := vulnerability("CVE-4", "HIGH", "libc6", "1", "2")
	system.Type, system.Reachability = "debian", scan.NotCalled
	for name, c := range map[string]struct {
		set   func(*config.Scan)
		fails []string // identifiers of the findings that fail the gate
	}{
		"default":        {func(*config.Scan) {}, []string{"CVE-1", "CVE-2", "CVE-3", "CVE-4"}},
		"ignore unfixed": {func(s *config.Scan) { s.IgnoreUnfixed = true }, []string{"CVE-1", "CVE-3", "CVE-4"}},
		"reachable only": {func(s *config.Scan) { s.FailOn.ReachableOnly = true }, []string{"CVE-1", "CVE-2", "CVE-4"}},
		"only critical":  {func(s *config.Scan) { s.Severities = []string{"CRITICAL"} }, nil},
		"nothing listed": {func(s *config.Scan) { s.Severities = nil }, nil},
		"everything":     {func(s *config.Scan) { s.Severities = []string{"UNKNOWN", "LOW", "MEDIUM", "HIGH", "CRITICAL"} }, []string{"CVE-1", "CVE-2", "CVE-3", "CVE-4"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			c.set(&o.Settings)
			r := scan.Result{Findings: []scan.Finding{fixed, unfixed, notCalled, system}}
			err := scan.Judge(t.Context(), o, nil, &r)
			var fails []string
			for _, f := range r.Findings {
				if f.Fails {
					fails = append(fails, f.ID)
				}
			}
			slices.Sort(fails)
			if !slices.Equal(fails, c.fails) || (err == nil) != (len(fails) == 0) || r.Passed != (err == nil) {
				t.Errorf("fails %v, want %v: %v", fails, c.fails, err)
			}
		})
	}
}

func TestReports(t *testing.T) {
	r, _ := result(t)
	passed := scan.Result{Time: now, Database: scan.Database{Source: "bundled", Bundled: true, Advisories: 50, UpdatedAt: now, AgeSeconds: 0}}
	if err := scan.Judge(t.Context(), options(), nil, &passed); err != nil {
		t.Fatal(err)
	}
	reports, sboms := scan.Formats()
	for _, f := range reports {
		for name, r := range map[string]scan.Result{"failed": r, "passed": passed} {
			t.Run(string(f)+"/"+name, func(t *testing.T) {
				var b, again bytes.Buffer
				if err := errors.Join(scan.Write(&b, r, f), scan.Write(&again, r, f)); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(b.Bytes(), again.Bytes()) {
					t.Error("the same result gives two different reports")
				}
				if bytes.ContainsAny(b.Bytes(), "\x1b\x00\r") {
					t.Error("the report contains control characters")
				}
				switch f {
				case scan.JSON, scan.SARIF, scan.GitLab:
					if !json.Valid(b.Bytes()) {
						t.Error("the report is not JSON")
					}
				case scan.JUnit:
					if err := xml.Unmarshal(b.Bytes(), new(struct{})); err != nil {
						t.Error(err)
					}
				default:
				}
				testkit.Golden(t, filepath.Join("testdata", string(f)+"-"+name+".golden"), b.Bytes())
			})
		}
	}
	for _, f := range append(sboms, "", "nonsense") {
		if err := scan.Write(&bytes.Buffer{}, r, f); fault.ExitCode(err) != fault.ExitInput {
			t.Errorf("format %q: got %v, want an input error", f, err)
		}
	}
}

func TestIgnoreFiles(t *testing.T) {
	net := vulnerability("CVE-2023-45288", "HIGH", "golang.org/x/net", "v0.20.0", "0.23.0")
	net.Aliases = []string{"GO-2024-2687"}
	secret := scan.Finding{Kind: scan.Secret, ID: "aws-access-key-id", Severity: "CRITICAL", Path: "app/testdata/keys.go"}
	chart := scan.Finding{Kind: scan.Misconfiguration, ID: "KSV-0017", Aliases: []string{"AVD-KSV-0017"}, Severity: "HIGH", Path: "charts/x/templates/d.yaml"}
	for name, c := range map[string]struct {
		file, text string
		ignored    []string
	}{
		"by id":             {"i", "CVE-2023-45288", []string{"CVE-2023-45288"}},
		"by alias":          {"i", "GO-2024-2687\nAVD-KSV-0017", []string{"CVE-2023-45288", "KSV-0017"}},
		"until a day":       {"i", "CVE-2023-45288 exp:2026-03-02", []string{"CVE-2023-45288"}},
		"from that day on":  {"i", "CVE-2023-45288 exp:2026-03-01", nil},
		"windows":           {"i", "\ufeff# c\r\n\r\n  CVE-2023-45288   # why\r\n", []string{"CVE-2023-45288"}},
		"another case":      {"i", "cve-2023-45288", nil},
		"kinds":             {"i.yaml", "secrets: [{id: CVE-2023-45288}]\nvulnerabilities: [{id: KSV-0017}]", nil},
		"yaml":              {"i.yaml", "vulnerabilities:\n  - id: CVE-2023-45288\n    statement: no\nsecrets:\n  - {id: aws-access-key-id, paths: ['**/testdata/**']}\nmisconfigurations:\n  - {id: KSV-0017, paths: [charts/y/**]}\nlicenses: []", []string{"CVE-2023-45288", "aws-access-key-id"}},
		"purl":              {"i.yaml", "vulnerabilities: [{id: CVE-2023-45288, purls: ['pkg:golang/golang.org/x/net']}]", []string{"CVE-2023-45288"}},
		"purl and version":  {"i.yml", "vulnerabilities: [{id: CVE-2023-45288, purls: ['pkg:golang/golang.org/x/net@v0.20.0']}]", []string{"CVE-2023-45288"}},
		"purl of others":    {"i.yaml", "vulnerabilities: [{id: CVE-2023-45288, purls: ['pkg:golang/golang.org/x/net@v0.19.0', 'pkg:npm/net', 'pkg:golang/golang.org/x/net?a=b']}]", nil},
		"path in the image": {"i.yaml", "vulnerabilities: [{id: CVE-2023-45288, paths: [serv*]}]", []string{"CVE-2023-45288"}},
		"yaml expired":      {"i.yaml", "vulnerabilities: [{id: CVE-2023-45288, expired_at: 2026-02-01}]", nil},
		"yaml not expired":  {"i.yaml", "vulnerabilities: [{id: CVE-2023-45288, expired_at: 2026-04-01T00:00:00Z}]", []string{"CVE-2023-45288"}},
		"empty":             {"i.yaml", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			rules, err := scan.ParseRules(c.file, []byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			r := scan.Result{Findings: []scan.Finding{net, secret, chart}}
			o := options()
			o.Now = o.Now.Truncate(24 * time.Hour) // the first moment of the day
			_ = scan.Judge(t.Context(), o, rules, &r)
			var ignored []string
			for _, i := range r.Ignored {
				ignored = append(ignored, i.ID)
			}
			slices.Sort(ignored)
			if !slices.Equal(ignored, c.ignored) {
				t.Errorf("ignored %v, want %v", ignored, c.ignored)
			}
		})
	}
}

func TestMalformedIgnoreFiles(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"i", "CVE-1\nCVE-2 exp:2026-13-01", `i:2: "exp:2026-13-01" is not a date`},
		{"i", "CVE-1 until tomorrow", `i:1: "until" is not valid here`},
		{"i", "\n\n\"CVE\"", `i:3: "\"CVE\"" is not an identifier`},
		{"i.yaml", "a: b: c", "i.yaml:1: not YAML"},
		{"i.yaml", "vulnerabilities:\n  - id: [\n", "i.yaml:"},
		{"i.yaml", "- CVE-1", "i.yaml:1: the file must be a mapping"},
		{"i.yaml", "\nvulnerability: []", `i.yaml:2: unknown list "vulnerability"`},
		{"i.yaml", "vulnerabilities: CVE-1", "i.yaml:1: vulnerabilities is not a list"},
		{"i.yaml", "vulnerabilities: [CVE-1]", "i.yaml:1: an entry must be a mapping"},
		{"i.yaml", "vulnerabilities:\n  - path: x", `i.yaml:2: unknown key "path"`},
		{"i.yaml", "vulnerabilities:\n  - statement: x", "i.yaml:2: the entry has no id"},
		{"i.yaml", "vulnerabilities:\n  - id: A\n    expired_at: soon", `i.yaml:3: "soon" is not a date`},
		{"i.yaml", "vulnerabilities:\n  - id: A\n    purls: [x]", `i.yaml:3: "x" is not a package URL`},
		{"i.yaml", "vulnerabilities:\n  - id: A\n    paths: ['[']", `i.yaml:3: "[" is not a path pattern`},
		{"i.yaml", "vulnerabilities:\n  - id: A\n    paths: x", "i.yaml:3: paths is not a list"},
	} {
		_, err := scan.ParseRules(c.file, []byte(c.text))
		if fault.ExitCode(err) != fault.ExitInput || fault.CodeOf(err) != "scan.ignore-file" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
}

func TestLoadRules(t *testing.T) {
	dir := t.TempDir()
	if rules, err := scan.LoadRules(dir, ""); rules != nil || err != nil {
		t.Errorf("without an ignore file: got %v, %v", rules, err)
	}
	_, err := scan.LoadRules(dir, "missing")
	testkit.WantInput(t, err, "scan.ignore-file")
	testkit.Write(t, dir, map[string]string{".trivyignore": "CVE-1"})
	if rules, err := scan.LoadRules(dir, ""); len(rules) != 1 || err != nil || rules[0].Place() != ".trivyignore:1" {
		t.Errorf("with the default ignore file: got %v, %v", rules, err)
	}
}

type events []progress.Event

func (e *events) Emit(ev progress.Event) { *e = append(*e, ev) }

func TestUnusedEntriesAreReported(t *testing.T) {
	rules, err := scan.ParseRules("i", []byte("CVE-1"))
	if err != nil {
		t.Fatal(err)
	}
	r := scan.Result{}
	var got events
	if err := scan.Judge(progress.With(t.Context(), &got, "scan"), options(), rules, &r); err != nil || len(r.Warnings) != 0 {
		t.Errorf("got error %v and warnings %q", err, r.Warnings)
	}
	if len(got) != 1 || got[0].Kind != progress.Status || got[0].Text != "i:1: the entry for CVE-1 matches no finding" {
		t.Errorf("got events %v", got)
	}
}

func TestLocate(t *testing.T) {
	text := "module x\n\ngo 1.22\n\ntoolchain go1.22.1\n\nrequire (\n\ta.b/c v1.0.0\n\td.e/f v1.0.0 // indirect\n)\n\nreplace d.e/f => g.h/i v1.0.0\n"
	root := testkit.Tree(t, map[string]string{"app/go.mod": text})
	findings := []scan.Finding{
		vulnerability("1", "HIGH", "a.b/c", "v1.0.0", ""), vulnerability("2", "HIGH", "stdlib", "v1.22.1", ""),
		vulnerability("3", "HIGH", "g.h/i", "v1.0.0", ""), vulnerability("4", "HIGH", "other", "v1.0.0", ""),
	}
	scan.Locate(findings, root, filepath.Join(root, "app"))
	for i, want := range []int{8, 5, 12, 0} {
		if f := findings[i]; f.Line != want || (f.Path == "app/go.mod") != (want > 0) {
			t.Errorf("%s: %s:%d, want line %d", f.Package, f.Path, f.Line, want)
		}
	}
	scan.Locate(findings, root, "/missing") // must not panic
}

// Programs that only build and lint must not compile Trivy.
func TestDoesNotImportTrivy(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, heavy := range []string{"aquasecurity", "golang.org/x/vuln", "k8s.io", "bbolt"} {
		if strings.Contains(string(out), heavy) {
			t.Errorf("package scan imports %s", heavy)
		}
	}
}

func FuzzIgnoreFile(f *testing.F) {
	f.Add("i", "CVE-1 exp:2026-01-01 # c\n\n")
	f.Add("i.yaml", "vulnerabilities:\n  - id: A\n    paths: ['**']\n    purls: ['pkg:golang/a/b']\n    expired_at: 2026-01-01\n")
	f.Add("i.yaml", "a: &a [*a]\n? x\n: - y")
	f.Add("i.yaml", "vulnerabilities: &x\n- *x")
	f.Fuzz(func(t *testing.T, name, text string) {
		rules, err := scan.ParseRules(name, []byte(text))
		if err != nil {
			if fault.ExitCode(err) != fault.ExitInput {
				t.Errorf("error %v", err)
			}
			return
		}
		r := scan.Result{Findings: []scan.Finding{vulnerability("CVE-1", "HIGH", "a/b", "v1", "")}}
		_ = scan.Judge(t.Context(), options(), rules, &r)
		if len(r.Findings)+len(r.Ignored) != 1 {
			t.Errorf("%d findings, %d ignored", len(r.Findings), len(r.Ignored))
		}
	})
}
