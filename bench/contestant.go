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

// contestant is a way to build a program or an image from source.
type contestant struct {
	Name string
	// Note describes the contestant in the results.
	Note string
	// command returns the command that is measured. It runs in the
	// application's directory.
	command func(s *site) []string
	// env returns environment variables in addition to those of all contestants.
	env func(s *site) []string
	// reference returns the reference of the pushed image from the command's
	// standard output. It is nil if the contestant pushes no image.
	reference func(stdout []byte) (string, error)
}

// site is the working directory of a contestant. Contestants share nothing in it.
type site struct {
	contestant
	app        app
	tree       *tree
	tools      tools
	repository string // the repository it pushes to
	base       string // ko's base image
	dir        string
	goCache    string
	common     []string // the environment of all contestants
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// program returns the path of the program that go build writes. The program is not
// deleted between runs, so that the next build is incremental.
func (s *site) program() string { return s.path("out/program") }

func (s *site) environ() []string {
	env := append([]string{}, s.common...)
	env = append(env, "HOME="+s.path("home"), "TMPDIR="+s.path("tmp"), "GOCACHE="+s.goCache)
	return append(env, s.env(s)...)
}

func contestants() []contestant {
	all := []contestant{
		{
			Name: goBuild, Note: "`CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags \"-s -w -X ...\"`, which builds the same program as slipway, but no image",
			command: func(s *site) []string {
				return []string{s.tools.Go, "build", "-trimpath", "-buildvcs=false", "-o", s.program(), "-ldflags", s.tree.ldflags(), "-tags", s.app.Tag, s.app.Main}
			},
			env: func(*site) []string { return []string{"CGO_ENABLED=0", "GOFLAGS=-trimpath"} },
		},
		ko(koDefault, "`ko build --bare --platform=linux/amd64`, with default settings otherwise, which includes an SPDX document", nil),
		ko(koNoSBOM, "the same as ko, with `--sbom=none`", nil, "--sbom=none"),
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
