package image

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
)

// frameSize is the number of bytes that are compressed into one zstd frame. Frames
// are compressed at the same time and written in order, and decoders read them as
// one stream (RFC 8878, section 3.1). The size is fixed, so that the output does
// not depend on the number of cores. Frames make a layer half a percent larger.
const frameSize = 4 << 20

// framesAhead is the maximum number of frames in the queue.
const framesAhead = 4

// frames is a zstd writer that uses all cores.
type frames struct {
	encoder *zstd.Encoder
	buffer  []byte           // bytes of the next frame
	queue   chan chan []byte // compressed frames, in order
	done    chan error       // result of writing
	failed  atomic.Bool      // whether a write failed
}

func newFrames(w io.Writer) (*frames, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		return nil, fmt.Errorf("creating a zstd encoder: %w", err)
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
				return 0, io.ErrShortWrite // Close returns the cause
			}
			f.flush()
		}
	}
	return written, nil
}

// flush compresses the buffer and queues the frame.
func (f *frames) flush() {
	plain, frame := f.buffer, make(chan []byte, 1)
	f.buffer = make([]byte, 0, frameSize)
	f.queue <- frame
	go func() { frame <- f.encoder.EncodeAll(plain, make([]byte, 0, len(plain)/2)) }()
}

// Close writes the last frame and returns the first error of the underlying writer.
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
