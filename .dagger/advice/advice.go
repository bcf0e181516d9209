// Package advice says in the terms of the Dagger module what the slipway program says in
// its own.
//
// Errors of the program name its flags, its commands, environment variables and paths of
// the container in which it runs. Somebody who calls the module has none of these. The
// tables of this package are the only place where one is translated into the other.
package advice

import (
	"regexp"
	"slices"
	"strings"
)

// Paths of files in the containers of the module.
const (
	SourceDir        = "/src"
	KubeconfigFile   = "/run/secrets/kubeconfig"
	KeyFile          = "/run/secrets/signing-key"
	TokenFile        = "/run/secrets/identity-token" //nolint:gosec // a path
	PublicKeyFile    = "/run/keys/key.pub"
	DockerConfigFile = "/root/.docker/config.json"
	NetrcFile        = "/root/.netrc"
	DatabaseDir      = "/run/database"
)

// Translate translates what the program says. function is the function of the module that
// ran the program, for example "build-layout"; what a flag is called can depend on it.
func Translate(function, text string) string {
	var said []string
	table := phrases()
	for line := range strings.SplitSeq(text, "\n") {
		for _, p := range table {
			if p.in == nil || slices.Contains(p.in, function) {
				line = p.says.ReplaceAllString(line, p.means)
			}
		}
		line = flags(function, commands(line))
		said = append(said, paths(line)+hint(line))
	}
	return strings.Join(said, "\n")
}

// said is the beginning of a line in which the program reports why it failed.
const said = "slipway: "

// Output translates the errors in what the program printed. The other lines are output of
// tests and linters, and stay as they are.
func Output(function, stderr string) string {
	var all strings.Builder
	for line := range strings.Lines(stderr) {
		if text, isError := strings.CutPrefix(line, said); isError {
			line = said + Translate(function, text)
		}
		all.WriteString(line)
	}
	return all.String()
}

// Errors returns the errors in what the program printed, translated, each on a line.
func Errors(function, stderr string) string {
	var all []string
	for line := range strings.Lines(Output(function, stderr)) {
		if text, isError := strings.CutPrefix(line, said); isError {
			all = append(all, strings.TrimSpace(text))
		}
	}
	return strings.Join(all, "\n")
}

// Flag is a flag of the program and what it is in the module. The first of these that
// there is applies: the argument of the function that ran the program, the call, and the
// setting. A flag that has none of them keeps its name.
type Flag struct {
	Name    string            // for example "--db-repository"
	In      map[string]string // argument by function
	Call    string            // what to add to the call of any function; a value follows a "="
	Setting string            // of slipway.yaml
}

// in returns an argument that several functions have.
func in(argument string, functions ...string) map[string]string {
	all := map[string]string{}
	for _, f := range functions {
		all[f] = argument
	}
	return all
}

