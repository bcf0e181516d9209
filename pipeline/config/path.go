package config

import (
	"path/filepath"
	"strings"
)

// Resolve returns the path that a setting of slipway.yaml stands for. A relative
// path is relative to root, the folder of slipway.yaml. An absolute path, an
// empty one, and a reference with a scheme such as env://NAME or
// awskms:///alias/release are returned as they are.
func Resolve(root, path string) string {
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(root, path)
}
