package starter_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/starter"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

const (
	idle    = "package main\n\nfunc main() {}\n"
	listens = "package main\n\nimport \"net/http\"\n\nfunc main() { _ = http.ListenAndServe(\":8080\", nil) }\n"
)

// runs returns a main package that calls the function Run of a package of its module.
func runs(importPath string) string {
	return "package main\n\nimport x \"example.com/acme/orders/" + importPath + "\"\n\nfunc main() { x.Run() }\n"
}

// choice is a module and the main package that is chosen, with the reasons.
type choice struct {
	files map[string]string
	mains []string
	want  string // the first candidate and why
}

//nolint:funlen // a table
func choices() map[string]choice {
	return map[string]choice{
		"one": {
			files: map[string]string{"tools/gen/main.go": idle}, mains: []string{"./tools/gen"},
			want: "./tools/gen is the only main package",
		},
		"nothing to go by": {
			files: map[string]string{"cmd/a/main.go": idle, "cmd/b/main.go": idle}, mains: []string{"./cmd/a", "./cmd/b"},
			want: "./cmd/a is the first one, because nothing tells which is the service",
		},
		"named as the module": {
			files: map[string]string{"cmd/a/main.go": idle, "cmd/orders/main.go": idle}, mains: []string{"./cmd/a", "./cmd/orders"},
			want: "./cmd/orders is named as the module",
		},
		"named as the repository": {
			files: map[string]string{"cmd/a/main.go": idle, "cmd/REPOSITORY/main.go": idle}, mains: []string{"./cmd/a", "./cmd/REPOSITORY"},
			want: "./cmd/REPOSITORY is named as the repository",
		},
		"listens": {
			files: map[string]string{"cmd/a/main.go": idle, "cmd/b/main.go": listens}, mains: []string{"./cmd/a", "./cmd/b"},
			want: "./cmd/b listens on a port (cmd/b/main.go:5)",
		},
		"listens in another package of the module": {
			files: map[string]string{
				"cmd/a/main.go": runs("internal/job"), "internal/job/job.go": "package job\n\nfunc Run() {}\n",
				"cmd/b/main.go": runs("internal/server"), "internal/server/server.go": "package server\n\nimport \"net\"\n\nfunc Run() { _, _ = net.Listen(\"tcp\", \":80\") }\n",
			},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b listens on a port (internal/server/server.go:5)",
		},
		"a server in a package that is not used": {
			files: map[string]string{
				"cmd/a/main.go": idle, "cmd/orders/main.go": idle,
				"internal/server/server.go": "package server\n\nimport \"net\"\n\nfunc Run() { _, _ = net.Listen(\"tcp\", \":80\") }\n",
			},
			mains: []string{"./cmd/a", "./cmd/orders"},
			want:  "./cmd/orders is named as the module",
		},
		"a method with an address": {
			files: map[string]string{
				"cmd/a/main.go": idle,
				"cmd/b/main.go": "package main\n\ntype engine struct{}\n\nfunc (engine) Run(string) {}\n\nfunc main() { engine{}.Run(\":8080\") }\n",
			},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b listens on a port (cmd/b/main.go:7)",
		},
		"a Unix socket and a test server are no ports": {
			files: map[string]string{
				"cmd/a/main.go": "package main\n\nimport (\n\t\"net\"\n\t\"net/http/httptest\"\n)\n\nfunc main() { _, _ = net.Listen(\"unix\", \"/x\"); httptest.NewServer(nil).Start() }\n",
				"cmd/b/main.go": listens,
			},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b listens on a port (cmd/b/main.go:5)",
		},
		"a helper that listens": {
			files: map[string]string{"examples/demo/main.go": listens, "cmd/orders/main.go": idle}, mains: []string{"./cmd/orders", "./examples/demo"},
			want: "./cmd/orders is named as the module",
		},
		"the root that does not listen": {
			files: map[string]string{"main.go": idle, "cmd/server/main.go": listens}, mains: []string{".", "./cmd/server"},
			want: "./cmd/server listens on a port (cmd/server/main.go:5), server is a usual name for a service",
		},
		"the root that listens": {
			files: map[string]string{"main.go": listens, "cmd/server/main.go": listens}, mains: []string{".", "./cmd/server"},
			want: ". listens on a port (main.go:5), is named as the module",
		},
		"a Dockerfile": {
			files: map[string]string{
				"cmd/orders/main.go": listens, "cmd/worker/main.go": idle,
				"Dockerfile": "FROM golang AS build\nWORKDIR /src\nCOPY . .\nRUN --mount=type=cache,target=/root/.cache CGO_ENABLED=0 go build \\\n    -ldflags=\"-s -w\" \\\n    -o /orders ./cmd/worker\nFROM scratch\nCOPY --from=build /orders /orders\n",
			},
			mains: []string{"./cmd/orders", "./cmd/worker"},
			want:  "./cmd/worker is built by Dockerfile",
		},
		"a Dockerfile with the module path, a file and a script": {
			files: map[string]string{
				"cmd/a/main.go": idle, "cmd/b/main.go": idle,
				"build/Dockerfile.prod": "FROM golang\nRUN <<EOF\nset -e\ngo install example.com/acme/orders/cmd/b && ls\nEOF\n",
			},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b is built by build/Dockerfile.prod",
		},
		"a Dockerfile whose output is named as another package": {
			files: map[string]string{"a/main.go": idle, "b/main.go": idle, "Dockerfile": "FROM golang\nRUN go build -o bin/a ./b\n"}, mains: []string{"./a", "./b"},
			want: "./b is built by Dockerfile",
		},
		"a Dockerfile in the folder of the program": {
			files: map[string]string{"cmd/a/main.go": listens, "cmd/b/main.go": idle, "cmd/b/Dockerfile": "FROM golang\nRUN go build -o /b .\n"},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b is built by cmd/b/Dockerfile",
		},
		"Dockerfiles that build nothing, all, or cannot be read": {
			files: map[string]string{
				"cmd/a/main.go": idle, "cmd/b/main.go": listens,
				"Dockerfile": "FROM alpine\nCOPY bin/a /a\nRUN echo go build ./cmd/a\n", "x/Dockerfile": "RUN <<\n", "y/Dockerfile": "FROM golang\nRUN go build ./...\n",
				"vendor/z/Dockerfile": "FROM golang\nRUN go build ./cmd/a\n",
			},
			mains: []string{"./cmd/a", "./cmd/b"},
			want:  "./cmd/b listens on a port (cmd/b/main.go:5)",
		},
		"files that do not parse": {
			files: map[string]string{"cmd/a/main.go": "package main\n\nfunc {\n", "cmd/b/main.go": listens}, mains: []string{"./cmd/a", "./cmd/b"},
			want: "./cmd/b listens on a port (cmd/b/main.go:5)",
		},
	}
}

