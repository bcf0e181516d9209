package starter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"github.com/slipway-ci/slipway/charts"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Eject writes slipway's own chart into the folder dir, under the name of the app and with the
// values that describe the app as defaults. What is deployed with it is the same as before.
//
// It returns a [fault.Input] error if dir exists. If it fails, dir does not exist afterwards.
func Eject(dir, app string, values map[string]any) error {
	if _, err := os.Lstat(dir); err == nil {
		return fault.Inputf("chart.exists", "%s exists already", dir).WithFix("remove it, or write the chart to another folder with --to DIR")
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("writing the chart to %s: %w", dir, err)
	}
	temporary, err := os.MkdirTemp(parent, ".chart-")
	if err != nil {
		return fmt.Errorf("writing the chart to %s: %w", dir, err)
	}
	err = eject(temporary, app, values)
	if err == nil {
		err = os.Rename(temporary, dir)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the chart to %s: %w", dir, err), os.RemoveAll(temporary))
	}
	return nil
}

func eject(dir, app string, values map[string]any) error {
	files, err := charts.Service()
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, files); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // a temporary folder is private
		return err
	}
	// The README describes the chart as a part of slipway.
	readme := "# Chart " + app + "\n\nWritten by `slipway chart eject`. [values.yaml](values.yaml) describes all values, and `charts/workload` contains the\ntemplates of the objects.\n"
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte(readme), 0o644); err != nil {
		return err
	}
	about := map[string]any{"name": app, "description": "The chart of " + app + ".", "home": nil, "sources": nil, "keywords": nil}
	for name, changes := range map[string]map[string]any{"Chart.yaml": about, "values.yaml": values} {
		file := filepath.Join(dir, name)
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		changed, err := edit(raw, changes)
		if err != nil {
			return fmt.Errorf("changing %s: %w", name, err)
		}
		if err := os.WriteFile(file, changed, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// edit sets values in a YAML document and keeps its comments. A value of nil removes the key.
func edit(raw []byte, values map[string]any) ([]byte, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, err
	}
	if err := set(document.Content[0], values); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(&document); err != nil {
		return nil, err
	}
	return out.Bytes(), encoder.Close()
}

func set(into *yaml.Node, values map[string]any) error {
	for key, value := range values {
		i := 0
		for i < len(into.Content) && into.Content[i].Value != key {
			i += 2
		}
		found := i < len(into.Content)
		if value == nil {
			if found {
				into.Content = append(into.Content[:i], into.Content[i+2:]...)
			}
			continue
		}
		if inner, ok := value.(map[string]any); ok && found && into.Content[i+1].Kind == yaml.MappingNode {
			if err := set(into.Content[i+1], inner); err != nil {
				return err
			}
			into.Content[i+1].Style &^= yaml.FlowStyle
			continue
		}
		var node yaml.Node
		if err := node.Encode(withoutNulls(value)); err != nil {
			return err
		}
		if found {
			into.Content[i+1] = &node
			continue
		}
		into.Content = append(into.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &node)
	}
	return nil
}

// withoutNulls removes keys whose value is nil from maps.
func withoutNulls(value any) any {
	m, ok := value.(map[string]any)
	if !ok {
		return value
	}
	out := map[string]any{}
	for k, v := range m {
		if v != nil {
			out[k] = withoutNulls(v)
		}
	}
	return out
}
