package ci

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"strings"
	"unicode"

	"github.com/slipway-ci/slipway/pipeline/display"
)

// Inert makes one line of text from outside safe for the log of the system: it removes
// what a terminal interprets, see [display.Clean], and on GitHub it breaks workflow
// commands. The runner executes commands in the form ::name:: at the beginning of a line,
// and in the older form ##[name] anywhere in it
// (https://github.com/actions/runner, src/Runner.Common/ActionCommand.cs).
func (s System) Inert(text string) string {
	text = display.Clean(text)
	if s.Name != "github" {
		return text
	}
	text = strings.ReplaceAll(text, "##[", "#\u200b#[")
	space := func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' }
	if strings.HasPrefix(strings.TrimLeftFunc(text, space), "::") {
		text = "\u200b" + text
	}
	return text
}

// InertJSON does the same for a JSON document, which stays the same for every parser. Its
// lines cannot begin with a command.
func (s System) InertJSON(doc []byte) []byte {
	doc = display.EscapeJSON(doc)
	if s.Name == "github" {
		doc = bytes.ReplaceAll(doc, []byte("##["), []byte(`#\u0023[`))
	}
	return doc
}

// inertXML does the same for a document in XML.
func (s System) inertXML(doc []byte) []byte {
	doc = display.EscapeXML(doc)
	if s.Name == "github" {
		doc = bytes.ReplaceAll(doc, []byte("##["), []byte("#&#35;["))
		doc = bytes.ReplaceAll(doc, []byte("::"), []byte(":&#58;"))
	}
	return doc
}

// InertDocument makes a document in JSON, XML or plain text safe for the log of the
// system. The document stays the same for every parser.
func (s System) InertDocument(doc []byte) []byte {
	switch {
	case json.Valid(doc):
		return s.InertJSON(doc)
	case xml.Unmarshal(doc, new(any)) == nil && bytes.HasPrefix(bytes.TrimSpace(doc), []byte("<")):
		return s.inertXML(doc)
	}
	return []byte(display.EachLine(string(doc), s.Inert))
}
