package license

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// fetch is the fix for a module that is not on this machine.
const fetch = "run go mod download, or go mod vendor if the app has a vendor folder"

// findFolders returns the folder of each module, by the path that go.mod requires.
//
// The go command knows what a module is replaced by and where it is. It must not
// download anything: what is linked has been downloaded by the build.
func findFolders(ctx context.Context, o Options, modules []*debug.Module) (map[string]string, error) {
	if len(modules) == 0 {
		return nil, nil
	}
	args := []string{"list", "-m", "-json=Path,Dir"}
	for _, m := range modules {
		args = append(args, m.Path)
	}
	out, err := goCommand(ctx, o, args...)
	if err != nil {
		return nil, err
	}
	known, err := toolchain.Values[struct{ Path, Dir string }](out)
	if err != nil {
		return nil, fmt.Errorf("parsing the output of go list: %w", err)
	}
	folders := map[string]string{}
	for _, m := range known {
		folders[m.Path] = m.Dir
	}
	vendor := toolchain.VendorDir(o.Go.Workspace, o.Dir)
	for _, m := range modules {
		if folders[m.Path] != "" {
			continue
		}
		// The go command does not name folders below vendor.
		folders[m.Path] = filepath.Join(vendor, filepath.FromSlash(m.Path))
		if _, err := os.Stat(folders[m.Path]); err != nil {
			return nil, fault.Failedf("license.unreadable", "looking for the licence of %s %s: neither the module cache nor %s has it", m.Path, m.Version, vendor).
				WithFix("%s", fetch)
		}
	}
	return folders, nil
}

// goCommand runs the go command without a network and returns its output.
func goCommand(ctx context.Context, o Options, args ...string) ([]byte, error) {
	cmd := toolchain.Command(ctx, o.Go.Program, args...)
	// GOPRIVATE is the default of GONOPROXY, and such modules would be fetched from
	// their repositories in spite of GOPROXY=off.
	cmd.Dir, cmd.Env = o.Dir, append(o.Go.Env(o.Env...), "GOPROXY=off", "GONOPROXY=none")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := toolchain.Run(cmd); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		text, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, fault.Failedf("license.unreadable", "running go %s to find the modules: %w: %s", args[0], err, text).
			WithFix("%s", fetch)
	}
	return stdout.Bytes(), nil
}