// options returns the options for a module, and the name of the folder in which it is.
func options(t *testing.T, files map[string]string, mains []string) (o starter.Options, repository string) {
	t.Helper()
	dir := t.TempDir()
	repository = filepath.Base(dir)
	all := map[string]string{"go.mod": "module example.com/acme/orders/v2\n\ngo 1.26\n"}
	for name, text := range files {
		all[strings.ReplaceAll(name, "REPOSITORY", repository)] = strings.ReplaceAll(text, "example.com/acme/orders/", "example.com/acme/orders/v2/")
	}
	testkit.Write(t, dir, all)
	g, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	o = starter.Options{Dir: dir, Module: "example.com/acme/orders/v2", Repository: dir, Go: g}
	for _, main := range mains {
		o.Mains = append(o.Mains, strings.ReplaceAll(main, "REPOSITORY", repository))
	}
	return o, repository
}

func TestChoose(t *testing.T) {
	for name, tt := range choices() {
		t.Run(name, func(t *testing.T) {
			o, repository := options(t, tt.files, tt.mains)
			all, err := starter.Choose(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := all[0].Main+" "+all[0].Why(), strings.ReplaceAll(tt.want, "REPOSITORY", repository); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if len(all) != len(tt.mains) {
				t.Errorf("%d candidates for %d main packages: %+v", len(all), len(tt.mains), all)
			}
		})
	}
}

// A helper says why it is doubted.
func TestDoubts(t *testing.T) {
	o, _ := options(t, map[string]string{"cmd/orders/main.go": idle, "cmd/ordersctl/main.go": listens}, []string{"./cmd/orders", "./cmd/ordersctl"})
	all, err := starter.Choose(t.Context(), o)
	if err != nil || all[1].Main != "./cmd/ordersctl" || fmt.Sprint(all[1].Doubts) != "[ordersctl is a usual name for something else]" {
		t.Errorf("%v, %+v", err, all)
	}
}

func TestChooseIsCancelled(t *testing.T) {
	o, _ := options(t, map[string]string{"cmd/a/main.go": idle, "cmd/b/main.go": idle}, []string{"./cmd/a", "./cmd/b"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := starter.Choose(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
