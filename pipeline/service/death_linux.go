package service

import "syscall"

// dieWithParent makes the kernel send the signal quit to the process when the thread
// that started it ends; see [launch.start].
func dieWithParent(attr *syscall.SysProcAttr, quit syscall.Signal) { attr.Pdeathsig = quit }