// Flags returns the flags of the program that its messages can name.
func Flags() []Flag {
	platforms := in("--platforms", "build", "build-layout", "publish")
	platforms["sbom"] = "--platform"
	builds := []string{"build", "build-layout", "publish", "sbom", "sign"}
	return []Flag{
		{Name: "--allow-license", In: in("--allow", "license"), Setting: "license.allow"},
		{Name: "--as", Call: "sbom --format"},
		{Name: "--base", In: in("--base", builds...), Setting: "image.base"},
		{Name: "--cgo", Setting: "app.cgo"},
		{Name: "--cluster-server", Call: "with-cluster --service"},
		{Name: "--compression", Setting: "image.compression"},
		{Name: "--config", Call: "--config"},
		{Name: "--coverage", Setting: "test.coverage"},
		{Name: "--db-repository", In: in("--database", "scan"), Setting: "scan.databases"},
		{Name: "--dir", Call: "--dir"},
		{Name: "--env", In: in("--env", "verify", "plan", "deploy", "ship", "status", "history", "rollback"), Call: "deploy --env"},
		{Name: "--format", Setting: "image.format"},
		{Name: "--forward", Call: "--services"},
		{Name: "--git-tag", In: in("--git-tag", "deploy", "ship"), Call: "deploy --git-tag"},
		{Name: "--identity-token", Call: "with-signer --identity-token"},
		{Name: "--ignore-unfixed", In: in("--ignore-unfixed", "scan"), Setting: "scan.ignoreUnfixed"},
		{Name: "--image", In: in("--image", "sign", "verify", "plan", "deploy"), Call: "deploy --image"},
		{Name: "--insecure", Call: "with-registry --insecure"},
		{Name: "--key", In: in("--key", "verify"), Call: "with-signer --key"},
		{Name: "--keyless", Call: "with-signer --identity-token"},
		{Name: "--kubeconfig", Call: "with-cluster --kubeconfig"},
		{Name: "--main", Setting: "app.main"},
		{Name: "--mirror", Call: "--images mirror="},
		{Name: "--no-race", Setting: "test.race"},
		{Name: "--no-rollback", In: in("--no-rollback", "deploy"), Setting: "deploy.environments.NAME.rollback"},
		{Name: "--no-wait-lock", In: in("--no-wait-lock", "deploy"), Setting: "deploy.environments.NAME.lockTimeout"},
		{Name: "--offline", Setting: "scan.offline"},
		{Name: "--only-signature", In: in("--only-signature", "sign"), Call: "sign --only-signature"},
		{Name: "--password-stdin", Call: "with-registry --password"},
		{Name: "--platforms", In: platforms, Setting: "app.platforms"},
		{Name: "--reachable-only", In: in("--reachable-only", "scan"), Setting: "scan.failOn.reachableOnly"},
		{Name: "--registry-server", Call: "with-registry --service"},
		{Name: "--repository", Call: "with-registry --address"},
		{Name: "--revision", Call: "with-commit --revision"},
		{Name: "--rollback-all", Setting: "deploy.environments.NAME.rollbackAll"},
		{Name: "--severity", In: in("--fail-on", "scan"), Setting: "scan.severities"},
		{Name: "--tag", In: in("--tags", "publish", "deploy", "ship"), Call: "publish --tags"},
		{Name: "--test", In: in("--test", "deploy"), Setting: "deploy.environments.NAME.test"},
		{Name: "--timeout", Setting: "deploy.environments.NAME.timeout"},
		{Name: "--unsigned", Call: "dagger call publish"},
		{Name: "--upx", In: in("--upx", builds...), Setting: "image.upx"},
		{Name: "--username", Call: "with-registry --username"},
		{Name: "--version", In: in("--version", builds...)},
		{Name: "--yes", In: in("--yes", "deploy", "ship", "rollback"), Call: "deploy --yes"},
	}
}

// Outside returns the flags of the program that only commands have which the module does
// not call, those that the module never gives, and those whose values the module sets itself,
// so that no caller is told of them.
func Outside() []string {
	return []string{"--allow", "--cert", "--controller", "--dry-run", "--force", "--help", "--hooks", "--no-lint", "--port", "--private", "--progress", "--public", "--reports", "--repository-root", "--to"}
}

// phrase is a part of a message that does not become right if its words are translated one
// by one.
type phrase struct {
	says  *regexp.Regexp
	means string
	in    []string // the functions in which it means this; nil: all
}

func phrases() []phrase {
	r := regexp.MustCompile
	return []phrase{
		{says: r(`--username with --password-stdin`), means: "with-registry --username and --password"},
		{says: r(`set --kubeconfig or KUBECONFIG to the path of a kubeconfig`), means: "give another one with with-cluster --kubeconfig file:PATH"},
		{
			says:  r(`run docker login (\S+), or set SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD`),
			means: "log in to $1 with with-registry --username NAME --password env:NAME, or with-registry --docker-config file:$$HOME/.docker/config.json",
		},
		{says: r(`, or SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD`), means: ", or give both as --secrets env:SLIPWAY_REGISTRY_USERNAME,env:SLIPWAY_REGISTRY_PASSWORD"},
		{says: r(`set COSIGN_PASSWORD or SLIPWAY_KEY_PASSWORD`), means: "give it with with-signer --password env:NAME"},
		{says: r(`(for example )?SOURCE_DATE_EPOCH=`), means: "${1}with-commit --epoch "},
		{says: r(`set GOPROXY to a reachable module proxy`), means: "name a reachable module proxy with with-modules --proxy"},
		{says: r(`install golangci-lint (\S+) on PATH`), means: "name an image that has golangci-lint $1 with --images lint=REFERENCE"},
		{says: r(`run slipway in a Go module`), means: "call dagger in a Go module"},
		{says: r(`the environment variable (\S+) is not set`), means: "the variable $1 was not given (give it with --secrets env:$1)"},
		{says: r(`(\S+) is not set, which is the value of (\S+ in Secret \S+)`), means: "$1 was not given, which is the value of $2 (give it with --secrets env:$1)"},
		{says: r(`, or give --key`), in: []string{"deploy", "ship"}},
	}
}

