package toolchain

import (
	"os/exec"
	"runtime"
	"syscall"
)

// Run runs a command made by [Command] to its end and sees to it that nothing
// of it is left: its process group is killed after it, and on Linux the kernel
// kills it when slipway itself is killed, so that an orphan cannot write into
// the cache behind a later run's back.
func Run(cmd *exec.Cmd) error {
	// The kernel's signal is tied to the thread that starts the program, not to
	// the process, so this thread must not end before the program does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	dieWithParent(cmd.SysProcAttr)
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // mostly nobody is left
	return err
}
