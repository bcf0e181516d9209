package toolchain

import (
	"os"
	"path/filepath"

	"golang.org/x/mod/modfile"
)

// toolchainLine returns the toolchain of the workspace, or of dir's go.mod if there is
// no workspace, or "" if the file has no toolchain line.
func toolchainLine(dir, workspace string) string {
	file, parse := workspace, workSyntax
	if workspace == WorkspaceOff {
		file, parse = filepath.Join(dir, "go.mod"), modSyntax
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "" // package source reports a missing go.mod, with a fix
	}
	syntax, err := parse(file, data)
	if err != nil {
		return "" // the go command reports it
	}
	for _, statement := range syntax.Stmt {
		line, ok := statement.(*modfile.Line)
		if ok && len(line.Token) == 2 && line.Token[0] == "toolchain" && line.Token[1] != "default" {
			return line.Token[1]
		}
	}
	return ""
}

// modSyntax returns the lines of a go.mod file. Directives of a newer Go are accepted.
// Their syntax is read because modfile.ParseLax drops the toolchain.
func modSyntax(name string, data []byte) (*modfile.FileSyntax, error) {
	f, err := modfile.ParseLax(name, data, nil)
	if err != nil {
		return nil, err
	}
	return f.Syntax, nil
}

// workSyntax returns the lines of a go.work file.
func workSyntax(name string, data []byte) (*modfile.FileSyntax, error) {
	f, err := modfile.ParseWork(name, data, nil)
	if err != nil {
		return nil, err
	}
	return f.Syntax, nil
}
