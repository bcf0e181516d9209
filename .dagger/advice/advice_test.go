package advice

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
)

func TestTranslate(t *testing.T) {
	for _, tc := range []struct{ function, says, means string }{
		{"build-layout", "opening /src: x (to build without reading the git repository, pass the commit with --revision)",
			"opening the root of the repository: x (to build without reading the git repository, pass the commit with with-commit --revision)"},
		{"build", "no platform to build for (set app.platforms or --platforms, for example to linux/amd64)",
			"no platform to build for (set app.platforms or --platforms, for example to linux/amd64)"},
		{"deploy", "no platform to build for (set app.platforms or --platforms, for example to linux/amd64)",
			"no platform to build for (set app.platforms in slipway.yaml, for example to linux/amd64)"},
		{"sbom", "choose one, for example --platforms linux/amd64", "choose one, for example --platform linux/amd64"},
		{"scan", "build with --platforms linux/amd64", "build with app.platforms: linux/amd64 in slipway.yaml"},
		{"scan", "set --db-repository or scan.databases to a reachable one", "set --database or scan.databases to a reachable one"},
		{"ship", "set --db-repository or scan.databases to a reachable one", "set scan.databases in slipway.yaml to a reachable one"},
		{"verify", "set verify.keys or verify.identities in slipway.yaml, or give --key", "set verify.keys or verify.identities in slipway.yaml, or give --key"},
		{"deploy", "set verify.keys or verify.identities in slipway.yaml, or give --key", "set verify.keys or verify.identities in slipway.yaml"},
		{"sign", "convert it with cosign import-key-pair --key /run/secrets/signing-key", "convert it with cosign import-key-pair --key the key of with-signer"},
		{"scan", "create one with: oras copy --to-oci-layout ghcr.io/x:2 DIR:2", "create one with: oras copy --to-oci-layout ghcr.io/x:2 DIR:2"},
		{"rollback", "release a has no revision 7 (run slipway history to list the revisions)", "release a has no revision 7 (run dagger call history to list the revisions)"},
		{"ship", "make a key with slipway keys generate, or push without a signature with --unsigned",
			"make a key with slipway keys generate (outside Dagger), or push without a signature with dagger call publish"},
		{"lint", "waiting for another slipway run", "waiting for another slipway run"},
		{"build", "cannot pull alpine from a mirror given with --mirror", "cannot pull alpine from a mirror given with --images mirror=REGISTRY"},
		{"build", "--mirror m.example.com/hub", "--images mirror=m.example.com/hub"},
		{"deploy", "reading /run/secrets/kubeconfig: x (set --kubeconfig or KUBECONFIG to the path of a kubeconfig)",
			"reading the kubeconfig: x (give another one with with-cluster --kubeconfig file:PATH)"},
		{"sign", "reading key env://K: the environment variable K is not set", "reading key env://K: the variable K was not given (give it with --secrets env:K)"},
		{"deploy", "P is not set, which is the value of password in Secret db", "P was not given, which is the value of password in Secret db (give it with --secrets env:P)"},
		{"build", "SOURCE_DATE_EPOCH=\"x\" is not a number (for example SOURCE_DATE_EPOCH=$(git log -1 --format=%ct))",
			"with-commit --epoch \"x\" is not a number (for example with-commit --epoch $(git log -1 --format=%ct))"},
		{"build", "/src/cmd/x.go:3:1: a\n/usr/local/go/src/os/x.go: b", "cmd/x.go:3:1: a\n/usr/local/go/src/os/x.go: b"},
		{"build", "main.go: flag --unknown stays", "main.go: flag --unknown stays"},
	} {
		if got := Translate(tc.function, tc.says); got != tc.means {
			t.Errorf("%s: %s\n got %s\nwant %s", tc.function, tc.says, got, tc.means)
		}
	}
}

