package test

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/tools/cover"
)

// coverage is a coverage profile with the functions in the files.
type coverage struct {
	profile    []byte // as written by go test
	files      []coveredFile
	statements int // number of statements in functions, as counted by go tool cover
	covered    int // number of statements that ran
	malformed  int // number of lines in the profile that cannot be parsed
}

type coveredFile struct {
	pkg   string // import path
	path  string // relative to the module, with slashes; an import path if other is true
	other bool   // the file belongs to another module
	lines lineHits
	funcs []coveredFunc
}

type coveredFunc struct {
	name  string
	lines lineHits
}

// lineHits maps every line with a statement to how often it ran.
type lineHits map[int]int

// emptyProfile is the profile of go test if there are no statements.
const emptyProfile = "mode: atomic\n"

// readCoverage reads the profile that go test wrote for the module in dir. If it is
// missing, because nothing compiled, the result is the same as for an empty one. If it
// cannot be read, that result is returned together with the error.
//
// A file whose functions cannot be found counts as a file of another module: one that
// does not exist or is not Go, because a //line comment named it, and one of a module
// that is located elsewhere.
func readCoverage(profile, dir, module string) (*coverage, error) {
	data, err := os.ReadFile(profile)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		data, err = []byte(emptyProfile), nil
	}
	if err != nil {
		return &coverage{profile: []byte(emptyProfile)}, fmt.Errorf("reading the coverage profile: %w", err)
	}
	profiles, malformed := parseProfile(data)
	c := &coverage{profile: data, malformed: malformed}
	for _, p := range profiles {
		f := coveredFile{pkg: path.Dir(p.FileName), path: p.FileName, other: true, lines: lineHits{}}
		var funcs []extent
		if rel, ok := strings.CutPrefix(p.FileName, module+"/"); ok && filepath.IsLocal(filepath.FromSlash(rel)) {
			if found, err := extents(filepath.Join(dir, filepath.FromSlash(rel))); err == nil {
				f.path, f.other, funcs = rel, false, found
			}
		}
		for _, b := range p.Blocks {
			f.lines.add(b)
		}
		for _, fn := range funcs {
			lines := lineHits{}
			for _, b := range p.Blocks {
				if fn.contains(b) {
					lines.add(b)
					c.count(b)
				}
			}
			f.funcs = append(f.funcs, coveredFunc{fn.name, lines})
		}
		if f.other { // the source is not available, so all blocks are counted
			for _, b := range p.Blocks {
				c.count(b)
			}
		}
		c.files = append(c.files, f)
	}
	return c, nil
}

// count adds the statements of a block.
func (c *coverage) count(b cover.ProfileBlock) {
	c.statements += b.NumStmt
	if b.Count > 0 {
		c.covered += b.NumStmt
	}
}

// percent returns the percentage of statements that ran.
func (c *coverage) percent() float64 {
	return 100 * float64(c.covered) / float64(max(1, c.statements))
}

// add adds the lines of a block.
func (l lineHits) add(b cover.ProfileBlock) {
	if b.NumStmt == 0 {
		return
	}
	for n := b.StartLine; n <= b.EndLine; n++ {
		// Two blocks may share a line. The line ran if one of the blocks did.
		l[n] = max(l[n], b.Count)
	}
}

// rate returns how many lines ran, and how many lines there are.
func (l lineHits) rate() (covered, valid int) {
	for _, hits := range l {
		if hits > 0 {
			covered++
		}
	}
	return covered, len(l)
}

// extent is the position of a function in its file.
type extent struct {
	name                                 string
	startLine, startCol, endLine, endCol int
}

// contains reports whether a block begins and ends in the function.
func (e extent) contains(b cover.ProfileBlock) bool {
	begins := cmp.Or(cmp.Compare(b.StartLine, e.startLine), cmp.Compare(b.StartCol, e.startCol)) >= 0
	ends := cmp.Or(cmp.Compare(b.EndLine, e.endLine), cmp.Compare(b.EndCol, e.endCol)) <= 0
	return begins && ends
}

// extents returns the positions of the functions declared in a file, in order.
func extents(file string) ([]extent, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	var found []extent
	for _, decl := range f.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		// Unlike Position, PositionFor ignores //line comments, as coverage profiles do.
		start, end := fset.PositionFor(fn.Pos(), false), fset.PositionFor(fn.End(), false)
		found = append(found, extent{funcName(fn), start.Line, start.Column, end.Line, end.Column})
	}
	return found, nil
}

// funcName returns the name of a function, or "Type.Name" for a method.
func funcName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.ParenExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.Name + "." + fn.Name.Name
		default:
			return fn.Name.Name
		}
	}
}

