package sandbox

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// abiVariable simulates a kernel with an older Landlock, for tests. The value is the
// version of its interface; 0 is a kernel without Landlock. It can only take protection
// away from the caller's own run.
const abiVariable = "SLIPWAY_TEST_LANDLOCK"

// abi returns the version of Landlock's interface in this kernel, or 0.
func abi() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	var simulated int
	if n, err := fmt.Sscanf(os.Getenv(abiVariable), "%d", &simulated); n == 1 && err == nil {
		return min(version, simulated)
	}
	return version
}

// Missing returns what programs in a sandbox can do on this machine although they should
// not, in the order of importance. The versions are those of
// https://docs.kernel.org/userspace-api/landlock.html#previous-limitations.
func Missing() []string {
	version := abi()
	if version == 0 {
		return []string{"read credentials of this user and write to all files of this user, because the kernel has no Landlock"}
	}
	var missing []string
	if version < 3 {
		missing = append(missing, "truncate files that they cannot write")
	}
	if version < 6 {
		missing = append(missing, "send signals to other programs of this user")
	}
	return missing
}

// restrict restricts this process. Nothing is restricted if the kernel has no Landlock.
func (p Policy) restrict() error {
	version := abi()
	if version == 0 {
		return nil
	}
	rules := devices()
	for _, path := range p.Read {
		fi, err := os.Stat(path)
		switch {
		case err != nil: // it is a dangling link, or was removed
		case fi.IsDir():
			rules = append(rules, landlock.RODirs(path).IgnoreIfMissing()) // another program may remove it now
		default:
			rules = append(rules, landlock.ROFiles(path).IgnoreIfMissing())
		}
	}
	for _, path := range p.List {
		if fi, err := os.Stat(path); err != nil || !fi.IsDir() {
			continue
		}
		rules = append(rules, landlock.PathAccess(ll.AccessFSReadDir, path).IgnoreIfMissing())
	}
	for _, path := range p.Write {
		rule := landlock.RWDirs(path)
		if version >= 2 {
			rule = rule.WithRefer() // renaming between folders; older versions always deny it
		}
		rules = append(rules, rule)
	}
	// Version 8 is the last that does not restrict connections to sockets in the file
	// system, which tests need to reach databases.
	config := landlock.V8
	if version < 8 {
		config = []landlock.Config{landlock.V1, landlock.V2, landlock.V3, landlock.V4, landlock.V5, landlock.V6, landlock.V7}[version-1]
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if err := config.BestEffort().RestrictPaths(rules...); err != nil {
		return fmt.Errorf("restricting access to files: %w", err)
	}
	if err := config.BestEffort().RestrictScoped(); err != nil {
		return fmt.Errorf("restricting signals: %w", err)
	}
	return nil
}

// devices returns rules for the devices that programs need. The others include disks.
func devices() []landlock.Rule {
	files := landlock.RWFiles("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx").WithIoctlDev()
	folders := landlock.RWDirs("/dev/pts", "/dev/shm").WithIoctlDev()
	return []landlock.Rule{files.IgnoreIfMissing(), folders.IgnoreIfMissing()}
}

// dropCapabilities gives up for good what would let root go around the restrictions, for
// example by reading the memory of other programs or the disk. A user other than root has
// none of these capabilities, see capabilities(7).
func dropCapabilities() error {
	for _, capability := range []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_PERFMON, unix.CAP_SYS_PTRACE, unix.CAP_BPF, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_MKNOD,
		unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_BOOT, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
	} {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0)
		if errors.Is(err, unix.EPERM) {
			return nil // this user has no capabilities to drop
		}
		if err != nil && !errors.Is(err, unix.EINVAL) { // an older kernel does not know the capability
			return fmt.Errorf("dropping capabilities: %w", err)
		}
	}
	return nil
}

// become replaces this process by a program.
func become(program string, argv, env []string) error { return syscall.Exec(program, argv, env) }
