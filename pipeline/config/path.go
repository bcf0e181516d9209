package config

import (
	"path/filepath"
	"strings"
)

// Resolve returns the path that a setting of slipway.yaml refers to. A relative path
// is resolved against root, the folder of slipway.yaml. An empty path, an absolute
// path, and a reference with a scheme, for example env://NAME or
// awskms:///alias/release, are returned unchanged.
func Resolve(root, path string) string {
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(root, path)
}
