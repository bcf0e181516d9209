package ship

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/sealed"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// SealedSecrets reads the sealed Secrets of an environment. It returns none if the environment
// has no folder for them. All errors are [fault.Input] errors.
func SealedSecrets(root string, o deploy.Options) ([]deploy.SealedSecret, error) {
	if o.Settings.Sealed == "" {
		return nil, nil
	}
	for _, c := range o.Settings.Clusters {
		if c.Namespace != "" && c.Namespace != o.Namespace {
			return nil, fault.Inputf("seal.namespace", "sealed Secrets are for the namespace %s, but cluster %s uses %s", o.Namespace, c.Name, c.Namespace).
				WithFix("use the same namespace on all clusters of the environment, or an environment for each cluster")
		}
	}
	var all []deploy.SealedSecret
	for _, name := range slices.Sorted(maps.Keys(o.Settings.Secrets)) {
		file := sealedFile(o.Settings, name)
		text, err := os.ReadFile(config.Resolve(root, file))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fault.Inputf("seal.missing", "Secret %s is not sealed: there is no %s", name, file).
				WithFix("run slipway seal --env %s, and commit the file", o.Environment)
		}
		if err != nil {
			return nil, fault.Inputf("seal.file", "reading %s: %w", file, withoutPath(err))
		}
		s, err := sealed.Parse(file, text, o.Namespace, name)
		if err != nil {
			return nil, err
		}
		if err := s.Missing(file, slices.Sorted(maps.Keys(o.Settings.Secrets[name]))); err != nil {
			return nil, err
		}
		all = append(all, deploy.SealedSecret{Name: name, File: file, Manifest: text})
	}
	return all, nil
}

// sealedFile returns the path of a sealed Secret, relative to slipway.yaml.
func sealedFile(e config.Environment, secret string) string {
	return filepath.Join(e.Sealed, secret+".yaml")
}

// Sealed is a sealed Secret that was written.
type Sealed struct {
	Secret  string   `json:"secret"`
	File    string   `json:"file"` // relative to slipway.yaml
	Keys    []string `json:"keys"` // that were sealed
	Removed []string `json:"removed,omitempty"`
}

// Seal seals values from environment variables, which getenv looks up, for the Secrets of an
// environment, and writes them to its folder. only names the Secrets, as NAME or NAME/KEY; if
// it is empty, all of them are sealed. Keys that are not sealed again stay as they are. Keys
// that slipway.yaml does not list any more are removed. Nothing is written if a value is
// missing. Input errors are [fault.Input] errors.
func Seal(root string, o deploy.Options, c sealed.Certificate, only []string, getenv func(string) (string, bool)) ([]Sealed, error) {
	if o.Settings.Sealed == "" {
		return nil, fault.Inputf("seal.folder", "deploy.environments.%s.sealed is not set", o.Environment).
			WithFix("set it to the folder for the sealed Secrets, for example deploy/sealed/%s", o.Environment)
	}
	if len(o.Settings.Secrets) == 0 {
		return nil, fault.Inputf("seal.secrets", "deploy.environments.%s.secrets is empty, so there is nothing to seal", o.Environment).
			WithFix("list the Secrets, for example orders: {database-password: DATABASE_PASSWORD}")
	}
	wanted, err := selected(o, only)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	var done []Sealed
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		report, text, err := sealOne(root, o, c, name, wanted[name], getenv)
		if err != nil {
			return nil, err
		}
		files[report.File] = text
		done = append(done, report)
	}
	for _, report := range done {
		if err := writeWhole(root, report.File, files[report.File]); err != nil {
			return nil, fmt.Errorf("writing %s: %w", report.File, err)
		}
	}
	return done, nil
}

// selected returns the keys to seal of each Secret.
func selected(o deploy.Options, only []string) (map[string][]string, error) {
	all := map[string][]string{}
	if len(only) == 0 {
		for name, keys := range o.Settings.Secrets {
			all[name] = slices.Sorted(maps.Keys(keys))
		}
		return all, nil
	}
	for _, text := range only {
		name, key, one := strings.Cut(text, "/")
		keys, ok := o.Settings.Secrets[name]
		if _, has := keys[key]; !ok || one && !has {
			return nil, fault.Inputf("usage", "%s is not in deploy.environments.%s.secrets", text, o.Environment).
				WithFix("choose one of %s", strings.Join(slices.Sorted(maps.Keys(o.Settings.Secrets)), ", "))
		}
		switch {
		case one && !slices.Contains(all[name], key):
			all[name] = append(all[name], key)
		case !one:
			all[name] = slices.Sorted(maps.Keys(keys))
		}
	}
	return all, nil
}

// sealOne seals keys of a Secret, and returns the new content of its file.
func sealOne(root string, o deploy.Options, c sealed.Certificate, name string, keys []string, getenv func(string) (string, bool)) (Sealed, []byte, error) {
	report := Sealed{Secret: name, File: sealedFile(o.Settings, name), Keys: keys}
	listed := slices.Sorted(maps.Keys(o.Settings.Secrets[name]))
	s := sealed.New(o.Namespace, name)
	old, err := os.ReadFile(config.Resolve(root, report.File))
	if err == nil {
		err = sealed.Check(report.File, old)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return report, nil, err
	}
	if old != nil && len(keys) < len(listed) {
		if s, err = sealed.Parse(report.File, old, o.Namespace, name); err != nil {
			return report, nil, err
		}
		for _, key := range s.Keys() {
			if !slices.Contains(listed, key) {
				report.Removed = append(report.Removed, key)
			}
		}
		s.Keep(listed)
	}
	for _, key := range keys {
		variable := o.Settings.Secrets[name][key]
		value, ok := getenv(variable)
		if !ok {
			return report, nil, fault.Inputf("deploy.secret", "%s is not set, which is the value of %s in Secret %s", variable, key, name).
				WithFix("set the variable, or seal only other values by naming them as SECRET or SECRET/KEY")
		}
		if err := s.Seal(c, key, []byte(value)); err != nil {
			return report, nil, err
		}
	}
	text, err := s.Marshal()
	return report, text, err
}

// writeWhole writes a file in the folder root completely or not at all. It follows no symbolic
// link that leads out of the folder.
func writeWhole(root, name string, text []byte) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := r.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	temporary := name + ".new"
	err = r.WriteFile(temporary, text, 0o644)
	if err == nil {
		err = r.Rename(temporary, name)
	}
	if err != nil {
		return errors.Join(err, r.RemoveAll(temporary))
	}
	return nil
}
