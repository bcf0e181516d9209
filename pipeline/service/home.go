package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// prefix begins the names of all directories with the data of services.
const prefix = "slipway-service-"

// nobody is the uid and gid of the user nobody, which owns no files.
const nobody = 65534

// account is the user that servers run as. A nil account is the user that runs
// slipway.
type account struct{ uid, gid uint32 }

// unprivileged returns the account for servers. It is the user that runs slipway,
// unless that is root: Postgres refuses to run as root. In that case it is the user
// postgres or, if that does not exist, nobody.
func unprivileged() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if _, unknown := errors.AsType[user.UnknownUserError](err); unknown {
		return &account{nobody, nobody}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up user postgres: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the uid of user postgres: %w", err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reading the gid of user postgres: %w", err)
	}
	return &account{uint32(uid), uint32(gid)}, nil
}

// credential returns the credential for the processes of the account.
func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// chown makes the account the owner of a file or directory.
func (a *account) chown(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// home is the directory with the data of a set of services. The process that owns
// it holds a lock. If the process dies, the kernel releases the lock, and the next
// start removes the directory.
type home struct {
	path string
	lock *os.File
}

// newHome removes the directories of dead runs in parent and creates a locked
// directory there.
func newHome(parent string, acc *account) (*home, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	if acc != nil && !searchable(parent) {
		parent = "/tmp"
	}
	if err := sweep(parent); err != nil {
		return nil, err
	}
	for {
		path, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return nil, fmt.Errorf("creating a directory for services: %w", err)
		}
		lock, err := lockDir(path)
		if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) {
			continue // a concurrent run is removing it, or has removed it
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
		h := &home{path, lock}
		if acc != nil {
			// The servers need search permission, but nobody needs to list it.
			if err := os.Chmod(path, 0o711); err != nil {
				h.remove()
				return nil, fmt.Errorf("setting the mode of the directory for services: %w", err)
			}
		}
		return h, nil
	}
}

// folder creates a directory in h that the account owns.
func (h *home) folder(name string, acc *account) (string, error) {
	path := filepath.Join(h.path, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("creating the data directory: %w", err)
	}
	if err := acc.chown(path); err != nil {
		return "", fmt.Errorf("changing the owner of the data directory: %w", err)
	}
	return path, nil
}

// remove removes the directory and releases its lock. If that fails, the next start
// retries.
func (h *home) remove() {
	_ = os.RemoveAll(h.path)
	_ = h.lock.Close()
}

// sweep removes the directories of dead runs in parent.
func sweep(parent string) error {
	paths, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return fmt.Errorf("searching %s for the directories of earlier runs: %w", parent, err)
	}
	for _, path := range paths {
		lock, err := lockDir(path)
		if err != nil {
			continue // in use, removed by another run, or owned by another user
		}
		(&home{path, lock}).remove()
	}
	return nil
}

// errLocked is the error for a directory that another process has locked.
var errLocked = errors.New("locked")

// lockDir locks a directory without waiting. The lock is on the directory itself,
// because a lock file in it could be locked only some time after the directory was
// created.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	// If another run has removed the directory before it was locked, the path is
	// missing or is another directory.
	locked, err := f.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = os.Stat(path); err == nil && !os.SameFile(locked, named) {
			err = errLocked
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// searchable reports whether all users have search permission for dir and all its
// parents.
func searchable(dir string) bool {
	for dir = filepath.Clean(dir); ; dir = filepath.Dir(dir) {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
