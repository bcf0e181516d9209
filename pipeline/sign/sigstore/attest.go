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

// Attest signs every statement and attaches it to each of its subjects. It
// replaces an older attestation of the same type by the same signer. If the same
// attestation exists already, it changes nothing.
//
// Attest returns a [fault.Input] error if there is no statement, a statement is
// invalid, or a subject has two statements of the same type.
func Attest(ctx context.Context, o sign.AttestOptions) (sign.AttestResult, error) {
	start := time.Now()
	var s *signer
	var err error
	r := sign.AttestResult{Unchanged: true}
	// The attestations of a subject share a tag, so they are written together.
	var order []string
	tasks := map[string]*task{}
	if len(o.Statements) == 0 {
		return sign.AttestResult{}, fault.Inputf("attest.nothing", "attesting: no statement is given")
	}
	for _, st := range o.Statements {
		if s, err = checkInput(st.For, o.Signer, o.Formats); err != nil {
			return sign.AttestResult{}, err
		}
		if err := checkStatement(st); err != nil {
			return sign.AttestResult{}, err
		}
		for _, sub := range st.For {
			key := sub.Digest.Name()
			if tasks[key] == nil {
				order = append(order, key)
				tasks[key] = &task{subject: sub.Digest}
			}
			t := tasks[key]
			if slices.ContainsFunc(t.statements, func(w sign.Statement) bool { return w.PredicateType == st.PredicateType }) {
				return sign.AttestResult{}, fault.Inputf("attest.twice", "attesting %s: two statements have the predicate type %s", key, st.PredicateType)
			}
			t.statements, t.results = append(t.statements, st), append(t.results, len(r.Attestations))
			r.Attestations = append(r.Attestations, sign.Attested{
				Reference: key, Platform: sub.Platform, Type: sign.TypeOf(st.PredicateType), PredicateType: st.PredicateType,
				Attestation: attestations.tag(sub.Digest).Name(), Unchanged: true,
			})
		}
	}
	r.Signer = s.identity
	st := newStore(ctx, o.Remote, o.Backoff)
	st.settle = o.Settle
	progress.Statusf(ctx, "attesting %s", order[0])
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(jobs)
	for _, key := range order {
		g.Go(func() error {
			return s.attest(gctx, st.with(gctx), tasks[key], r.Attestations, o.Formats)
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

func checkStatement(s sign.Statement) error {
	if s.PredicateType == "" {
		return fault.Inputf("attest.type", "attesting: a statement has no predicate type").WithFix("set it, for example to %s", sign.PredicateSPDX)
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(s.Predicate, &object); err != nil || object == nil {
		return fault.Inputf("attest.predicate", "attesting: the predicate of type %s is not a JSON object", s.PredicateType)
	}
	return nil
}

// task holds the statements about one subject.
type task struct {
	subject    name.Digest
	statements []sign.Statement
	results    []int // the index of the result of each statement
}

// attest signs the statements of a task and attaches them to the subject.
func (s *signer) attest(ctx context.Context, st *store, t *task, results []sign.Attested, formats []sign.Format) error {
	if err := st.mustExist(ctx, t.subject); err != nil {
		return err
	}
	if wants(formats, sign.FormatBundle) {
		for i, w := range t.statements {
			attached, entry, err := s.attachBundle(ctx, st, attestations, t.subject, w)
			if err != nil {
				return err
			}
			result := &results[t.results[i]]
			result.Unchanged, result.LogIndex = result.Unchanged && !attached, entry
		}
	}
	if !wants(formats, sign.FormatTag) {
		return nil
	}
	signed := make([]oci.Signature, len(t.statements))
	_, err := st.update(ctx, attestations, t.subject, func(current []candidate) (keep []candidate, add []oci.Signature, err error) {
		exists := make([]bool, len(t.statements))
		for _, c := range current {
			a, rejected := s.policy.attestation(ctx, c, t.subject)
			i := slices.IndexFunc(t.statements, func(w sign.Statement) bool { return w.PredicateType == a.PredicateType })
			switch {
			case rejected != nil || i < 0:
				keep = append(keep, c)
			case !exists[i] && equalJSON(a.Predicate, t.statements[i].Predicate) && (!s.logs() || a.LogIndex != nil):
				exists[i] = true
				results[t.results[i]].LogIndex = a.LogIndex
				keep = append(keep, c)
			default:
				results[t.results[i]].Replaced = true
			}
		}
		for i, w := range t.statements {
			if exists[i] {
				continue
			}
			results[t.results[i]].Unchanged = false
			if signed[i] == nil {
				text, err := newStatement(t.subject, w)
				if err != nil {
					return nil, nil, err
				}
				if signed[i], err = s.newAttestation(ctx, t.subject, w.PredicateType, text); err != nil {
					return nil, nil, err
				}
			}
			results[t.results[i]].LogIndex = logIndex(signed[i])
			add = append(add, signed[i])
		}
		return keep, add, nil
	})
	return err
}

// statement is an in-toto statement of version 0.1, which cosign 2 uses
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

func newStatement(d name.Digest, s sign.Statement) ([]byte, error) {
	algorithm, hex, _ := strings.Cut(d.DigestStr(), ":")
	data, err := json.Marshal(statement{
		Type: in_toto.StatementInTotoV01, PredicateType: s.PredicateType,
		Subject:   []statementSubject{{Name: d.Context().Name(), Digest: map[string]string{algorithm: hex}}},
		Predicate: s.Predicate,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the statement about %s: %w", d.Name(), err)
	}
	return data, nil
}

// hasSubject reports whether the image is a subject of the statement.
func (s statement) hasSubject(d name.Digest) bool {
	algorithm, hex, _ := strings.Cut(d.DigestStr(), ":")
	return slices.ContainsFunc(s.Subject, func(sub statementSubject) bool { return sub.Digest[algorithm] == hex })
}

// equalJSON reports whether a and b are equal apart from white space and the order
// of keys.
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
		return nil, errors.New("there is data after the value")
	}
	return v, nil
}
