package toolchain

import "syscall"

// dieWithParent makes the kernel kill the process when its parent dies.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
