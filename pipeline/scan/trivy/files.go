package trivy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/aquasecurity/trivy/pkg/fanal/analyzer"
	asecret "github.com/aquasecurity/trivy/pkg/fanal/analyzer/secret"
	"github.com/aquasecurity/trivy/pkg/fanal/secret"
	"github.com/aquasecurity/trivy/pkg/iac/detection"
	"github.com/aquasecurity/trivy/pkg/iac/rego"
	"github.com/aquasecurity/trivy/pkg/iac/scanners/helm/parser"
	kubernetes "github.com/aquasecurity/trivy/pkg/iac/scanners/kubernetes/parser"
	"github.com/aquasecurity/trivy/pkg/misconf"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// maxSource is the size of the largest source file that is searched for secrets.
const maxSource = 64 << 20

// searchSource searches the app's folder for secrets.
func searchSource(ctx context.Context, o scan.Options) ([]scan.Finding, error) {
	progress.Statusf(ctx, "searching the source for secrets")
	a := asecret.NewSecretAnalyzer(secret.NewScanner(nil), "")
	var found []scan.Finding
	err := filepath.WalkDir(o.Source, func(file string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		rel, relErr := filepath.Rel(o.Source, file)
		if relErr != nil {
			return relErr
		}
		rel = filepath.ToSlash(rel)
		switch {
		case err != nil && rel == ".":
			return err
		case err != nil:
			if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
				return nil // it cannot be in the image, or was just removed
			}
			return err
		case rel == ".":
			return nil
		}
		if hidden := o.Hidden != nil && o.Hidden(rel); e.IsDir() {
			if hidden || e.Name() == ".git" || e.Name() == ".slipway" || e.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return nil
		} else if hidden || !e.Type().IsRegular() {
			return nil
		}
		more, err := searchFile(ctx, a, o, file, rel)
		found = append(found, more...)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("searching %s for secrets: %w", o.Source, err)
	}
	return found, nil
}

func searchFile(ctx context.Context, a *asecret.SecretAnalyzer, o scan.Options, file, rel string) ([]scan.Finding, error) {
	f, err := os.Open(file)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !a.Required(rel, fi) {
		return nil, nil
	}
	if fi.Size() > maxSource {
		progress.Warnf(ctx, "%s is too large to be searched for secrets (%d bytes)", rel, fi.Size())
		return nil, nil
	}
	result, err := a.Analyze(ctx, analyzer.AnalysisInput{Dir: o.Source, FilePath: rel, Info: fi, Content: f})
	if err != nil || result == nil {
		return nil, err
	}
	var found []scan.Finding
	for _, s := range result.Secrets {
		for _, secret := range s.Findings {
			found = append(found, scan.Finding{
				Kind: scan.Secret, ID: secret.RuleID, Severity: cmp.Or(secret.Severity, "UNKNOWN"), Title: secret.Title,
				Path: relative(o.Root, file), Line: secret.StartLine, EndLine: secret.EndLine,
			})
		}
	}
	return found, nil
}

// relative returns the slash-separated path of file relative to root, or file if
// it is not below root.
func relative(root, file string) string {
	if rel, err := filepath.Rel(root, file); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return filepath.ToSlash(file)
}

// checkCharts returns an error if a chart of the settings is not a Helm chart.
// Trivy would report nothing for it.
func checkCharts(o scan.Options) error {
	for _, chart := range o.Settings.Charts {
		dir := chart
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(o.Root, chart)
		}
		if _, err := os.Stat(filepath.Join(dir, "Chart.yaml")); err != nil {
			return fault.Inputf("scan.chart", "%s is not a Helm chart: %w", chart, err).WithFix("correct scan.charts in slipway.yaml")
		}
	}
	return nil
}

// searchCharts renders the charts with their default values and checks the objects
// for misconfiguration. It uses the checks that are compiled into Trivy.
func searchCharts(ctx context.Context, o scan.Options) ([]scan.Finding, error) {
	options := misconf.ScannerOption{Namespaces: rego.BuiltinNamespaces()}
	shared, err := misconf.InitRegoScanner(options)
	if err != nil {
		return nil, fmt.Errorf("loading the checks for charts: %w", err)
	}
	options.RegoScanner = shared
	var found []scan.Finding
	for _, chart := range o.Settings.Charts {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		progress.Statusf(ctx, "checking chart %s", chart)
		dir := chart
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(o.Root, chart)
		}
		err := withDependencies(ctx, dir, func(complete string) error {
			more, err := searchChart(ctx, options, relative(o.Root, dir), complete)
			found = append(found, more...)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// renderError returns why a chart has no results. Trivy skips a chart that cannot be
// rendered and only logs the cause, so the chart is rendered here once more. The error is
// nil if the chart can be rendered and no check applies to its objects.
func renderError(ctx context.Context, name, dir string) error {
	p, err := parser.New()
	if err != nil {
		return fmt.Errorf("checking chart %s: %w", name, err)
	}
	manifests, err := p.ParseFS(ctx, os.DirFS(dir), ".")
	for _, m := range manifests {
		if _, yamlErr := kubernetes.Parse(ctx, strings.NewReader(m.Content), m.Path); yamlErr != nil && err == nil {
			err = fmt.Errorf("%s: %w", m.Path, yamlErr)
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		cause := strings.Join(strings.Fields(err.Error()), " ")
		return fault.Inputf("scan.chart", "checking chart %s: it cannot be rendered with its default values: %s", name, cause).WithFix("check it with: helm template %s", name)
	case len(manifests) == 0:
		return fault.Inputf("scan.chart", "checking chart %s: rendering it with its default values gives no objects", name).WithFix("check it with: helm template %s", name)
	}
	return nil
}

func searchChart(ctx context.Context, options misconf.ScannerOption, name, dir string) ([]scan.Finding, error) {
	s, err := misconf.NewScanner(detection.FileTypeHelm, options)
	if err != nil {
		return nil, fmt.Errorf("checking chart %s: %w", name, err)
	}
	results, err := s.Scan(ctx, os.DirFS(dir))
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fault.Inputf("scan.chart", "checking chart %s: %w", name, err).WithFix("check it with: helm template %s", name)
	}
	if len(results) == 0 {
		return nil, renderError(ctx, name, dir)
	}
	var found []scan.Finding
	for _, file := range results {
		for _, m := range append(file.Failures, file.Warnings...) {
			f := scan.Finding{
				Kind: scan.Misconfiguration, ID: m.ID, Severity: cmp.Or(m.Severity, "UNKNOWN"), Title: cmp.Or(m.Message, m.Title),
				Type: "helm", Path: path.Join(name, strings.TrimPrefix(file.FilePath, "/")), Line: m.StartLine, EndLine: m.EndLine,
			}
			if old := m.AVDID; old != "" && old != m.ID { //nolint:staticcheck // deprecated, but ignore files still have them
				f.Aliases = append(f.Aliases, old)
			}
			f.Aliases = append(f.Aliases, m.Aliases...)
			if len(m.References) > 0 {
				f.URL, f.PrimaryURL = m.References[0], m.References[0]
			}
			found = append(found, f)
		}
	}
	return found, nil
}
