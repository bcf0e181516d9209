package test

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"unicode/utf8"
)

const (
	// maxLine is the length in bytes up to which a line is passed on unchanged. The
	// reader of testjson is a [bufio.Scanner], which fails at 64 KiB.
	maxLine = 60 << 10
	// maxText is the length in bytes of the output in an event that was split.
	// Encoded as JSON, a text becomes at most six times as long.
	maxText = 8 << 10
	// maxKept is how many bytes of a line are kept in memory. The rest of a longer
	// line is dropped.
	maxKept = 32 << 20
)

// lineSplitter is a writer that passes lines on to w. It makes sure that no line is
// longer than testjson can read: an event with a long output, for example the
// warnings of a C compiler, becomes several events, and any other long line is cut.
type lineSplitter struct {
	w    io.Writer
	line []byte // the current line, as long as it is not complete
}

// Write handles every line that p completes. It returns the errors of w.
func (s *lineSplitter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			s.keep(p)
			return n, nil
		}
		s.keep(p[:i])
		if err := s.flush(); err != nil {
			return 0, err
		}
		p = p[i+1:]
	}
}

// Close writes the last line if it has no newline at its end.
func (s *lineSplitter) Close() error {
	if len(s.line) == 0 {
		return nil
	}
	return s.flush()
}

func (s *lineSplitter) keep(p []byte) {
	s.line = append(s.line, p[:min(len(p), maxKept-len(s.line))]...)
}

func (s *lineSplitter) flush() error {
	lines := [][]byte{s.line}
	if len(s.line) > maxLine {
		lines = splitLine(s.line)
	}
	for _, line := range lines {
		if _, err := s.w.Write(append(line, '\n')); err != nil {
			return err
		}
	}
	s.line = s.line[:0]
	return nil
}

// splitLine returns the lines that stand for a long line.
func splitLine(line []byte) [][]byte {
	event := map[string]json.RawMessage{}
	var output string
	if json.Unmarshal(line, &event) != nil || json.Unmarshal(event["Output"], &output) != nil || len(line)-len(event["Output"]) > maxText {
		return [][]byte{[]byte(cutText(string(line), maxText) + "...")}
	}
	var lines [][]byte
	for output != "" {
		text := cutText(output, maxText)
		output = output[len(text):]
		var err error
		if event["Output"], err = json.Marshal(text); err != nil {
			continue // a string can always be encoded
		}
		part, err := json.Marshal(event)
		if err != nil {
			continue // all values were decoded from JSON
		}
		lines = append(lines, part)
	}
	return lines
}

// cutText returns the beginning of a text with at most limit bytes. It ends after a
// newline, if there is one, and never within a character.
func cutText(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	if i := strings.LastIndexByte(text[:limit], '\n'); i >= 0 {
		return text[:i+1]
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
