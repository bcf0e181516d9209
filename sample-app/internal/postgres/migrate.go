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

// lockRetry is how often a replica that waits for another one to migrate looks
// again.
const lockRetry = 50 * time.Millisecond

// advisoryLock is a goose lock.SessionLocker. Unlike goose's own it looks more
// than once a second, so that replicas starting together start fast, and it is
// of the schema, not of the whole database. Waiting inside pg_advisory_lock
// would be simpler, but is a running query, on which CREATE INDEX CONCURRENTLY
// in a migration would wait in turn, for ever.
type advisoryLock struct{}

const lockID = `hashtext('order service migrations'), hashtext(current_schema())`

// SessionLock implements lock.SessionLocker. It waits as long as ctx lasts.
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
			return fmt.Errorf("wait for another replica to migrate: %w", ctx.Err())
		}
	}
}

// SessionUnlock implements lock.SessionLocker.
func (advisoryLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock(`+lockID+`)`)
	return err
}

// Migrate brings the schema up to date and returns how many migrations it ran.
// Any number of replicas may call it at once: an advisory lock lets one of them
// work while the others wait, and the database drops the lock if that one dies.
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
