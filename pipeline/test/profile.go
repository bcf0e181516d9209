package test

import (
	"bytes"
	"maps"
	"slices"

	"golang.org/x/tools/cover"
)

// parseProfile parses a coverage profile. It returns the profiles of all files, sorted
// by their names, and the number of lines that it could not parse.
//
// Each file is parsed by itself, because the cover package rejects a whole profile if a
// line is malformed or if two blocks at the same position have different numbers of
// statements. Code with //line comments can have such blocks
// (https://go.dev/issue/45361).
func parseProfile(data []byte) (profiles []*cover.Profile, malformed int) {
	mode, rest, _ := bytes.Cut(data, []byte{'\n'})
	files := map[string][][]byte{}
	for line := range bytes.Lines(rest) {
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			continue
		}
		name := line[:max(0, bytes.LastIndexByte(line, ':'))]
		files[string(name)] = append(files[string(name)], line)
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if p, ok := parseLines(mode, files[name]...); ok {
			profiles = append(profiles, p)
			continue
		}
		p, bad := parseSeparately(mode, files[name])
		malformed += bad
		if p != nil {
			profiles = append(profiles, p)
		}
	}
	return profiles, malformed
}

// parseLines parses lines of a profile that are about the same file.
func parseLines(mode []byte, lines ...[]byte) (*cover.Profile, bool) {
	text := bytes.Join(slices.Concat([][]byte{mode}, lines), []byte{'\n'})
	profiles, err := cover.ParseProfilesFromReader(bytes.NewReader(text))
	if err != nil || len(profiles) != 1 {
		return nil, false
	}
	return profiles[0], true
}

// parseSeparately parses every line by itself. It merges equal blocks and keeps blocks
// at the same position that have different numbers of statements.
func parseSeparately(mode []byte, lines [][]byte) (merged *cover.Profile, malformed int) {
	index := map[cover.ProfileBlock]int{} // by the block without its count
	for _, line := range lines {
		p, ok := parseLines(mode, line)
		if !ok {
			malformed++
			continue
		}
		if merged == nil {
			merged = &cover.Profile{FileName: p.FileName, Mode: p.Mode}
		}
		for _, b := range p.Blocks {
			key := b
			key.Count = 0
			if i, ok := index[key]; ok {
				merged.Blocks[i].Count += b.Count
				continue
			}
			index[key] = len(merged.Blocks)
			merged.Blocks = append(merged.Blocks, b)
		}
	}
	return merged, malformed
}
