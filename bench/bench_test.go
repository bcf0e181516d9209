package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	identity := func(v float64) float64 { return v }
	for _, c := range []struct {
		in   []float64
		want spread
	}{
		{nil, spread{}},
		{[]float64{2}, spread{2, 2, 2}},
		{[]float64{3, 1, 2}, spread{2, 1, 3}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4}},
	} {
		if got := spreadOf(c.in, identity); got != c.want {
			t.Errorf("spreadOf(%v) = %v, want %v", c.in, got, c.want)
		}
	}
}

func sample() results {
	result := func(name string, change, idle float64, size int64) contestantResult {
		c := contestantResult{Name: name, Runs: map[scenario][]reading{cold: {{Wall: 9}}, changed: {{Wall: change}}, unchanged: {{Wall: idle}}}}
		if size > 0 {
			c.Image = &imageSize{Compressed: size}
		}
		return c
	}
	return results{Apps: []appResult{{
		Name: "a", ProgramGzip: 8_000_000, ProgramZstd: 8_000_000,
		Contestants: []contestantResult{
			result(goBuild, 2, 0.2, 0), result(koDefault, 4, 3, 20_000_000),
			result(ourZstd, 2.2, 0.3, 8_500_000), result(ourGzip, 3.2, 0.6, 13_000_000),
		},
	}}, Ship: &shipResult{App: "a", Contestants: []contestantResult{result(ourShip, 10, 3, 0), result(script, 20, 4, 0)}}}
}

func TestBars(t *testing.T) {
	var verdicts []string
	for _, b := range bars(sample().Apps, sample().Ship) {
		verdict := "ok"
		if !b.OK {
			verdict = "missed"
		}
		verdicts = append(verdicts, b.Shown+" "+verdict)
	}
	want := "1.10 x ok, 0.55 x ok, 0.30 s ok, 0.10 x ok, 0.42 x ok, 0.50 MB ok, " +
		"1.60 x missed, 0.80 x missed, 0.60 s missed, 0.20 x ok, 0.65 x missed, 5.00 MB missed, 0.50 x ok, 0.75 x missed"
	if got := strings.Join(verdicts, ", "); got != want {
		t.Errorf("bars:\n%s\nwant\n%s", got, want)
	}
}

func TestRenderIsRepeatable(t *testing.T) {
	o := options{out: t.TempDir()}
	if err := write(o, sample()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{readmeFile, "times.svg", "sizes.svg"} {
		first, err := os.ReadFile(filepath.Join(o.out, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := render(o); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(filepath.Join(o.out, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, again) {
			t.Errorf("%s differs when it is rendered again", name)
		}
	}
}

func TestTreeChanges(t *testing.T) {
	origin := t.TempDir()
	if err := os.WriteFile(filepath.Join(origin, "a.go"), []byte("const a = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := edit{File: "a.go", Old: `"x"`, New: `"x%d"`}
	tree, err := newTree(t.Context(), origin, filepath.Join(t.TempDir(), "app"), "", e)
	if err != nil {
		t.Fatal(err)
	}
	before := tree.commit
	for n, want := range []string{"const a = \"x0\"\n", "const a = \"x1\"\n"} {
		if err := tree.change(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(tree.dir, "a.go"))
		if err != nil || string(got) != want {
			t.Errorf("after change %d: %q, %v", n, got, err)
		}
		if tree.commit == before || len(tree.commit) != 40 {
			t.Errorf("change %d: commit %q", n, tree.commit)
		}
		before = tree.commit
	}
	e.Old = "absent"
	if _, err := newTree(t.Context(), origin, filepath.Join(t.TempDir(), "app"), "", e); err == nil {
		t.Error("no error for an edit whose text is not in the file")
	}
}

func TestPushedImageIsWeighed(t *testing.T) {
	reg, err := serve(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer reg.close()
	if !strings.HasPrefix(reg.addr, "127.0.0.1:") {
		t.Errorf("the registry listens on %s, not on 127.0.0.1", reg.addr)
	}
	reference, err := pushBase(t.Context(), reg.addr+"/base", append(accountFiles(), file{path: "bin/a", mode: 0o755, data: make([]byte, 5000)}, file{path: "bin/b", link: "a"}))
	if err != nil {
		t.Fatal(err)
	}
	size, err := weigh(t.Context(), reference)
	if err != nil {
		t.Fatal(err)
	}
	if size.Program != 5000 || len(size.Layers) != 1 || size.Compressed <= size.Layers[0] {
		t.Errorf("sizes: %+v", size)
	}
}

func TestArguments(t *testing.T) {
	for _, args := range [][]string{{"--apps", "nonesuch"}, {"--rounds", "0"}, {"extra"}, {"--nonesuch"}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != exitUsage {
			t.Errorf("%v: exit code %d", args, code)
		}
	}
	var help bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, &help, io.Discard); code != exitOK || !strings.Contains(help.String(), "-rounds") {
		t.Errorf("--help: exit code %d, %q", code, help.String())
	}
}

func TestBusy(t *testing.T) {
	r := sample()
	r.Machine = machine{CPUs: 2, Load: 3, Date: time.Unix(0, 0)}
	if !bytes.Contains(readme(r), []byte("was busy")) {
		t.Error("the README does not say that the machine was busy")
	}
}
