// Package sandbox runs programs that execute an app's code, such as its tests, so that
// they cannot write what a later build, scan, signature or deployment reads, and cannot
// read credentials.
//
// It uses Landlock (https://docs.kernel.org/userspace-api/landlock.html), which needs
// neither privileges nor a container. Where the kernel lacks it, programs run without
// these restrictions; [Missing] says what is missing.
//
// The package promises no compatibility to programs other than slipway.
package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Argument is the first argument with which slipway starts itself to enter a sandbox. The
// main function of the program must call [Enter] for it.
const Argument = "enter-sandbox"

// exitFailed is the exit status if the sandbox cannot be entered. It is that of env(1)
// and similar programs.
const exitFailed = 125

// Policy is what a program in the sandbox can do.
type Policy struct {
	Read  []string // folders and files that it can read, and run programs from
	List  []string // folders whose names, and those of all folders below, it can list
	Write []string // folders that it can also write to
	Env   []string // its environment, NAME=value
}

// Sandbox starts programs in a sandbox.
type Sandbox struct {
	// Program is the path of a slipway program. It restricts itself and then becomes
	// the program that is started.
	Program string
	Policy  Policy
}

// Command returns a command that runs a program in the sandbox. The policy is written to
// a file in the folder dir, which the command removes when it starts.
func (s Sandbox) Command(ctx context.Context, dir, program string, args ...string) (*exec.Cmd, error) {
	// Of several values of a variable the last one counts, as for other commands.
	s.Policy.Env = (&exec.Cmd{Env: s.Policy.Env}).Environ()
	data, err := json.Marshal(s.Policy)
	if err != nil {
		return nil, fmt.Errorf("encoding the policy of the sandbox: %w", err)
	}
	file, err := os.CreateTemp(dir, "policy-") // only the user can read it
	if err != nil {
		return nil, fmt.Errorf("writing the policy of the sandbox: %w", err)
	}
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, fmt.Errorf("writing the policy of the sandbox: %w", err)
	}
	return toolchain.Command(ctx, s.Program, slices.Concat([]string{Argument, file.Name(), program}, args)...), nil
}

// Enter restricts this process by a policy and replaces it by a program. The arguments are
// the file of the policy, the program and its arguments. Enter returns only if that fails,
// with an exit status.
func Enter(args []string) int {
	if err := enter(args); err != nil {
		fmt.Fprintln(os.Stderr, "slipway: entering the sandbox: "+err.Error())
	}
	return exitFailed
}

func enter(args []string) error {
	if len(args) < 2 {
		return errors.New("the policy or the program is missing")
	}
	// Capabilities belong to a thread, and the one that has dropped them must become the
	// program.
	runtime.LockOSThread()
	data, err := os.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	if err := os.Remove(args[0]); err != nil {
		return fmt.Errorf("removing the policy: %w", err)
	}
	var p Policy
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("reading the policy: %w", err)
	}
	program, err := exec.LookPath(args[1])
	if err != nil {
		return err
	}
	if err := p.restrict(); err != nil {
		return err
	}
	return become(program, args[1:], p.Env)
}

// Except returns folders and files that together contain everything on this machine
// except the given paths. Landlock can allow a folder, but not exclude something in it.
// Paths that do not exist are ignored.
func Except(hidden ...string) []string {
	var forbidden []string
	for _, path := range hidden {
		if resolved, err := filepath.EvalSymlinks(path); err == nil && path != "" {
			forbidden = append(forbidden, resolved)
		}
	}
	return except(string(filepath.Separator), forbidden)
}

// System returns what every program that executes an app's code can read besides the source:
// this machine except the hidden paths, temporary files and what other such programs have
// left, and the app's toolchain and modules.
func System(g *toolchain.Go, hidden ...string) []string {
	hidden = append(hidden, os.TempDir(), g.TestArea())
	return slices.Concat(Except(hidden...), []string{g.Root, g.ModCache}, filepath.SplitList(os.Getenv("PATH")))
}

// AllBut returns folders and files that together contain everything in dir except the given
// paths.
func AllBut(dir string, hidden ...string) []string {
	resolved, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil
	}
	return except(resolved, hidden)
}

func except(dir string, forbidden []string) []string {
	switch {
	case slices.ContainsFunc(forbidden, func(f string) bool { return within(f, dir) }):
		return nil
	case !slices.ContainsFunc(forbidden, func(f string) bool { return within(dir, f) }):
		return []string{dir}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // what cannot be listed is not allowed
	}
	var allowed []string
	for _, e := range entries {
		// A link would allow its target, which can be forbidden.
		if e.Type()&fs.ModeSymlink != 0 {
			path := filepath.Join(dir, e.Name())
			target, err := filepath.EvalSymlinks(path)
			if err == nil && slices.Equal(except(target, forbidden), []string{target}) {
				allowed = append(allowed, path)
			}
			continue
		}
		allowed = append(allowed, except(filepath.Join(dir, e.Name()), forbidden)...)
	}
	return allowed
}
