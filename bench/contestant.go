package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
)

// The contestants' names.
const (
	goBuild   = "go build"
	koDefault = "ko"
	koNoSBOM  = "ko --sbom=none"
	koCache   = "ko with KOCACHE"
	ourZstd   = "slipway zstd"
	ourGzip   = "slipway gzip"
)

// contestant is a way from source to a program or to an image.
type contestant struct {
	Name string
	// Note says what it does, for the reader of the results.
	Note string
	// command is what is measured; it runs in the app's folder.
	command func(s *site) []string
	// env comes after what all contestants get.
	env func(s *site) []string
	// reference finds the pushed image in what the command printed; nil for a
	// contestant that pushes none.
	reference func(stdout []byte) (string, error)
}

// site is a contestant's own place: nothing in it is shared with another.
type site struct {
	contestant
	app        app
	tree       *tree
	tools      tools
	repository string // where it pushes
	base       string // ko's base image
	dir        string
	goCache    string
	common     []string // environment of all contestants
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// program is where go build leaves its result; it stays, so that the next
// build is an incremental one.
func (s *site) program() string { return s.path("out/program") }

func (s *site) environ() []string {
	env := append([]string{}, s.common...)
	env = append(env, "HOME="+s.path("home"), "TMPDIR="+s.path("tmp"), "GOCACHE="+s.goCache)
	return append(env, s.env(s)...)
}

func contestants() []contestant {
	all := []contestant{
		{
			Name: goBuild, Note: "`CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags \"-s -w -X ...\"`, the program slipway builds; no image",
			command: func(s *site) []string {
				return []string{s.tools.Go, "build", "-trimpath", "-buildvcs=false", "-o", s.program(), "-ldflags", s.tree.ldflags(), "-tags", s.app.Tag, s.app.Main}
			},
			env: func(*site) []string { return []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath"} },
		},
		ko(koDefault, "`ko build --bare --platform=linux/amd64`, everything else by default, so with an SPDX document", nil),
		ko(koNoSBOM, "the same with `--sbom=none`", nil, "--sbom=none"),
		ko(koCache, "the same as ko, with `KOCACHE` set", func(s *site) []string { return []string{"KOCACHE=" + s.path("cache")} }),
		slipway(ourZstd, "zstd"),
		slipway(ourGzip, "gzip"),
	}
	return all
}

func ko(name, note string, more func(*site) []string, flags ...string) contestant {
	return contestant{
		Name: name, Note: note,
		command: func(s *site) []string {
			args := append([]string{s.tools.Ko, "build", "--bare", "--platform=linux/amd64"}, flags...)
			return append(args, s.app.Main)
		},
		env: func(s *site) []string {
			env := []string{"GOFLAGS=-tags=" + s.app.Tag, "KO_DOCKER_REPO=" + s.repository, "KO_DEFAULTBASEIMAGE=" + s.base}
			if more != nil {
				env = append(env, more(s)...)
			}
			return env
		},
		reference: func(stdout []byte) (string, error) { return strings.TrimSpace(string(stdout)), nil },
	}
}

func slipway(name, compression string) contestant {
	return contestant{
		Name: name, Note: "`slipway publish --platforms linux/amd64 --compression " + compression + "`",
		command: func(s *site) []string {
			return publish(s.tools.Slipway, s.tree.dir, s.app.Main, s.repository, "--compression", compression)
		},
		env:       func(s *site) []string { return []string{"SLIPWAY_CACHE=" + s.path("cache")} },
		reference: slipwayReference,
	}
}

func publish(program, dir, main, repository string, flags ...string) []string {
	return append([]string{
		program, "publish", "-C", dir, "--main", main, "--repository", repository,
		"--platforms", "linux/amd64", "--insecure", "-o", "json",
	}, flags...)
}

func slipwayReference(stdout []byte) (string, error) {
	var report struct {
		Reference string `json:"reference"`
	}
	if err := json.Unmarshal(stdout, &report); err != nil {
		return "", fmt.Errorf("reading slipway's report: %w", err)
	}
	return report.Reference, nil
}
