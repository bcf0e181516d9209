package license

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
)

// text returns the text of a file of a requirement of this repository.
func text(t *testing.T, module, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(folderOf(t, module), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// folderOf returns the folder of a requirement of this repository.
func folderOf(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Fatalf("finding %s: %v", module, err)
	}
	return dir
}

// TestRealModules reads the licences of requirements of this repository.
func TestRealModules(t *testing.T) {
	for module, want := range map[string]struct {
		licenses, files []string
	}{
		"github.com/google/uuid":          {[]string{"BSD-3-Clause"}, []string{"LICENSE"}},
		"github.com/invopop/jsonschema":   {[]string{"MIT"}, []string{"COPYING"}},
		"github.com/spf13/cobra":          {[]string{"Apache-2.0"}, []string{"LICENSE.txt"}},
		"github.com/klauspost/pgzip":      {[]string{"BSD-3-Clause", "MIT"}, []string{"GO_LICENSE", "LICENSE"}},
		"github.com/klauspost/compress":   {[]string{"Apache-2.0", "BSD-3-Clause", "MIT"}, []string{"LICENSE"}},
		"github.com/gocsaf/csaf/v3":       {[]string{"Apache-2.0"}, []string{"LICENSE-Apache-2.0.txt"}},
		"github.com/spdx/tools-golang":    {[]string{"Apache-2.0", "CC-BY-4.0", "GPL-2.0"}, []string{"LICENSE.code", "LICENSE.docs"}},
		"github.com/sigstore/sigstore-go": {[]string{"Apache-2.0"}, []string{"COPYRIGHT.txt", "LICENSE"}},
		"golang.org/x/mod":                {[]string{"BSD-3-Clause"}, []string{"LICENSE"}}, // PATENTS grants more and is no licence
	} {
		t.Run(module, func(t *testing.T) {
			files, err := readFiles(folderOf(t, module))
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, f := range files {
				names = append(names, f.name)
			}
			if diff := cmp.Diff(want.files, names); diff != "" {
				t.Errorf("files -want +got:\n%s", diff)
			}
			if diff := cmp.Diff(want.licenses, combine(files)); diff != "" {
				t.Errorf("licences -want +got:\n%s", diff)
			}
			if unknown := unrecognized(files); len(unknown) > 0 {
				t.Errorf("not recognised: %v", unknown)
			}
		})
	}
}

func TestLicenseFileNames(t *testing.T) {
	for name, want := range map[string]bool{
		"LICENSE": true, "license.md": true, "LICENCE": true, "COPYING.LESSER": true, "UNLICENSE": true, "LICENSE-MIT": true,
		"LICENSE.docs": true, "MIT-LICENSE": true, "APACHE-LICENSE-2.0": true, "SQLITE_LICENSE": true, "COPYRIGHT": true,
		"THIRD-PARTY-LICENSES.md": true,
		"README.md":               false, "NOTICE": false, "PATENTS": false, "license.go": false, "license_test.go": false, "LICENSE.go": false,
		".licenserc.yml": false, "licenses.json": false, "checklicense.sh": false, "deepcopy": false, "copying_test.sh": false,
	} {
		if got := isLicense(name); got != want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

// TestJudgement: which lists of allowed licences a module with these files needs.
func TestJudgement(t *testing.T) {
	mit, apache := text(t, "github.com/klauspost/pgzip", "LICENSE"), text(t, "github.com/spf13/cobra", "LICENSE.txt")
	gpl := text(t, "github.com/spdx/tools-golang", "LICENSE.code") // after that of Apache
	both := []string{"MIT", "Apache-2.0"}
	for title, tt := range map[string]struct {
		files map[string]string
		allow []string
		want  string // part of the problem; empty if the module passes
	}{
		"allowed":                  {map[string]string{"LICENSE": mit}, []string{"MIT"}, ""},
		"denied":                   {map[string]string{"LICENSE": mit}, []string{"ISC"}, "MIT, not in license.allow"},
		"two files":                {map[string]string{"LICENSE-MIT": mit, "LICENSE-APACHE": apache}, both, ""},
		"two files, one denied":    {map[string]string{"LICENSE-MIT": mit, "LICENSE-APACHE": apache}, []string{"MIT"}, "Apache-2.0, not in license.allow"},
		"two texts in one file":    {map[string]string{"LICENSE": mit + apache}, []string{"MIT"}, "Apache-2.0, not in license.allow"},
		"choice":                   {map[string]string{"LICENSE": "SPDX-License-Identifier: Apache-2.0 OR MIT\n"}, []string{"MIT"}, ""},
		"choice without a tag":     {map[string]string{"LICENSE": "MIT OR Apache-2.0\n"}, []string{"MIT"}, ""},
		"choice in a comment":      {map[string]string{"LICENSE.html": "<!-- SPDX-License-Identifier: Apache-2.0 OR MIT -->\n"}, []string{"MIT"}, ""},
		"choice with both texts":   {map[string]string{"LICENSE": "SPDX-License-Identifier: Apache-2.0 OR MIT\n\n" + mit + apache}, []string{"MIT"}, ""},
		"choice beside both texts": {map[string]string{"LICENSE": "Apache-2.0 OR MIT\n", "LICENSE-MIT": mit, "LICENSE-APACHE": apache}, []string{"MIT"}, ""},
		"choice, none allowed":     {map[string]string{"LICENSE": "MIT OR Apache-2.0\n"}, []string{"ISC"}, "MIT OR Apache-2.0, not in license.allow"},
		"choice and another text":  {map[string]string{"LICENSE": "MIT OR ISC\n\n" + apache}, []string{"MIT"}, "Apache-2.0, not in license.allow"},
		"choice for the docs does not count for the rest": {
			map[string]string{"LICENSE": apache, "LICENSE.docs": "MIT OR Apache-2.0\n"}, []string{"MIT"}, "Apache-2.0, not in license.allow",
		},
		"choice for a part": {
			map[string]string{"LICENSE": apache, "LICENSE-PART": "MIT OR ISC\n" + mit}, []string{"Apache-2.0", "ISC"}, "",
		},
		"both of two":           {map[string]string{"LICENSE": "SPDX-License-Identifier: Apache-2.0 AND MIT\n"}, []string{"MIT"}, "Apache-2.0 AND MIT, not"},
		"malformed expression":  {map[string]string{"LICENSE": "SPDX-License-Identifier: MIT OR (\n"}, []string{"MIT"}, "not in license.allow"},
		"not in SPDX's list":    {map[string]string{"LICENSE": "SPDX-License-Identifier: LicenseRef-Acme\n"}, []string{"MIT"}, "LicenseRef-Acme, not"},
		"no file":               {map[string]string{"README.md": mit}, []string{"MIT"}, "no licence: its root folder"},
		"only in a subfolder":   {map[string]string{"docs/LICENSE": mit}, []string{"MIT"}, "no licence: its root folder"},
		"unknown":               {map[string]string{"LICENSE": "Do what our contract says.\n"}, []string{"MIT"}, "no recognised licence in LICENSE ("},
		"a licence with limits": {map[string]string{"LICENSE": mit + strings.Repeat("Only who pays may use this program. ", 30)}, []string{"MIT"}, "no recognised licence in LICENSE ("},
		"unknown main file":     {map[string]string{"LICENSE": "Ask us.\n", "GO-LICENSE": mit}, []string{"MIT"}, "no recognised licence in LICENSE ("},
		"unknown logo":          {map[string]string{"LICENSE": mit, "LICENSE-LOGO": "Ask us.\n"}, []string{"MIT"}, ""},
		"GPL":                   {map[string]string{"COPYING": gpl}, []string{"Apache-2.0", "GPL-2.0-only"}, ""},
		"another GPL":           {map[string]string{"COPYING": gpl}, []string{"Apache-2.0", "LGPL-2.0-only"}, "GPL-2.0, not in license.allow"},
		"choice of a GPL":       {map[string]string{"LICENSE": "GPL-2.0-or-later OR Apache-2.0\n" + gpl}, []string{"Apache-2.0"}, ""},
	} {
		t.Run(title, func(t *testing.T) {
			files, err := readFiles(testkit.Tree(t, tt.files))
			if err != nil {
				t.Fatal(err)
			}
			m := Module{Path: "example.com/x", Version: "v1.0.0", Licenses: combine(files)}
			for _, f := range files {
				m.Files = append(m.Files, f.name)
			}
			got := problem(m, files, tt.allow)
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
