package display

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/charmbracelet/x/ansi"
)

// Clean makes one line of text from outside safe to print: the output of a tool, a log, an
// event or a message of a cluster, the response of a registry, a name in a repository. It
// removes escape sequences, control characters except tabs, and characters that change the
// direction of text.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && hostile(r) {
			return -1
		}
		return r
	}, ansi.Strip(s))
}

// hostile reports whether a terminal can interpret a character instead of showing it.
func hostile(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// EscapeJSON escapes the characters in a JSON document that JSON need not escape and that
// terminals interpret. The document stays the same for every parser.
func EscapeJSON(doc []byte) []byte { return escape(doc, `\u%04x`) }

// EscapeXML escapes the characters in a document in XML that terminals interpret.
func EscapeXML(doc []byte) []byte { return escape(doc, "&#x%x;") }

// escape writes the characters above ASCII that a terminal interprets in a format.
func escape(doc []byte, format string) []byte {
	var b bytes.Buffer
	for _, r := range string(doc) {
		if r >= 0x7f && hostile(r) {
			fmt.Fprintf(&b, format, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.Bytes()
}

// EachLine returns a text whose lines were passed through clean.
func EachLine(text string, clean func(string) string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = clean(line)
	}
	return strings.Join(lines, "\n")
}

// LineWriter cleans every line that is written to it. Close writes the last line if it has
// no newline.
type LineWriter struct {
	w     io.Writer
	clean func(string) string
	line  bytes.Buffer
}

// Lines returns a writer that passes every line through clean and writes it to w.
func Lines(w io.Writer, clean func(string) string) *LineWriter {
	return &LineWriter{w: w, clean: clean}
}

// maxLine is the length of a line in bytes after which the rest of it is treated as the
// next line, so that a line without an end does not fill the memory.
const maxLine = 1 << 20

// Write implements [io.Writer].
func (l *LineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.line.Write(p)
			if l.line.Len() > maxLine {
				return n, l.Close()
			}
			return n, nil
		}
		l.line.Write(p[:i])
		p = p[i+1:]
		if _, err := io.WriteString(l.w, l.clean(l.line.String())+"\n"); err != nil {
			return n - len(p), err
		}
		l.line.Reset()
	}
	return n, nil
}

// Close writes what is left.
func (l *LineWriter) Close() error {
	if l.line.Len() == 0 {
		return nil
	}
	_, err := io.WriteString(l.w, l.clean(l.line.String()))
	l.line.Reset()
	return err
}

// Markdown makes a text from outside safe inside a line of Markdown: it has no markup,
// links or HTML in the summary of a run.
func Markdown(text string) string {
	return markup.Replace(Clean(text))
}

//nolint:gochecknoglobals // constant
var markup = strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "[", `\[`, "]", `\]`, "<", "&lt;", ">", "&gt;", "|", `\|`, "#", `\#`, "~", `\~`, "!", `\!`, "@", "&#64;")
