package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"gotest.tools/gotestsum/testjson"
)

func split(t testing.TB, input []byte, chunk int) []string {
	t.Helper()
	var out bytes.Buffer
	s := &lineSplitter{w: &out}
	for len(input) > 0 {
		n := min(chunk, len(input))
		if _, err := s.Write(input[:n]); err != nil {
			t.Fatal(err)
		}
		input = input[n:]
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	scanner := bufio.NewScanner(&out) // as testjson does
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestLinesAreSplit(t *testing.T) {
	event := func(output string) string {
		data, err := json.Marshal(map[string]string{"Action": "build-output", "ImportPath": "example.com/c", "Output": output})
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	warnings := strings.Repeat("one.c:7:3: warning: suggest parentheses\n", 2500)
	for name, tt := range map[string]struct {
		line  string
		lines int    // more than one, if it is 2
		text  string // the joined output
	}{
		"short":          {event("a\n"), 1, "a\n"},
		"many warnings":  {event(warnings), 2, warnings},
		"no newline":     {event(strings.Repeat("x", 200_000)), 2, strings.Repeat("x", 200_000)},
		"control":        {event(strings.Repeat("\x01", 70_000)), 2, strings.Repeat("\x01", 70_000)},
		"multibyte":      {event("a" + strings.Repeat("ü", 70_000)), 2, "a" + strings.Repeat("ü", 70_000)},
		"not an event":   {strings.Repeat("y", 100_000), 1, ""},
		"other long key": {`{"Action":"output","Package":"` + strings.Repeat("p", 100_000) + `","Output":"x"}`, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for _, chunk := range []int{1 << 20, 4096, 1000} {
				lines := split(t, []byte("{\"Action\":\"start\"}\n"+tt.line+"\nlast"), chunk)
				if len(lines) < 3 || lines[0] != `{"Action":"start"}` || lines[len(lines)-1] != "last" || (len(lines) > 3) != (tt.lines > 1) {
					t.Fatalf("%d lines", len(lines))
				}
				var text strings.Builder
				for _, line := range lines[1 : len(lines)-1] {
					var e struct{ Action, ImportPath, Output string }
					if err := json.Unmarshal([]byte(line), &e); err != nil {
						if tt.text != "" {
							t.Fatal(err)
						}
						continue
					}
					if e.Action != "build-output" || e.ImportPath != "example.com/c" {
						t.Fatalf("%+v", e)
					}
					text.WriteString(e.Output)
				}
				if text.String() != tt.text {
					t.Errorf("%d bytes of output, want %d", text.Len(), len(tt.text))
				}
			}
		})
	}
}

func FuzzLineSplitter(f *testing.F) {
	f.Add([]byte("{\"Action\":\"output\",\"Output\":\"a\\n\"}\n"), 3)
	f.Add([]byte("x\n\n\xff"), 1)
	f.Fuzz(func(t *testing.T, input []byte, chunk int) {
		// Long lines are rare among random inputs, so one is made of the input.
		long := bytes.Repeat(bytes.ReplaceAll(input, []byte("\n"), nil), 1+maxLine/(1+len(input)))
		for _, in := range [][]byte{input, long} {
			for _, line := range split(t, in, 1+max(0, chunk%5000)) {
				if utf8.Valid(in) && !utf8.ValidString(line) {
					t.Errorf("a character was split in %q", line)
				}
			}
		}
		// testjson must accept whatever comes out.
		var out bytes.Buffer
		s := &lineSplitter{w: &out}
		if _, err := s.Write(long); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := testjson.ScanTestOutput(testjson.ScanConfig{Stdout: &out, IgnoreNonJSONOutputLines: true}); err != nil {
			t.Fatal(err)
		}
	})
}
