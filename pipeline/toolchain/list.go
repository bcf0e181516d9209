package toolchain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
)

// ListPackages runs go list in a folder with the given arguments, for linux/amd64 with cgo,
// because that is what most images are built for. The variables of env are added to the
// environment of builds. It returns the output, the messages, and the error of [Run].
func (g *Go) ListPackages(ctx context.Context, dir string, env []string, args ...string) (out []byte, messages string, err error) {
	cmd := Command(ctx, g.Program, append([]string{"list", "-e"}, args...)...)
	cmd.Dir = dir
	cmd.Env = g.Env(append([]string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=1"}, env...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = Run(cmd)
	return stdout.Bytes(), stderr.String(), err
}

// Download gets all modules that the packages and their tests need, because the go command
// cannot write to the cache of modules in a sandbox. The app's code is not executed. Errors
// of the go command are left to what uses the packages, which reports them better. Download
// returns the error of ctx.
func (g *Go) Download(ctx context.Context, dir string, env, tags []string, packages ...string) error {
	args := []string{"list", "-e", "-deps", "-test", "-f", ""}
	if len(tags) > 0 {
		args = append(args, "-tags="+strings.Join(tags, ","))
	}
	cmd := Command(ctx, g.Program, slices.Concat(args, packages)...)
	cmd.Dir, cmd.Env = dir, g.Env(env...)
	_ = Run(cmd)
	return ctx.Err()
}

// Values returns the JSON values in a text, which is how go list -json prints packages and
// modules. If one is malformed, it returns those before it, and an error.
func Values[T any](text []byte) ([]T, error) {
	var all []T
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var v T
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
}
