//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// cacheDir returns devcluster's directory in slipway's cache.
func cacheDir() (string, error) {
	if dir := os.Getenv("SLIPWAY_CACHE"); dir != "" {
		return filepath.Abs(filepath.Join(dir, "devcluster"))
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", usageError{fmt.Errorf("finding the cache directory: %w; set SLIPWAY_CACHE to a directory", err)}
	}
	return filepath.Join(dir, "slipway", "devcluster"), nil
}

// stateDir returns the state directory: the given one, or the default one
// if given is empty.
func stateDir(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "state"), nil
}

// everyCluster returns all clusters in the state directory, which may not
// exist.
func everyCluster(dir string) ([]*Cluster, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the state directory: %w", err)
	}
	var clusters []*Cluster
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		c, err := newCluster(dir, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the state directory %s: %w", dir, err)
		}
		clusters = append(clusters, c)
	}
	return clusters, nil
}