// Only errors are translated, and not the output of tests and linters.
func TestOutput(t *testing.T) {
	const printed = "lint      main.go:3: use of --revision in /src\nslipway: a (pass the commit with --revision)\n\nslipway: b: /src/x.go:1\n"
	if got, want := Output("build", printed),
		"lint      main.go:3: use of --revision in /src\nslipway: a (pass the commit with with-commit --revision)\n\nslipway: b: x.go:1\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got, want := Errors("build", printed), "a (pass the commit with with-commit --revision)\nb: x.go:1"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if got := Errors("build", "go: something\n"); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestHints(t *testing.T) {
	const refused = "dial tcp 127.0.0.1:5000: connect: connection refused"
	for line, want := range map[string]string{
		"push: registry 127.0.0.1:5000: " + refused:                  "add with-registry --service tcp://127.0.0.1:5000, or SLIPWAY_SERVICES=tcp://127.0.0.1:5000",
		"deploy: Get \"https://127.0.0.1:6443/version\": " + refused: "add with-cluster --service tcp://127.0.0.1:5000, or SLIPWAY",
		"x: " + refused: "add with-registry --service tcp://127.0.0.1:5000 for a registry, with-cluster --service tcp://127.0.0.1:5000 for a cluster",
		"registry: dial tcp [::1]:5000: connect: connection refused":                        "tcp://[::1]:5000",
		"push: registry localhost:5000: EOF; EOF":                                           "nothing answers at port 5000 of your machine",
		"deploy: Get \"https://cluster:6443/version?timeout=30s\": EOF (check the network)": "nothing answers at port 6443 of your machine",
		"pulling alpine: dial tcp: lookup registry-1.docker.io: no such host":               "--images mirror=REGISTRY",
		"push: registry ghcr.io: dial tcp 10.0.0.1:443: i/o timeout":                        "",
		"db: dial tcp 10.0.0.1:5432: connect: connection refused in a test of it":           "",
	} {
		if got := hint(line); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", line, got, want)
		}
	}
}

func TestEngine(t *testing.T) {
	images := map[string]string{"go": "golang:1", "mirror": "", "lint": "m.example.com/golangci/golangci-lint:v2"}
	for text, want := range map[string][]string{
		`failed to resolve image "docker.io/library/golang:1": dial tcp: lookup registry-1.docker.io: no such host`: {"--images go=REFERENCE", "--images mirror=REGISTRY"},
		`failed to resolve image "m.example.com/golangci/golangci-lint:v2": not found`:                              {"--images lint=REFERENCE"},
		"something else": nil,
	} {
		got := Engine(text, images)
		if !strings.HasPrefix(got, text) || (want == nil) != (got == text) {
			t.Errorf("got %q", got)
		}
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("%q lacks %q", got, w)
			}
		}
	}
}

