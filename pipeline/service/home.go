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

// prefix begins the name of every directory that holds services' data.
const prefix = "slipway-service-"

// nobody is the uid and gid that own nothing, on every Linux distribution.
const nobody = 65534

// account is the user that servers run as; nil means the caller's own.
type account struct{ uid, gid uint32 }

// unprivileged returns the account for servers: the caller's own, but never
// root, as which Postgres refuses to run.
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

func (a *account) credential() *syscall.Credential {
	if a == nil {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid}
}

// own hands a file or directory to the account.
func (a *account) own(path string) error {
	if a == nil {
		return nil
	}
	return os.Chown(path, int(a.uid), int(a.gid))
}

// home is the directory that holds the data of one set of services. It is
// locked while its owner lives: the kernel frees the lock when the owner dies,
// however it dies, and the next start removes the directory.
type home struct {
	path string
	lock *os.File
}

// newHome removes what dead runs left in parent and makes a locked directory
// there.
func newHome(parent string, acc *account) (*home, error) {
	if parent == "" {
		parent = os.TempDir()
	}
	if acc != nil && !passable(parent) {
		parent = "/tmp"
	}
	if err := sweep(parent); err != nil {
		return nil, err
	}
	for {
		path, err := os.MkdirTemp(parent, prefix)
		if err != nil {
			return nil, fmt.Errorf("making a directory for services: %w", err)
		}
		lock, err := lockDir(path)
		if errors.Is(err, errLocked) || errors.Is(err, fs.ErrNotExist) {
			continue // somebody else's sweep came between
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(path))
		}
		h := &home{path, lock}
		if acc != nil {
			// Other users may pass through, not look around.
			if err := os.Chmod(path, 0o711); err != nil {
				h.remove()
				return nil, fmt.Errorf("opening the services' directory to their user: %w", err)
			}
		}
		return h, nil
	}
}

// folder makes a directory in h that belongs to the account.
func (h *home) folder(name string, acc *account) (string, error) {
	path := filepath.Join(h.path, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("making the data directory: %w", err)
	}
	if err := acc.own(path); err != nil {
		return "", fmt.Errorf("handing over the data directory: %w", err)
	}
	return path, nil
}

// remove removes the directory and frees its lock. What cannot be removed now
// is swept by the next start.
func (h *home) remove() {
	_ = os.RemoveAll(h.path)
	_ = h.lock.Close()
}

// sweep removes the services' directories in parent whose owners are dead.
func sweep(parent string) error {
	paths, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return fmt.Errorf("looking for old services in %s: %w", parent, err)
	}
	for _, path := range paths {
		lock, err := lockDir(path)
		if err != nil {
			continue // in use, gone meanwhile, or another user's
		}
		(&home{path, lock}).remove()
	}
	return nil
}

var errLocked = errors.New("locked")

// lockDir locks a directory without waiting. The lock is on the directory
// itself: a lock file inside would leave a moment in which the directory is
// there and its lock is not.
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
	// Between opening and locking it may have been swept: then the lock is on a
	// directory without a name.
	mine, err := f.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = os.Stat(path); err == nil && !os.SameFile(mine, named) {
			err = errLocked
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// passable tells whether every user may pass through dir.
func passable(dir string) bool {
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
