package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// lockRetry is the interval at which a replica tries to get the lock while another
// replica migrates the database.
const lockRetry = 50 * time.Millisecond

// advisoryLock is a goose lock.SessionLocker. In contrast to goose's own, it tries to
// get the lock several times a second, so that replicas start quickly, and it locks
// only the schema instead of the whole database. Waiting in pg_advisory_lock would be
// simpler, but that is a running query: CREATE INDEX CONCURRENTLY in a migration would
// wait for its end, which is a deadlock.
type advisoryLock struct{}

const lockID = `hashtext('order service migrations'), hashtext(current_schema())`

// SessionLock implements lock.SessionLocker. It waits until ctx is done.
func (advisoryLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	ticker := time.NewTicker(lockRetry)
	defer ticker.Stop()
	for {
		var locked bool
		err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock(`+lockID+`)`).Scan(&locked)
		if err != nil || locked {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for another replica to migrate the database: %w", ctx.Err())
		}
	}
}

// SessionUnlock implements lock.SessionLocker.
func (advisoryLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock(`+lockID+`)`)
	return err
}

// Migrate applies all pending migrations and returns their number. Several replicas can
// call it at the same time: an advisory lock ensures that only one of them applies the
// migrations while the others wait. If that replica dies, the database releases the
// lock.
func (s *Store) Migrate(ctx context.Context) (applied int, err error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return 0, fmt.Errorf("migrate database: %w", err)
	}
	db := stdlib.OpenDBFromPool(s.pool)
	defer func() { err = errors.Join(err, db.Close()) }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(advisoryLock{}), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return 0, fmt.Errorf("migrate database: %w", err)
	}
	results, err := provider.Up(ctx)
	if err != nil {
		return len(results), fmt.Errorf("migrate database: %w", err)
	}
	return len(results), nil
}
