//go:build !linux

package sandbox

import "syscall"

// Missing returns what programs in a sandbox can do on this machine although they should
// not.
func Missing() []string {
	return []string{"read credentials of this user and write to all files of this user, because only Linux has Landlock"}
}

func (p Policy) restrict() error { return nil }

func become(program string, argv, env []string) error { return syscall.Exec(program, argv, env) }
