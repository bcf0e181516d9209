//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// down stops the cluster and deletes everything that belongs to it. It reports
// whether the cluster existed.
func down(ctx context.Context, c *Cluster) (existed bool, err error) {
	if _, err := os.Stat(c.Dir); errors.Is(err, fs.ErrNotExist) {
		// If somebody deleted the state directory, the interface and the cgroups
		// may still exist.
		return false, tearDown(c)
	}
	unlock, err := c.Lock(ctx, nil)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := tearDown(c); err != nil {
		return true, err
	}
	if err := os.Remove(c.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true, fmt.Errorf("deleting the state directory: %w", err)
	}
	return true, nil
}

// tearDown stops all processes of the cluster and deletes everything in its state
// directory. It also works after a crash at any point. The directory itself
// remains, because the caller holds its lock.
func tearDown(c *Cluster) error {
	if r, err := c.Record(); err == nil {
		if err := r.Host.Stop(10 * time.Second); err != nil {
			return err
		}
		// The kernel kills the node together with its host process. This waits
		// until the node has ended.
		if err := r.Init.Stop(0); err != nil {
			return err
		}
	}
	if err := disconnect(c); err != nil {
		return err
	}
	if err := removeCgroups(c); err != nil {
		return err
	}
	if err := unmountBelow(c.Dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the state directory: %w", err)
	}
	// The record is deleted last, so that down can be run again if it is
	// interrupted.
	for _, entry := range entries {
		if entry.Name() != "cluster.json" {
			err = errors.Join(err, os.RemoveAll(c.Path(entry.Name())))
		}
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.RemoveAll(c.Path("cluster.json"))
	}
	if err != nil {
		return fmt.Errorf("deleting the contents of the state directory: %w", err)
	}
	return nil
}