// The elements of Cobertura's DTD, see [doctype].
type (
	xmlCoverage struct {
		XMLName         xml.Name    `xml:"coverage"`
		LineRate        string      `xml:"line-rate,attr"`
		BranchRate      string      `xml:"branch-rate,attr"`
		LinesCovered    int         `xml:"lines-covered,attr"`
		LinesValid      int         `xml:"lines-valid,attr"`
		BranchesCovered int         `xml:"branches-covered,attr"`
		BranchesValid   int         `xml:"branches-valid,attr"`
		Complexity      string      `xml:"complexity,attr"`
		Version         string      `xml:"version,attr"`
		Timestamp       int64       `xml:"timestamp,attr"` // milliseconds
		Sources         []string    `xml:"sources>source"`
		Packages        xmlPackages `xml:"packages"` // required even if empty
	}
	xmlPackages struct {
		Package []xmlPackage `xml:"package"`
	}
	xmlPackage struct {
		Name string `xml:"name,attr"`
		xmlRates
		Classes []xmlClass `xml:"classes>class"`
	}
	xmlClass struct {
		Name     string `xml:"name,attr"`
		Filename string `xml:"filename,attr"`
		xmlRates
		Methods xmlMethods `xml:"methods"`
		Lines   xmlLines   `xml:"lines"`
	}
	xmlMethods struct {
		Method []xmlMethod `xml:"method"`
	}
	xmlMethod struct {
		Name      string `xml:"name,attr"`
		Signature string `xml:"signature,attr"`
		xmlRates
		Lines xmlLines `xml:"lines"`
	}
	xmlLines struct {
		Line []xmlLine `xml:"line"`
	}
	xmlLine struct {
		Number int `xml:"number,attr"`
		Hits   int `xml:"hits,attr"`
	}
	xmlRates struct {
		LineRate   string `xml:"line-rate,attr"`
		BranchRate string `xml:"branch-rate,attr"`
		Complexity string `xml:"complexity,attr"`
	}
)

const doctype = `<!DOCTYPE coverage SYSTEM "http://cobertura.sourceforge.net/xml/coverage-04.dtd">` + "\n"

// cobertura returns the profile as Cobertura XML. A package of Cobertura is a Go
// package, a class is a file, and a method is a function. Go does not measure
// branches and complexity, but the DTD requires these attributes. base is prepended
// to the paths.
func (c *coverage) cobertura(base string, at time.Time) ([]byte, error) {
	doc := xmlCoverage{
		BranchRate: "0", Complexity: "0", Version: "1", Timestamp: at.UnixMilli(),
		Sources: []string{"."},
	}
	packages := map[string]*xmlPackage{}
	counts := map[string][2]int{}
	for _, f := range c.files {
		p := packages[f.pkg]
		if p == nil {
			p = &xmlPackage{Name: f.pkg}
			packages[f.pkg] = p
		}
		class := xmlClass{Name: path.Base(f.path), Filename: f.path, xmlRates: f.lines.rates(), Lines: f.lines.xml()}
		if !f.other {
			class.Filename = path.Join(base, f.path)
		}
		for _, fn := range f.funcs {
			class.Methods.Method = append(class.Methods.Method, xmlMethod{
				Name: fn.name, Signature: "()", xmlRates: fn.lines.rates(), Lines: fn.lines.xml(),
			})
		}
		p.Classes = append(p.Classes, class)
		covered, valid := f.lines.rate()
		counts[f.pkg] = [2]int{counts[f.pkg][0] + covered, counts[f.pkg][1] + valid}
		doc.LinesCovered += covered
		doc.LinesValid += valid
	}
	doc.LineRate = ratio(doc.LinesCovered, doc.LinesValid)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		p := packages[name]
		p.xmlRates = xmlRates{ratio(counts[name][0], counts[name][1]), "0", "0"}
		doc.Packages.Package = append(doc.Packages.Package, *p)
	}
	body, err := xml.MarshalIndent(doc, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("encoding the Cobertura report: %w", err)
	}
	return slices.Concat([]byte(xml.Header+doctype), body, []byte{'\n'}), nil
}

func (l lineHits) rates() xmlRates {
	covered, valid := l.rate()
	return xmlRates{ratio(covered, valid), "0", "0"}
}

func (l lineHits) xml() xmlLines {
	var lines xmlLines
	for _, n := range slices.Sorted(maps.Keys(l)) {
		lines.Line = append(lines.Line, xmlLine{n, l[n]})
	}
	return lines
}

func ratio(covered, valid int) string {
	return fmt.Sprintf("%.4f", float64(covered)/float64(max(1, valid)))
}
