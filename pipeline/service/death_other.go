//go:build !linux

package service

import "syscall"

// dieWithParent does nothing: only Linux can signal a process when its parent dies.
// On other systems, a killed slipway leaves its servers running.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
