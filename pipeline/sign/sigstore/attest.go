package sigstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/in-toto/in-toto-golang/in_toto"
	"github.com/sigstore/cosign/v2/pkg/oci"
	"github.com/sigstore/cosign/v2/pkg/types"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

const (
	envelopeType = types.DssePayloadType
	intotoType   = types.IntotoPayloadType
)

// Attest signs every statement and attaches it to each of its subjects. An
// older attestation of the same type by the same signer makes way for it; the
// same one stays as it is.
func Attest(ctx context.Context, o sign.AttestOptions) (sign.AttestResult, error) {
	start := time.Now()
	var s *signer
	var err error
	r := sign.AttestResult{Unchanged: true}
	// One subject's attestations share a tag, so they are written together.
	var order []string
	tasks := map[string]*task{}
	if len(o.Statements) == 0 {
		return sign.AttestResult{}, fault.Inputf("attest.nothing", "there is nothing to attest")
	}
	for _, what := range o.Statements {
		if s, err = own(what.For, o.Signer); err != nil {
			return sign.AttestResult{}, err
		}
		if err := check(what); err != nil {
			return sign.AttestResult{}, err
		}
		for _, sub := range what.For {
			key := sub.Digest.Name()
			if tasks[key] == nil {
				order = append(order, key)
				tasks[key] = &task{subject: sub.Digest}
			}
			t := tasks[key]
			if slices.ContainsFunc(t.what, func(w sign.Statement) bool { return w.PredicateType == what.PredicateType }) {
				return sign.AttestResult{}, fault.Inputf("attest.twice", "%s is to be attested twice with %s", key, what.PredicateType)
			}
			t.what, t.at = append(t.what, what), append(t.at, len(r.Attestations))
			r.Attestations = append(r.Attestations, sign.Attested{
				Reference: key, Platform: sub.Platform, Type: sign.TypeOf(what.PredicateType), PredicateType: what.PredicateType,
				Attestation: attestations.tag(sub.Digest).Name(), Unchanged: true,
			})
		}
	}
	r.Signer = s.who
	st := newStore(ctx, o.Remote, o.Backoff)
	st.settle = o.Settle
	progress.Statusf(ctx, "attesting %s", order[0])
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for _, key := range order {
		g.Go(func() error {
			return s.attest(gctx, st.with(gctx), tasks[key], r.Attestations)
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return sign.AttestResult{}, ctx.Err()
	}
	if err != nil {
		return sign.AttestResult{}, err
	}
	for _, a := range r.Attestations {
		r.Unchanged = r.Unchanged && a.Unchanged
	}
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

func check(s sign.Statement) error {
	if s.PredicateType == "" {
		return fault.Inputf("attest.type", "a statement has no predicate type").WithFix("for example %s", sign.PredicateSPDX)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(s.Predicate, &object); err != nil || object == nil {
		return fault.Inputf("attest.predicate", "the predicate of %s is no JSON object", s.PredicateType)
	}
	return nil
}

// task is what is attested of one subject.
type task struct {
	subject name.Digest
	what    []sign.Statement
	at      []int // where their results go
}

func (s *signer) attest(ctx context.Context, st *store, t *task, results []sign.Attested) error {
	if err := st.mustExist(ctx, t.subject); err != nil {
		return err
	}
	made := make([]oci.Signature, len(t.what))
	_, err := st.change(ctx, attestations, t.subject, func(have []candidate) (keep []candidate, add []oci.Signature, err error) {
		there := make([]bool, len(t.what))
		for _, c := range have {
			a, bad := s.self.attestation(ctx, c, t.subject)
			i := slices.IndexFunc(t.what, func(w sign.Statement) bool { return w.PredicateType == a.PredicateType })
			switch {
			case bad != nil || i < 0:
				keep = append(keep, c)
			case !there[i] && equalJSON(a.Predicate, t.what[i].Predicate) && (s.log == nil || a.LogIndex != nil):
				there[i] = true
				results[t.at[i]].LogIndex = a.LogIndex
				keep = append(keep, c)
			default:
				results[t.at[i]].Replaced = true
			}
		}
		for i, w := range t.what {
			if there[i] {
				continue
			}
			results[t.at[i]].Unchanged = false
			if made[i] == nil {
				text, err := newStatement(t.subject, w)
				if err != nil {
					return nil, nil, err
				}
				if made[i], err = s.newAttestation(ctx, t.subject, w.PredicateType, text); err != nil {
					return nil, nil, err
				}
			}
			results[t.at[i]].LogIndex = logIndex(made[i])
			add = append(add, made[i])
		}
		return keep, add, nil
	})
	return err
}

// statement is the in-toto statement, version 0.1 as cosign 2 writes it
// (https://github.com/in-toto/attestation/blob/main/spec/v0.1.0/README.md#statement).
type statement struct {
	Type          string             `json:"_type"`
	PredicateType string             `json:"predicateType"`
	Subject       []statementSubject `json:"subject"`
	Predicate     json.RawMessage    `json:"predicate"`
}

type statementSubject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

func newStatement(d name.Digest, what sign.Statement) ([]byte, error) {
	algorithm, hex, _ := strings.Cut(d.DigestStr(), ":")
	data, err := json.Marshal(statement{
		Type: in_toto.StatementInTotoV01, PredicateType: what.PredicateType,
		Subject:   []statementSubject{{Name: d.Context().Name(), Digest: map[string]string{algorithm: hex}}},
		Predicate: what.Predicate,
	})
	if err != nil {
		return nil, fmt.Errorf("writing the statement about %s: %w", d.Name(), err)
	}
	return data, nil
}

// about tells whether a statement names the image.
func (s statement) about(d name.Digest) bool {
	algorithm, hex, _ := strings.Cut(d.DigestStr(), ":")
	return slices.ContainsFunc(s.Subject, func(sub statementSubject) bool { return sub.Digest[algorithm] == hex })
}

// equalJSON compares values, not spaces or the order of keys.
func equalJSON(a, b []byte) bool {
	va, err1 := decodeJSON(a)
	vb, err2 := decodeJSON(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(va, vb)
}

func decodeJSON(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows the value")
	}
	return v, nil
}
