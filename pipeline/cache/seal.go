package cache

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// sealed is an entry of the cache as it is stored. Entries are believed only if they were
// written with the key of this machine, because programs other than slipway can write to
// the cache: a CI system that restores it, or another job on the same machine.
type sealed struct {
	Seal  []byte          `json:"seal"` // HMAC-SHA256 of the name of the entry and its value
	Value json.RawMessage `json:"value"`
}

// errNoKey says that this machine has no key and none can be made, for example because
// there is no home folder.
var errNoKey = errors.New("there is no key for the cache")

// keySize is the size of the key in bytes.
const keySize = sha256.Size

// keyFile returns the file of the key. It is not in the cache, which can be restored from
// elsewhere, and programs in a sandbox cannot read it.
func keyFile() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "slipway", "cache.key"), nil
}

// loadKey returns the key of this machine. If there is none and create is true, it makes
// one.
func loadKey(create bool) ([]byte, error) {
	file, err := keyFile()
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(file)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%s is not a key: remove it", file)
	}
	if !errors.Is(err, fs.ErrNotExist) || !create {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, err
	}
	// Of several runs that make a key, the first one wins, and no run sees half of it.
	tmp, err := os.CreateTemp(filepath.Dir(file), ".key-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	key = make([]byte, keySize)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	_, err = tmp.Write(key)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), file); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return os.ReadFile(file)
}

// seal returns the seal of an entry. It covers the name, so that no entry can take the
// place of another one.
func seal(key []byte, name string, value []byte) []byte {
	h := hmac.New(sha256.New, key)
	fmt.Fprintf(h, "%q\n", filepath.ToSlash(name))
	_, _ = h.Write(value) // never fails, see package hash
	return h.Sum(nil)
}

// encode returns an entry with its seal.
func encode(name string, v any) ([]byte, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding a cache entry: %w", err)
	}
	key, err := loadKey(true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoKey, err)
	}
	return json.Marshal(sealed{seal(key, name, value), value})
}

// decode reads an entry into v. It returns false if the entry is damaged, or was not
// written with the key of this machine.
func decode(name string, data []byte, v any) bool {
	var s sealed
	if json.Unmarshal(data, &s) != nil {
		return false
	}
	key, err := loadKey(false)
	if err != nil || !hmac.Equal(s.Seal, seal(key, name, s.Value)) {
		return false
	}
	return json.Unmarshal(s.Value, v) == nil
}

// MachineKey returns a key of this machine for a purpose, which is not the key of the
// cache and does not reveal it. The first call makes the key of the machine. It returns
// an error if there is no place for that, for example no home folder.
func MachineKey(purpose string) ([]byte, error) {
	key, err := loadKey(true)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoKey, err)
	}
	return seal(key, "purpose", []byte(purpose)), nil
}
