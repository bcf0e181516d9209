package toolchain

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Run runs a command made by [Command], waits until it ends and then kills its
// process group, so that no child process is left. On Linux the kernel kills the
// command if slipway itself is killed, so that an orphan cannot write into the
// cache while a later run uses it.
//
// It returns the errors of [exec.Cmd.Start] and [exec.Cmd.Wait].
func Run(cmd *exec.Cmd) error {
	// The kernel sends the parent-death signal when the thread that started the
	// program ends, not when the process does, so this thread must outlive the
	// program (PR_SET_PDEATHSIG in prctl(2)).
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // fails if the group is empty, which is the normal case
	return err
}
