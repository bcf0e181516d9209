package license

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/google/licensecheck"
)

// recognizedPercent is how much of a text must be that of known licences, in percent
// of its words. The rest are names of authors and the like. It is the threshold of
// pkg.go.dev (https://pkg.go.dev/license-policy).
const recognizedPercent = 75

// The names of files that hold licences, in any case: one that is nothing but a
// licence, such as LICENSE or COPYING.md, and one that is a licence among several,
// such as LICENSE-MIT, LICENSE.docs or GO-LICENSE.
var (
	mainName = regexp.MustCompile(`(?i)^(un)?(licen[sc]e|copying)(\.(txt|md|markdown|rst|html|adoc))?$`)
	anyName  = regexp.MustCompile(`(?i)^([^.].*[-_.])?(un)?(licen[sc]es?|copying|copyright)([-_.].*)?$`)
	// notText are programs and data that have such names too.
	notText = regexp.MustCompile(`(?i)\.(go|s|c|h|cc|py|js|ts|sh|rb|ya?ml|json|toml|csv|tsv|proto|te?mpl|tpl|png|svg|pdf)$`)
)

// tag matches the SPDX expression that a file states
// (https://spdx.github.io/spdx-spec/v2.3/using-SPDX-short-identifiers-in-source-files/).
var tag = regexp.MustCompile(`SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+:() -]*[A-Za-z0-9.+)])`)

// file is a file with a licence, or one that should have a licence because of its
// name.
type file struct {
	name  string
	main  bool     // its name says that it is the licence of the module
	known bool     // its licence was recognised
	texts []string // SPDX identifiers of the licence texts in it
	tags  []string // SPDX expressions that it states
	named []string // identifiers that occur in tags
}

// readFiles reads the licences in the root folder of a module.
func readFiles(folder string) ([]file, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var files []file
	for _, e := range entries {
		if !e.Type().IsRegular() || !isLicense(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, classify(e.Name(), text))
	}
	return files, nil
}

// isLicense reports whether a file with that name holds a licence.
func isLicense(name string) bool {
	return anyName.MatchString(name) && !notText.MatchString(name)
}

// classify determines the licences of a file.
func classify(name string, text []byte) file {
	f := file{name: name, main: mainName.MatchString(name)}
	found := licensecheck.Scan(text)
	for _, m := range found.Match {
		f.texts = append(f.texts, m.ID)
	}
	f.tags = expressions(string(text))
	for _, t := range f.tags {
		// The names in an expression that cannot be parsed are not known. Such an
		// expression is never allowed.
		names, _ := spdxexp.ExtractLicenses(t)
		f.named = append(f.named, names...)
	}
	f.known = found.Percent >= recognizedPercent || len(f.tags) > 0
	return f
}

// expressions returns the SPDX expressions that a text states: those with the tag of
// SPDX, and lines that are nothing but a choice.
func expressions(text string) []string {
	var all []string
	for line := range strings.Lines(text) {
		if m := tag.FindStringSubmatch(line); m != nil {
			all = append(all, strings.TrimRight(m[1], " -."))
			continue
		}
		line = strings.TrimSpace(line)
		if !strings.Contains(line, " OR ") {
			continue
		}
		if _, err := spdxexp.ExtractLicenses(line); err == nil {
			all = append(all, line)
		}
	}
	return all
}

// combine returns the licences of a module: all of them apply.
//
// A text in a file that states an expression is not a further licence if the
// expression names it, because "MIT OR Apache-2.0" is often followed by both texts.
// They can also be in files of their own beside the main file.
func combine(files []file) []string {
	var stated, all []string
	for _, f := range files {
		if f.main {
			stated = append(stated, f.named...)
		}
	}
	for _, f := range files {
		all = append(all, f.tags...)
		for _, id := range f.texts {
			if !names(stated, id) && !names(f.named, id) {
				all = append(all, id)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// names reports whether a list of identifiers has that of a text. The text of a GNU
// licence does not say whether later versions may be used, so its identifier has no
// suffix.
func names(list []string, text string) bool {
	return slices.ContainsFunc(list, func(id string) bool {
		return id == text || id == text+"-only" || id == text+"-or-later"
	})
}

// allowed reports whether a list of SPDX identifiers satisfies an expression. What is
// not in SPDX's list, such as the Commons Clause, cannot be allowed.
func allowed(expression string, allow []string) bool {
	ok, err := spdxexp.Satisfies(expression, allow)
	return ok && err == nil
}

// unrecognized returns the files because of which the licence of a module is not
// known. A main file must be recognised, because it can restrict everything else. The
// others may be about a logo or a list of authors, as long as one is recognised.
func unrecognized(files []file) []string {
	var main, all []string
	known := false
	for _, f := range files {
		known = known || f.known
		if f.known {
			continue
		}
		all = append(all, f.name)
		if f.main {
			main = append(main, f.name)
		}
	}
	if !known {
		return all
	}
	return main
}