// foreign matches a command of another program, whose flags are its own.
func foreign(text string) bool {
	return regexp.MustCompile(`(^|\s|\$\()(cosign|docker|git|golangci-lint|gpg|helm|kubectl|kubeseal|oras|upx|upx:) `).MatchString(text)
}

// isTranslated reports whether a text, which a flag follows, names a function of the module
// that has the flag.
func isTranslated(text string) bool {
	return regexp.MustCompile(`\bwith-(cluster|commit|modules|registry|signer) (\S+ )*$`).MatchString(text)
}

// flags translates the flags in a line.
func flags(function, line string) string {
	word := regexp.MustCompile(`(^|[\s("])(--[a-z][a-z-]*)( [^\s,;()]*[/:=@%][^\s,;()]*)?`)
	var said strings.Builder
	end := 0
	for _, m := range word.FindAllStringSubmatchIndex(line, -1) {
		said.WriteString(line[end:m[4]])
		clause := line[:m[4]]
		clause = clause[strings.LastIndexAny(clause, ",;)")+1:]
		name, value := line[m[4]:m[5]], ""
		if m[6] >= 0 {
			value = line[m[6]:m[7]]
		}
		if foreign(clause) || isTranslated(clause) {
			said.WriteString(name + value)
		} else {
			said.WriteString(flag(function, name, value))
		}
		end = m[1]
	}
	said.WriteString(line[end:])
	line = said.String()
	for _, f := range Flags() {
		// "set scan.databases or --db-repository" named the setting already.
		if s, long := f.Setting, f.Setting+settingSuffix; s != "" {
			line = strings.ReplaceAll(strings.ReplaceAll(line, s+" or "+long, long), long+" or "+s, long)
		}
	}
	return line
}

const settingSuffix = " in slipway.yaml"

// flag translates a flag with its value, which begins with a space or is empty.
func flag(function, name, value string) string {
	i := slices.IndexFunc(Flags(), func(f Flag) bool { return f.Name == name })
	if i < 0 {
		return name + value
	}
	f := Flags()[i]
	switch {
	case f.In[function] != "":
		return f.In[function] + value
	case strings.HasSuffix(f.Call, "="):
		if value == "" {
			value = " REGISTRY"
		}
		return f.Call + strings.TrimSpace(value)
	case f.Call != "":
		return f.Call + value
	case f.Setting != "" && value != "":
		return f.Setting + ":" + value + settingSuffix
	case f.Setting != "":
		return f.Setting + settingSuffix
	}
	return name + value
}

// Commands returns the commands of the program that are functions of the module with the
// same name, and those that the module does not have.
func Commands() (functions, others []string) {
	return []string{
			"build", "check", "deploy", "history", "license", "lint", "plan", "publish", "rollback", "sbom", "scan", "ship", "sign", "status", "test", "verify",
		},
		[]string{"chart eject", "chart", "doctor", "init", "keys generate", "keys", "registry", "seal", "source", "version"}
}

// commands translates the commands of the program in a line.
func commands(line string) string {
	functions, others := Commands()
	line = regexp.MustCompile(`\bslipway (`+strings.Join(functions, "|")+`)\b`).ReplaceAllString(line, "dagger call $1")
	return regexp.MustCompile(`\bslipway (`+strings.Join(others, "|")+`)\b`).ReplaceAllString(line, "slipway $1 (outside Dagger)")
}

// paths translates the paths of the container in a line.
func paths(line string) string {
	const before = `(^|[\s"'(=:,])`
	for path, words := range map[string]string{
		KubeconfigFile:   "the kubeconfig",
		KeyFile:          "the key of with-signer",
		TokenFile:        "the token of with-signer",
		PublicKeyFile:    "the key of --key",
		DockerConfigFile: "the file of with-registry --docker-config",
		NetrcFile:        "the netrc",
		DatabaseDir:      "the folder of --database-layout",
	} {
		line = regexp.MustCompile(before+regexp.QuoteMeta(path)+`\b`).ReplaceAllString(line, "${1}"+words)
	}
	line = regexp.MustCompile(before+SourceDir+`/`).ReplaceAllString(line, "${1}")
	return regexp.MustCompile(before+SourceDir+`\b`).ReplaceAllString(line, "${1}the root of the repository")
}
