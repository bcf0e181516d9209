package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	coordination "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typed "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

const (
	leaseDuration = 15 * time.Second // a holder without a heartbeat for this time counts as dead
	heartbeat     = 4 * time.Second
	pollInterval  = time.Second // between two checks of a lock that another run holds
)

// leaseName returns the name of the Lease that is the lock of a release.
func leaseName(release string) string { return "slipway-" + release }

// lock is a coordination.k8s.io Lease that this run holds
// (https://kubernetes.io/docs/concepts/architecture/leases/).
type lock struct {
	leases   typed.LeaseInterface
	name     string
	identity string
	stop     context.CancelFunc // ends the heartbeats
	done     chan struct{}      // closed when the heartbeats have ended
}

// acquire acquires the lock of a release. If another run holds it, acquire calls waiting
// with the name of that run and waits for at most timeout. A holder that has sent no
// heartbeat for leaseDuration is replaced, and a holder on this machine is replaced at
// once if its process no longer exists. The returned context is cancelled when the lock
// is lost.
//
// Like the leader election of client-go, acquire measures the time since it saw the last
// heartbeat with its own clock. It does not compare the clocks of two machines.
func acquire(ctx context.Context, leases typed.LeaseInterface, name, run string, timeout time.Duration, waiting func(holder string)) (context.Context, *lock, error) {
	l := &lock{leases: leases, name: name, identity: identity(run)}
	w := wait{identity: l.identity, deadline: time.Now().Add(timeout), waiting: waiting}
	for {
		lease, err := leases.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			lease = &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "slipway"}}}
			l.mark(lease, true)
			_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		case err == nil && w.held(lease):
			if err := w.next(ctx, lease); err != nil {
				return nil, nil, err
			}
			continue
		case err == nil:
			l.mark(lease, true)
			_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		switch {
		case err == nil:
			held, cancel := context.WithCancelCause(ctx)
			renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
			l.stop, l.done = stop, make(chan struct{})
			go l.keep(renewing, cancel)
			return held, l, nil
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // another run changed the Lease first
		default:
			return nil, nil, fmt.Errorf("locking the release: %w", err)
		}
	}
}

// wait is the wait for a lock that another run holds.
type wait struct {
	identity string // of this run
	deadline time.Time
	waiting  func(holder string)
	reported string    // the holder that waiting was last called with
	last     string    // the last heartbeat
	seen     time.Time // when the last heartbeat was seen
}

// held reports whether another run holds the lock and is alive.
func (w *wait) held(lease *coordination.Lease) bool {
	holder := value(lease.Spec.HolderIdentity)
	if beat := holder + lease.ResourceVersion; beat != w.last {
		w.last, w.seen = beat, time.Now()
	}
	// This run can be the holder already, if the answer to its request was lost.
	return holder != "" && holder != w.identity && !dead(holder) && time.Since(w.seen) < leaseDuration
}

// next waits until it is time to check the lock again. It returns an error if the
// deadline has passed.
func (w *wait) next(ctx context.Context, lease *coordination.Lease) error {
	holder := value(lease.Spec.HolderIdentity)
	if w.reported != holder {
		w.reported = holder
		w.waiting(runOf(holder))
	}
	// A holder whose last heartbeat seems old is probably dead. It is watched until
	// that is certain, even by a run that does not wait for a living holder.
	stale := lease.Spec.RenewTime != nil && time.Since(lease.Spec.RenewTime.Time) > leaseDuration
	if time.Now().After(w.deadline) && !stale {
		return fault.Gatef("deploy.locked", "%s is deploying this release", runOf(holder)).
			WithFix("run this again when that deployment has finished, or wait longer for it")
	}
	timer := time.NewTimer(pollInterval)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// mark makes this run the holder in a Lease and sets its heartbeat. If acquired is true,
// the lock is acquired and not only renewed.
func (l *lock) mark(lease *coordination.Lease, acquired bool) {
	now := metav1.NewMicroTime(time.Now())
	seconds := int32(leaseDuration / time.Second)
	if acquired {
		transitions := int32(0)
		if lease.Spec.LeaseTransitions != nil {
			transitions = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, &now
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &l.identity, &seconds, &now
}

// keep renews the Lease until the lock is released. If that fails until another run may
// hold the lock, it cancels the context of this run with [release.ErrLockLost].
func (l *lock) keep(ctx context.Context, cancel context.CancelCauseFunc) {
	defer close(l.done)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	until := time.Now().Add(leaseDuration - heartbeat) // before this time no other run can acquire the lock
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		start := time.Now()
		err := l.renew(ctx, until)
		switch {
		case err == nil:
			until = start.Add(leaseDuration - heartbeat)
		case ctx.Err() != nil:
			return
		case errors.Is(err, release.ErrLockLost) || time.Now().After(until):
			cancel(release.ErrLockLost)
			return
		}
	}
}

// renew sends a heartbeat. It returns [release.ErrLockLost] if another run holds the
// lock.
func (l *lock) renew(ctx context.Context, until time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	lease, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil {
		return explain("reading the lock", err)
	}
	if value(lease.Spec.HolderIdentity) != l.identity {
		return release.ErrLockLost
	}
	l.mark(lease, false)
	_, err = l.leases.Update(ctx, lease, metav1.UpdateOptions{})
	return explain("renewing the lock", err)
}

// release releases the lock. The Lease remains in the cluster without a holder.
func (l *lock) release(ctx context.Context) error {
	l.stop()
	<-l.done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	lease, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil || value(lease.Spec.HolderIdentity) != l.identity {
		return explain("releasing the lock", err)
	}
	empty := ""
	lease.Spec.HolderIdentity = &empty
	_, err = l.leases.Update(ctx, lease, metav1.UpdateOptions{})
	return explain("releasing the lock", err)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// identity returns the identity of this run as the holder of a lock: a name for people,
// the host, the boot, the process ID, the start time of the process, and a random ID.
// With them another run on the same machine can determine that this run is dead.
func identity(run string) string {
	host, _ := os.Hostname()
	if run == "" {
		run = os.Getenv("USER") + "@" + host
	}
	pid := os.Getpid()
	return strings.Join([]string{run, host, bootID(), strconv.Itoa(pid), startTime(pid), uuid.NewString()}, "|")
}

// runOf returns the name for people in an identity.
func runOf(identity string) string {
	run, _, _ := strings.Cut(identity, "|")
	return run
}

// dead reports whether an identity belongs to a process on this machine that no longer
// exists. It returns false for a process on another machine.
func dead(identity string) bool {
	parts := strings.Split(identity, "|")
	host, _ := os.Hostname()
	boot := bootID()
	if len(parts) != 6 || boot == "" || parts[1] != host || parts[2] != boot || parts[4] == "" {
		return false
	}
	pid, err := strconv.Atoi(parts[3])
	return err == nil && startTime(pid) != parts[4]
}

// bootID identifies the boot of this machine and its PID namespace. It returns an empty
// text if the operating system does not provide them.
func bootID() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + "." + namespace
}

// startTime returns when a process started, in clock ticks since the boot, field 22 of
// /proc/PID/stat (https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html). It returns
// an empty text if the process does not exist or is a zombie.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}
