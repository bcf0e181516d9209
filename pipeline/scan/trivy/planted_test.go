package trivy_test

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// TestPlantedDatabase replaces the database in the cache by one without advisories that has
// the same size and the same time of modification. It is not believed, and what is believed
// without reading it is only the file that slipway has written.
func TestPlantedDatabase(t *testing.T) {
	o, file := fetchedDatabase(t)
	honest, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	planted := bytes.ReplaceAll(honest, []byte("CVE-"), []byte("EVC-"))
	if bytes.Equal(planted, honest) {
		t.Fatal("there is nothing to replace, so this test shows nothing")
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	plant := func(content []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file, content, 0o644), os.Chtimes(file, time.Time{}, before.ModTime())); err != nil {
			t.Fatal(err)
		}
	}
	plant(planted)
	o.Settings.Offline = true
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.no-database" {
		t.Errorf("offline, with a planted database: %v", err)
	}
	plant(honest)
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Errorf("offline, with a copy of the same database: %v", err)
	}
	plant(planted)
	o.Settings.Offline = false
	if _, err := scanner.Scan(t.Context(), o); fault.CodeOf(err) != "scan.findings" {
		t.Errorf("with a planted database: %v", err)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, honest) {
		t.Errorf("the planted database was not replaced: %v", err)
	}
}
