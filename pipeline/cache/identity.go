package cache

import (
	"io/fs"
	"syscall"
)

// Identity identifies the content of a file without reading it. A file whose content was
// changed, or that was replaced, has another identity: a program cannot set the time of
// the last change, in contrast to the time of modification.
type Identity struct {
	Inode   uint64 `json:"inode"`
	Changed int64  `json:"changed"` // ctime of stat(2), in nanoseconds since 1970
}

// Identify returns the identity of a file.
func Identify(fi fs.FileInfo) Identity {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return Identity{}
	}
	return Identity{Inode: st.Ino, Changed: changeTime(st)}
}
