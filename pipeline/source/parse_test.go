package source

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

func TestParseStatus(t *testing.T) {
	const oid = "0123456789abcdef0123456789abcdef01234567"
	for name, tt := range map[string]struct {
		out     string
		commit  string
		changed []string
		fails   bool
	}{
		"clean":          {"# branch.oid " + oid + "\x00# branch.head main\x00", oid, nil, false},
		"no commit yet":  {"# branch.oid (initial)\x00# branch.head main\x00? a b\nc\x00", "", []string{"a b\nc"}, false},
		"ordinary":       {"1 .M N... 100644 100644 100644 " + oid + " " + oid + " a b\x00", "", []string{"a b"}, false},
		"renamed":        {"2 R. N... 100644 100644 100644 " + oid + " " + oid + " R100 new\x00old\x00? x\x00", "", []string{"new", "x"}, false},
		"unmerged":       {"u UU N... 100644 100644 100644 100644 " + oid + " " + oid + " " + oid + " f\x00", "", []string{"f"}, false},
		"ignored":        {"! bin/\x00", "", nil, false},
		"header of new":  {"# stash 3\x00# branch.ab +1 -0\x00", "", nil, false},
		"cut off":        {"? a", "", nil, true},
		"cut off rename": {"2 R. N... 100644 100644 100644 " + oid + " " + oid + " R100 new\x00old", "", nil, true},
		"unknown":        {"3 x\x00", "", nil, true},
		"empty entry":    {"\x00", "", nil, true},
		"no path":        {"1 .M N... 100644 100644 100644 " + oid + " " + oid + " \x00", "", nil, true},
		"no hash":        {"# branch.oid HEAD\x00", "", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStatus([]byte(tt.out))
			if tt.fails != (err != nil) || err == nil && (got.commit != tt.commit || !slices.Equal(got.changed, tt.changed)) {
				t.Errorf("got %+v, %v", got, err)
			}
		})
	}
}

func FuzzStatus(f *testing.F) {
	f.Add([]byte("# branch.oid 0123\x00? a\x001 .M N... 1 2 3 a 0 b\x002 R. N... 1 2 3 a 0 R1 new\x00old\x00"))
	f.Add([]byte("u UU N... 1 2 3 4 a 0 b f\x00! x\x00"))
	f.Fuzz(func(t *testing.T, out []byte) {
		st, err := parseStatus(out)
		if err != nil {
			return
		}
		if strings.Trim(st.commit, "0123456789abcdef") != "" || slices.Contains(st.changed, "") {
			t.Errorf("got %+v", st)
		}
		if len(st.changed) > bytes.Count(out, []byte{0}) {
			t.Errorf("%d files in %d entries", len(st.changed), bytes.Count(out, []byte{0}))
		}
	})
}

func FuzzFilters(f *testing.F) {
	f.Add([]byte("global\x00filter.lfs.clean\ngit-lfs clean -- %f\x00local\x00filter.lfs.clean\nevil\x00"))
	f.Add([]byte("local\x00filter.a.b.process\nx\x00worktree\x00filter..required\ntrue"))
	f.Fuzz(func(t *testing.T, out []byte) {
		for _, s := range parseFilters(out) {
			if !strings.HasPrefix(s[0], "filter.") {
				t.Errorf("the setting %q was changed", s[0])
			}
		}
	})
}

func FuzzCommit(f *testing.F) {
	f.Add([]byte("tree x\nauthor A <a@example.com> 1 +0000\ncommitter A <a@example.com> 1790000000 +0800\n\nmessage\n"))
	f.Add([]byte("committer > 1\n"))
	f.Fuzz(func(t *testing.T, object []byte) {
		at, err := commitTime(object)
		if err == nil && (at.Unix() < 0 || at.Unix() > maxEpoch) {
			t.Errorf("got %v", at)
		}
	})
}

func FuzzList(f *testing.F) {
	f.Add([]byte(`{"Dir":"/a","Name":"main","GoFiles":["a.go"],"Module":{"Path":"x"}}{"Dir":"/b"}`))
	f.Add([]byte(`{"Dir":`))
	f.Fuzz(func(t *testing.T, out []byte) {
		packages, err := toolchain.Values[listed](out)
		if err != nil {
			return
		}
		s := Source{Dir: "/a", Module: "x"}
		for _, p := range packages {
			s.isMain(p)
		}
	})
}
