package cache

import "syscall"

// changeTime returns when a file was last changed in any way, in nanoseconds since 1970.
func changeTime(st *syscall.Stat_t) int64 { return st.Ctim.Nano() }
