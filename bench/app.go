package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/module"
)

// app is an application to build.
type app struct {
	Name string
	// Dir is the application's directory in slipway's repository. If it is empty,
	// the application is Module at Version from the module proxy.
	Dir             string
	Module, Version string
	Main            string // main package
	Tag             string // build tag, or empty
	Edit            edit
	Untested        *edit  // an edit that breaks no test; if nil, the complete pipeline is not measured
	Start           *start // how to start it; if nil, the image variants are not measured
}

// edit is a one-line change. It changes a string constant in a package of the
// program.
type edit struct {
	File string // path relative to the module
	Old  string // text that occurs exactly once in the file
	New  string // replacement with a %d for the number of the change
}

// start describes how to start an application without the services it depends on.
type start struct {
	Version []string // arguments with which it prints its version and exits
	Args    []string // arguments with which it serves
	Env     func(port, other string) []string
	Health  string // path that responds with status 200 as soon as it serves
}

func apps() []app {
	return []app{
		{
			Name: "sample-app", Dir: "sample-app", Main: "./cmd/server", Tag: "nomsgpack",
			Edit: edit{
				File: "internal/httpapi/problem.go",
				Old:  `"about:blank", Title: http.`, New: `"about:blank#%d", Title: http.`,
			},
			Untested: &edit{
				File: "internal/serve/serve.go",
				Old:  `"recovery stopped early"`, New: `"recovery stopped early %d"`,
			},
			Start: &start{
				Version: []string{"version"},
				Env: func(port, other string) []string {
					return []string{
						"DATABASE_URL=postgres://app@127.0.0.1:1/orders", // nothing listens there, which does not affect liveness
						"APP_SERVER_LISTEN=127.0.0.1:" + port,
						"APP_SERVER_METRICS_LISTEN=127.0.0.1:" + other,
					}
				},
				Health: "/health/live",
			},
		},
		{
			Name:   "podinfo",
			Module: "github.com/stefanprodan/podinfo", Version: "v1.8.1-0.20250910200901-e86405a8674e",
			Main: "./cmd/podinfo",
			Edit: edit{
				File: "pkg/version/version.go",
				Old:  `var VERSION = "6.9.2"`, New: `var VERSION = "6.9.2+%d"`,
			},
		},
	}
}

// origin returns the directory with the application's files.
func (a app) origin(ctx context.Context, root string) (string, error) {
	if a.Dir != "" {
		return filepath.Join(root, a.Dir), nil
	}
	out, err := output(ctx, root, os.Environ(), "go", "mod", "download", "-json", a.Module+"@"+a.Version)
	var found struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &found); err != nil || jsonErr != nil {
		return "", fmt.Errorf("downloading %s: %w", a.Module, errors.Join(err, jsonErr))
	}
	if found.Error != "" {
		return "", fmt.Errorf("downloading %s: %s", a.Module, found.Error)
	}
	return found.Dir, nil
}

// tree is a contestant's copy of the application, in a git repository.
type tree struct {
	dir      string
	edit     edit
	original string
	commit   string
	when     time.Time
}

// newTree copies an application and commits it to a new repository.
func newTree(ctx context.Context, origin, dir, tag string, e edit) (*tree, error) {
	if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
		return nil, fmt.Errorf("copying the application: %w", err)
	}
	if tag != "" {
		if err := os.WriteFile(filepath.Join(dir, "slipway.yaml"), []byte("app:\n  tags: ["+tag+"]\n"), 0o600); err != nil {
			return nil, fmt.Errorf("configuring the application: %w", err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, e.File))
	if err != nil {
		return nil, fmt.Errorf("reading the file to change: %w", err)
	}
	if n := strings.Count(string(text), e.Old); n != 1 {
		return nil, fmt.Errorf("%s contains %s %d times instead of once; adapt the edit in bench/app.go to the application", e.File, e.Old, n)
	}
	t := &tree{dir: dir, edit: e, original: string(text), when: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "-A", "-f"}} {
		if _, err := t.git(ctx, args...); err != nil {
			return nil, err
		}
	}
	return t, t.record(ctx)
}

// change applies the edit with the number n and commits it.
func (t *tree) change(ctx context.Context, n int) error {
	text := strings.Replace(t.original, t.edit.Old, fmt.Sprintf(t.edit.New, n), 1)
	if err := os.WriteFile(filepath.Join(t.dir, t.edit.File), []byte(text), 0o600); err != nil {
		return fmt.Errorf("changing the application: %w", err)
	}
	t.when = t.when.Add(time.Minute)
	return t.record(ctx)
}

// record commits all changes and stores the commit's hash.
func (t *tree) record(ctx context.Context) error {
	if _, err := t.git(ctx, "commit", "-q", "-a", "-m", "bench"); err != nil {
		return err
	}
	out, err := t.git(ctx, "rev-parse", "HEAD")
	t.commit = strings.TrimSpace(string(out))
	return err
}

func (t *tree) git(ctx context.Context, args ...string) ([]byte, error) {
	date := t.when.Format(time.RFC3339)
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.dir, "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=bench", "GIT_AUTHOR_EMAIL=bench@example.com", "GIT_AUTHOR_DATE=" + date,
		"GIT_COMMITTER_NAME=bench", "GIT_COMMITTER_EMAIL=bench@example.com", "GIT_COMMITTER_DATE=" + date,
	}
	return output(ctx, t.dir, env, "git", args...)
}

// ldflags returns the linker flags that slipway uses for this commit.
func (t *tree) ldflags() string {
	return strings.Join([]string{
		"-s", "-w",
		"-X", "main.version=" + module.PseudoVersion("", "", t.when, t.commit[:12]),
		"-X", "main.commit=" + t.commit,
		"-X", "main.date=" + t.when.Format(time.RFC3339),
	}, " ")
}

// output runs a program without measuring it and returns its standard output.
func output(ctx context.Context, dir string, env []string, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = dir, env, &stderr
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
