//go:build !linux

package service

import "syscall"

// dieWithParent does nothing: only Linux can tie a process to its parent's life.
// Elsewhere a killed slipway leaves its servers running until they are stopped
// by hand.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
