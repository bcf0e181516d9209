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
	leaseDuration = 15 * time.Second // without a heartbeat a holder counts as dead
	heartbeat     = 4 * time.Second
	lookAgain     = time.Second
)

// leaseName is the name of the Lease that is the lock of a release.
func leaseName(release string) string { return "slipway-" + release }

// lock is a held coordination.k8s.io Lease
// (https://kubernetes.io/docs/concepts/architecture/leases/).
type lock struct {
	leases   typed.LeaseInterface
	name     string
	identity string
	stop     context.CancelFunc
	done     chan struct{}
}

// waiting is told who holds the lock, once per holder.
type waiting func(holder string)

// acquire takes the release's lock. It waits for another holder at most so
// long; a holder without heartbeats is replaced after leaseDuration, one of
// this machine whose process is gone at once. The returned context ends when
// the lock is lost.
//
// Whether a holder is alive is judged by its heartbeats as seen from here, not
// by its clock against ours, as client-go's leader election does.
func acquire(ctx context.Context, leases typed.LeaseInterface, name, run string, wait time.Duration, tell waiting) (context.Context, *lock, error) {
	l := &lock{leases: leases, name: name, identity: identity(run)}
	deadline := time.Now().Add(wait)
	var seen string // the holder's last heartbeat
	var since time.Time
	told := ""
	for {
		lease, err := leases.Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			lease = &coordination.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/managed-by": "slipway"}}}
			l.mark(lease, true)
			_, err = leases.Create(ctx, lease, metav1.CreateOptions{})
		case err != nil:
		default:
			holder := value(lease.Spec.HolderIdentity)
			if beat := holder + lease.ResourceVersion; beat != seen {
				seen, since = beat, time.Now()
			}
			if holder != "" && holder != l.identity && !dead(holder) && time.Since(since) < leaseDuration {
				if told != holder {
					told = holder
					tell(shown(holder))
				}
				// A holder that looks dead is watched until that is sure, also by
				// those who do not wait for living ones.
				stale := lease.Spec.RenewTime != nil && time.Since(lease.Spec.RenewTime.Time) > leaseDuration
				if time.Now().After(deadline) && !stale {
					return nil, nil, fault.Gatef("deploy.locked", "%s is deploying this release", shown(holder)).
						WithFix("run it again when that is done, or wait longer")
				}
				if err := pause(ctx, lookAgain); err != nil {
					return nil, nil, err
				}
				continue
			}
			l.mark(lease, true)
			_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
		}
		switch {
		case err == nil:
			held, cancel := context.WithCancelCause(ctx)
			beating, stop := context.WithCancel(context.WithoutCancel(ctx))
			l.stop, l.done = stop, make(chan struct{})
			go l.beat(beating, cancel)
			return held, l, nil
		case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err): // another was faster
		default:
			return nil, nil, fmt.Errorf("locking the release: %w", err)
		}
	}
}

// pause waits without missing the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (l *lock) mark(lease *coordination.Lease, taken bool) {
	now := metav1.NewMicroTime(time.Now())
	seconds := int32(leaseDuration / time.Second)
	if taken {
		transitions := int32(0)
		if lease.Spec.LeaseTransitions != nil {
			transitions = *lease.Spec.LeaseTransitions + 1
		}
		lease.Spec.LeaseTransitions, lease.Spec.AcquireTime = &transitions, &now
	}
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &l.identity, &seconds, &now
}

// beat renews the lease until the lock is given back, and ends the run when
// that has failed for so long that another may hold it.
func (l *lock) beat(ctx context.Context, lose context.CancelCauseFunc) {
	defer close(l.done)
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	until := time.Now().Add(leaseDuration - heartbeat) // nobody else can hold it before
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asked := time.Now()
		err := l.renew(ctx, until)
		switch {
		case err == nil:
			until = asked.Add(leaseDuration - heartbeat)
		case ctx.Err() != nil:
			return
		case errors.Is(err, release.ErrLockLost) || time.Now().After(until):
			lose(release.ErrLockLost)
			return
		}
	}
}

// renew sends a heartbeat. It returns [release.ErrLockLost] where another has
// the lock.
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

// release gives the lock back; the Lease stays, without a holder.
func (l *lock) release(ctx context.Context) error {
	l.stop()
	<-l.done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	lease, err := l.leases.Get(ctx, l.name, metav1.GetOptions{})
	if err != nil || value(lease.Spec.HolderIdentity) != l.identity {
		return explain("giving the lock back", err)
	}
	empty := ""
	lease.Spec.HolderIdentity = &empty
	_, err = l.leases.Update(ctx, lease, metav1.UpdateOptions{})
	return explain("giving the lock back", err)
}

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// identity names this run: who it is for people, then machine, boot, process
// and its start, by which another run on the same machine can tell that it is
// dead, and something random.
func identity(run string) string {
	host, _ := os.Hostname()
	if run == "" {
		run = os.Getenv("USER") + "@" + host
	}
	pid := os.Getpid()
	return strings.Join([]string{run, host, bootID(), strconv.Itoa(pid), started(pid), uuid.NewString()}, "|")
}

// shown is what people read of an identity.
func shown(identity string) string {
	run, _, _ := strings.Cut(identity, "|")
	return run
}

// dead reports whether an identity is of a process of this machine that is gone.
func dead(identity string) bool {
	parts := strings.Split(identity, "|")
	host, _ := os.Hostname()
	boot := bootID()
	if len(parts) != 6 || boot == "" || parts[1] != host || parts[2] != boot || parts[4] == "" {
		return false
	}
	pid, err := strconv.Atoi(parts[3])
	return err == nil && started(pid) != parts[4]
}

// bootID tells this boot of this machine and pid namespace from others; empty
// where the system does not say.
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

// started is when a process began, in clock ticks since the boot; empty where
// there is none (proc(5)).
func started(pid int) string {
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
