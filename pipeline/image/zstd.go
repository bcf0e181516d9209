package image

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// frameSize is how much goes into one zstd frame. Frames are compressed side
// by side and written in order, which decoders read as one stream (RFC 8878,
// section 3.1). It is fixed, so the bytes do not depend on the cores; it costs
// half a percent of size.
const frameSize = 4 << 20

// framesAhead bounds the frames held in memory.
const framesAhead = 4

// frames is a zstd writer that uses every core.
type frames struct {
	encoder *zstd.Encoder
	buffer  []byte
	queue   chan chan []byte
	done    chan error
	failed  atomic.Bool
}

func newFrames(w io.Writer) (*frames, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, fmt.Errorf("preparing zstd: %w", err)
	}
	f := &frames{
		encoder: encoder, buffer: make([]byte, 0, frameSize),
		queue: make(chan chan []byte, framesAhead), done: make(chan error, 1),
	}
	go func() {
		var err error
		for frame := range f.queue {
			data := <-frame
			if err == nil {
				if _, err = w.Write(data); err != nil {
					f.failed.Store(true)
				}
			}
		}
		f.done <- err
	}()
	return f, nil
}

func (f *frames) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		n := min(len(p), frameSize-len(f.buffer))
		f.buffer = append(f.buffer, p[:n]...)
		p = p[n:]
		if len(f.buffer) == frameSize {
			if f.failed.Load() {
				return 0, io.ErrShortWrite // Close has the reason
			}
			f.flush()
		}
	}
	return written, nil
}

func (f *frames) flush() {
	plain, frame := f.buffer, make(chan []byte, 1)
	f.buffer = make([]byte, 0, frameSize)
	f.queue <- frame
	go func() { frame <- f.encoder.EncodeAll(plain, make([]byte, 0, len(plain)/2)) }()
}

// Close writes what is left and returns the first error of the writer below.
func (f *frames) Close() error {
	if len(f.buffer) > 0 {
		f.flush()
	}
	close(f.queue)
	err := <-f.done
	if closeErr := f.encoder.Close(); err == nil {
		err = closeErr
	}
	return err
}
