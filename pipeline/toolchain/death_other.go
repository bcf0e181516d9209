//go:build !linux

package toolchain

import "syscall"

// dieWithParent does nothing: only Linux can signal a process when its parent
// dies.
func dieWithParent(*syscall.SysProcAttr) {}
