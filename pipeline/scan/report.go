package scan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/jstemmer/go-junit-report/v2/junit"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Format is the format of a report or of an SBOM.
type Format string

// The formats.
const (
	Table     Format = "table"     // text for a terminal
	JSON      Format = "json"      // the [Result]
	SARIF     Format = "sarif"     // SARIF 2.1.0, for code scanning
	JUnit     Format = "junit"     // one test case per finding
	GitLab    Format = "gitlab"    // GitLab's container scanning report, schema 15
	GitHub    Format = "github"    // annotations in a GitHub Actions log
	SPDX      Format = "spdx-json" // SBOM in SPDX JSON
	CycloneDX Format = "cyclonedx" // SBOM in CycloneDX JSON
)

// Formats returns the formats of reports and the formats of SBOMs.
func Formats() (reports, sboms []Format) {
	return []Format{Table, JSON, SARIF, JUnit, GitLab, GitHub}, []Format{SPDX, CycloneDX}
}

// Write writes a report of r in the format f. It returns a [fault.Input] error if
// f is not the format of a report.
func Write(w io.Writer, r Result, f Format) error {
	var err error
	switch f {
	case Table:
		err = writeTable(w, r)
	case JSON:
		err = encode(w, r)
	case SARIF:
		err = writeSARIF(w, r)
	case JUnit:
		err = writeJUnit(w, r)
	case GitLab:
		err = writeGitLab(w, r)
	case GitHub:
		err = writeGitHub(w, r)
	default:
		reports, _ := Formats()
		return fault.Inputf("scan.format", "%q is not the format of a scan report", f).WithFix("use one of %v", reports)
	}
	if err != nil {
		return fmt.Errorf("writing the %s report: %w", f, err)
	}
	return nil
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printable removes control characters from s. Titles and paths come from
// databases and images, so they could contain escape sequences for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// titleWidth is the maximal width of titles in the table.
const titleWidth = 60

func writeTable(w io.Writer, r Result) error {
	if len(r.Findings) > 0 {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		if _, err := fmt.Fprintln(tw, "\tSEVERITY\tID\tIN\tINSTALLED → FIXED\tCALLED\tTITLE"); err != nil {
			return err
		}
		for _, f := range r.Findings {
			row := []string{" ", f.Severity, f.ID, f.Package, f.versions(), f.called(), clip(f.Title, titleWidth)}
			if f.Fails {
				row[0] = "✗"
			}
			if f.Package == "" {
				row[3] = f.Place()
			}
			for i := range row {
				row[i] = printable(row[i])
			}
			if _, err := fmt.Fprintln(tw, strings.TrimRight(strings.Join(row, "\t"), " ")); err != nil {
				return err
			}
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for _, f := range r.Findings {
			if f.Fails && len(f.Trace) > 0 {
				if _, err := fmt.Fprintf(w, "\n  %s is called: %s\n", f.ID, printable(strings.Join(f.Trace, " → "))); err != nil {
					return err
				}
			}
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	for _, i := range r.Ignored {
		line := fmt.Sprintf("ignored: %s in %s, by %s", i.ID, printable(i.subject()), printable(i.By))
		if i.Expires != "" {
			line += " until " + i.Expires
		}
		if i.Reason != "" {
			line += ": " + printable(i.Reason)
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s\n%s\n", r.Verdict(), r.databaseLine())
	return err
}

// subject returns the package and its version, or the location of a finding without
// a package.
func (i Ignored) subject() string {
	if i.Package != "" {
		return strings.TrimSpace(i.Package + " " + i.Installed)
	}
	return i.Place()
}

func (f Finding) versions() string {
	switch {
	case f.Kind != Vulnerability:
		return ""
	case f.Fixed == "":
		return f.Installed + " → no fix yet"
	}
	return f.Installed + " → " + f.Fixed
}

func (f Finding) called() string {
	switch f.Reachability {
	case Called:
		return "yes"
	case NotCalled:
		return "no"
	case Unknown:
		return "unknown"
	}
	return ""
}

func clip(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

// Verdict returns the result of the gate on one line.
func (r Result) Verdict() string {
	c := r.Counts
	noun := "findings"
	if c.Total == 1 {
		noun = "finding"
	}
	text := fmt.Sprintf("passed: %d %s", c.Total, noun)
	if c.Failing > 0 {
		text = fmt.Sprintf("FAILED: %d of %d %s", c.Failing, c.Total, noun)
	}
	if c.Total > 0 {
		text += fmt.Sprintf(" (%d critical, %d high, %d medium, %d low, %d unknown)", c.Critical, c.High, c.Medium, c.Low, c.Unknown)
	}
	if c.Ignored > 0 {
		text += fmt.Sprintf(", %d ignored", c.Ignored)
	}
	return text
}

func (r Result) databaseLine() string {
	d := r.Database
	if d.Source == "" {
		return "no vulnerability database was used"
	}
	name := "database " + printable(d.Source)
	if d.Bundled {
		name = fmt.Sprintf("slipway's %d bundled advisories, not a full database", d.Advisories)
	}
	if d.UpdatedAt.IsZero() {
		return name
	}
	return fmt.Sprintf("%s, updated on %s (%s old)", name, d.UpdatedAt.UTC().Format(time.DateOnly), Age(time.Duration(d.AgeSeconds)*time.Second))
}

// Age formats a duration in whole minutes, hours or days, for example "2 days".
func Age(d time.Duration) string {
	plural := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	switch {
	case d < time.Hour:
		return plural(int(d/time.Minute), "minute")
	case d < 48*time.Hour:
		return plural(int(d/time.Hour), "hour")
	}
	return plural(int(d/(24*time.Hour)), "day")
}

func writeJUnit(w io.Writer, r Result) error {
	suite := junit.Testsuite{Name: "scan", Time: "0"}
	if !r.Time.IsZero() {
		suite.Timestamp = r.Time.UTC().Format(time.RFC3339)
	}
	for _, f := range r.Findings {
		tc := junit.Testcase{Name: xmlText(caseName(f)), Classname: "scan." + string(f.Kind), Time: "0"}
		if f.Fails {
			tc.Failure = &junit.Result{Message: xmlText(f.Short()), Type: f.Severity, Data: xmlText(details(f))}
		} else {
			tc.SystemOut = &junit.Output{Data: xmlText(details(f))}
		}
		suite.AddTestcase(tc)
	}
	for _, i := range r.Ignored {
		message := "ignored by " + i.By
		if i.Reason != "" {
			message += ": " + i.Reason
		}
		suite.AddTestcase(junit.Testcase{
			Name: xmlText(caseName(i.Finding)), Classname: "scan." + string(i.Kind), Time: "0", Skipped: &junit.Result{Message: xmlText(message)},
		})
	}
	if suite.Tests == 0 { // a suite without test cases looks as if it had not run
		suite.AddTestcase(junit.Testcase{Name: "nothing found", Classname: "scan", Time: "0"})
	}
	suites := junit.Testsuites{Name: "scan"}
	suites.AddSuite(suite)
	return suites.WriteXML(w)
}

func caseName(f Finding) string {
	if f.Package != "" {
		return strings.TrimSpace(f.ID + " in " + f.Package + " " + f.Installed)
	}
	return f.ID + " in " + f.Place()
}

// details returns the lines of a JUnit test case.
func details(f Finding) string {
	var b strings.Builder
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", name, printable(value))
		}
	}
	b.WriteString(printable(f.Title) + "\n")
	line("severity", f.Severity)
	if f.Kind == Vulnerability {
		line("installed", f.Installed)
		line("fixed in", f.Fixed)
	}
	line("called", f.called())
	line("call path", strings.Join(f.Trace, " → "))
	line("found in", f.Place())
	line("images", strings.Join(f.Targets, ", "))
	line("platforms", strings.Join(f.Platforms, ", "))
	line("reference", f.link())
	return b.String()
}

func (f Finding) link() string {
	if f.PrimaryURL != "" {
		return f.PrimaryURL
	}
	return f.URL
}

// xmlText removes characters that XML 1.0 does not permit, and splits the end
// marker of CDATA sections.
func xmlText(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ReplaceAll(s, "]]>", "]] >"))
}

// writeGitHub writes workflow commands
// (https://docs.github.com/actions/reference/workflow-commands-for-github-actions).
func writeGitHub(w io.Writer, r Result) error {
	for _, f := range r.Findings {
		level := "notice"
		switch {
		case f.Fails:
			level = "error"
		case rank(f.Severity) >= rank("MEDIUM"):
			level = "warning"
		}
		var props []string
		if f.Path != "" {
			props = append(props, "file="+property(f.Path))
			if f.Line > 0 {
				props = append(props, fmt.Sprintf("line=%d", f.Line))
			}
			if f.EndLine > f.Line {
				props = append(props, fmt.Sprintf("endLine=%d", f.EndLine))
			}
		}
		props = append(props, "title="+property(f.ID+" ("+f.Severity+")"))
		text := f.Short()
		if f.Kind == Vulnerability && f.Title != "" {
			text += ": " + f.Title
		}
		if f.link() != "" {
			text += "\n" + f.link()
		}
		if _, err := fmt.Fprintf(w, "::%s %s::%s\n", level, strings.Join(props, ","), message(text)); err != nil {
			return err
		}
	}
	level := "notice"
	if !r.Passed {
		level = "error"
	}
	_, err := fmt.Fprintf(w, "::%s title=scan::%s\n", level, message(r.Verdict()+"\n"+r.databaseLine()))
	return err
}

func message(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func property(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(message(s))
}
