package config

import (
	"os"
	"strings"
	"testing"
)

func TestReadmeNamesEveryVariable(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if os.IsNotExist(err) {
		t.Skip("README.md does not exist; .dockerignore excludes it from builds")
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, env := range EnvVars() {
		if !strings.Contains(string(raw), "| `"+env.Name+"`") {
			t.Errorf("README.md does not document %s", env.Name)
		}
	}
}
