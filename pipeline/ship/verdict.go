package ship

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// verdict is the result of a gate. Only verdicts that passed are stored.
type verdict[T any] struct {
	At     time.Time
	Result T
}

func (v verdict[T]) age() string { return "(" + humanize.Time(v.At) + ")" }

// verdictKey returns a key that identifies everything that a verdict depends on.
func (p *run) verdictKey(stage string, settings, given any) (string, error) {
	fingerprint, err := p.fingerprint()
	if err != nil {
		return "", err
	}
	data, err := json.Marshal([]any{"1", stage, fingerprint, p.source.Dir, p.Reports, p.toolchain.Version, p.Config.App, settings, given})
	if err != nil {
		return "", fmt.Errorf("identifying the verdict: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]) + ".json", nil
}

// loadVerdict loads the verdict of an earlier run into v and reports whether there is
// one. With [Options.Force] it returns false.
func (p *run) loadVerdict(v any, key string) bool {
	return !p.Force && p.Cache.Load(v, "verdicts", key)
}

// storeVerdict stores a verdict for later runs. An error is only a warning, because the
// next run then runs the gate again.
func (p *run) storeVerdict(ctx context.Context, v any, key string) {
	if err := p.Cache.Store(v, "verdicts", key); err != nil {
		progress.Warnf(ctx, "the verdict is not kept, so the next run starts over: %v", err)
	}
}

func allExist(files []string) bool {
	return !slices.ContainsFunc(files, func(f string) bool {
		_, err := os.Stat(f)
		return f == "" || err != nil
	})
}