// Whatever flag or command a message of the program names, its translation names only
// arguments and functions of the module.
func TestEveryMessage(t *testing.T) {
	said, module := messages(t), moduleArguments(t)
	used := map[string]bool{}
	isFlag := regexp.MustCompile(`(^|[\s("])(--[a-z][a-z-]*)`)
	_, others := Commands()
	for _, message := range said {
		if !strings.Contains(message, "--") && !strings.Contains(message, "slipway ") {
			continue
		}
		for function := range module {
			if function == "" || strings.HasPrefix(function, "with-") {
				continue
			}
			got := Translate(function, message)
			for _, m := range isFlag.FindAllStringSubmatchIndex(got, -1) {
				name, clause := got[m[4]:m[5]], got[:m[4]]
				clause = clause[strings.LastIndexAny(clause, ",;)")+1:]
				if foreign(clause) || slices.Contains(Outside(), name) {
					continue
				}
				if !module.accepts(function, got[:m[4]], strings.TrimPrefix(name, "--")) {
					t.Errorf("%s: %q\nbecomes %q,\nbut %s is not an argument there", function, message, got, name)
				}
			}
			for _, other := range others {
				if strings.Contains(got, "slipway "+other+" ") && !strings.Contains(got, "outside Dagger") {
					t.Errorf("%q becomes %q", message, got)
				}
			}
		}
		for _, m := range isFlag.FindAllStringSubmatch(message, -1) {
			used[m[2]] = true
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d flags were found in messages: %q", len(used), slices.Sorted(maps.Keys(used)))
	}
	for _, f := range Flags() {
		for function, argument := range f.In {
			if !slices.Contains(module[function], strings.TrimPrefix(argument, "--")) {
				t.Errorf("%s: the function %s has no argument %s", f.Name, function, argument)
			}
		}
		// A call is an argument of the constructor, or a function with its argument.
		function, argument, found := strings.Cut(f.Call, " --")
		if !found {
			function, argument = "", strings.TrimPrefix(f.Call, "--")
		}
		argument, _, _ = strings.Cut(argument, " ")
		if f.Call != "" && f.Call != "dagger call publish" && !slices.Contains(module[function], argument) {
			t.Errorf("%s: there is no argument %s", f.Name, f.Call)
		}
	}
}

// Every phrase matches a message of the program, or it is out of date.
func TestPhrases(t *testing.T) {
	said := messages(t)
	for _, p := range phrases() {
		if !slices.ContainsFunc(said, p.says.MatchString) {
			t.Errorf("no message has %q", p.says)
		}
	}
}

// Every command of the program is either a function of the module or known not to be one.
func TestCommands(t *testing.T) {
	functions, others := Commands()
	module := moduleArguments(t)
	for _, f := range functions {
		if _, ok := module[f]; !ok {
			t.Errorf("the module has no function %s", f)
		}
	}
	name := regexp.MustCompile(`\b(?:Use|use|name): +"([a-z]+)[" ]`)
	for file, text := range sources(t, "../../pipeline/command") {
		for _, m := range name.FindAllStringSubmatch(text, -1) {
			if m[1] != "slipway" && m[1] != "generate" && m[1] != "eject" && !slices.Contains(functions, m[1]) && !slices.Contains(others, m[1]) {
				t.Errorf("%s: the command %s is in neither list", file, m[1])
			}
		}
	}
}

// messages returns the texts of errors, fixes and warnings in the program's source. A verb
// of a format is replaced with an example.
func messages(t *testing.T) []string {
	t.Helper()
	var all []string
	fset := token.NewFileSet()
	for file, text := range sources(t, "../../pipeline") {
		parsed, err := parser.ParseFile(fset, file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			f, ok := call.Fun.(*ast.SelectorExpr)
			if ok && slices.Contains([]string{"Inputf", "Gatef", "Failedf", "WithFix", "Errorf", "Warnf", "New"}, f.Sel.Name) {
				var words []string
				for _, arg := range call.Args {
					words = append(words, literal(arg))
				}
				all = append(all, strings.Join(words, " "))
			}
			return true
		})
		// Fixes are also returned by functions and kept in tables.
		for _, m := range regexp.MustCompile(`return "([^"\n]*(?:--[a-z]|slipway )[^"\n]*)"`).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
	}
	verb := regexp.MustCompile(`%[+#]?\.?[0-9]*[a-z]`)
	for i := range all {
		all[i] = strings.ReplaceAll(verb.ReplaceAllString(all[i], "X"), "%%", "%")
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// literal returns the text of a string literal, or of several that are added up.
func literal(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		if s, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return s
		}
	case *ast.BinaryExpr:
		return literal(e.X) + literal(e.Y)
	}
	return ""
}

// sources returns the Go files below a folder, without tests.
func sources(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, pattern := range []string{"*.go", "*/*.go", "*/*/*.go"} {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if !strings.HasSuffix(name, "_test.go") {
				all[name] = readFile(t, name)
			}
		}
	}
	if len(all) == 0 {
		t.Fatalf("there is no Go file in %s", dir)
	}
	return all
}

// arguments holds the arguments of the module's functions; those of its constructor are
// under "".
type arguments map[string][]string

// accepts reports whether a flag that follows the text before is an argument: of a
// function that the text names, of the constructor, or of the function that is called.
func (a arguments) accepts(function, before, name string) bool {
	for called, names := range a {
		if called != "" && slices.Contains(names, name) && regexp.MustCompile(`(^|\s|\()`+called+` (--[a-z-]+ \S+ |--[a-z-]+ and )*$`).MatchString(before) {
			return true
		}
	}
	return slices.Contains(a[""], name) || slices.Contains(a[function], name)
}

func moduleArguments(t *testing.T) arguments {
	t.Helper()
	all := arguments{}
	fset := token.NewFileSet()
	for file, text := range sources(t, "..") {
		if filepath.Dir(file) != ".." || strings.HasSuffix(file, ".gen.go") {
			continue
		}
		parsed, err := parser.ParseFile(fset, file, text, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || !f.Name.IsExported() || f.Recv != nil && fmt.Sprint(f.Recv.List[0].Type.(*ast.StarExpr).X) != "Slipway" {
				continue
			}
			function := kebab(f.Name.Name)
			if f.Recv == nil {
				function = ""
			}
			all[function] = []string{}
			for _, p := range f.Type.Params.List {
				for _, n := range p.Names {
					all[function] = append(all[function], kebab(n.Name))
				}
			}
		}
	}
	return all
}

// kebab returns the name of a Go identifier in the dagger program.
func kebab(name string) string {
	var s strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			s.WriteByte('-')
		}
		s.WriteRune(unicode.ToLower(r))
	}
	return s.String()
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
