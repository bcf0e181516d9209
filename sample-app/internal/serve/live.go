package serve

import (
	"cmp"

	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/httpapi"
	"github.com/slipway-ci/slipway/sample-app/internal/reload"
)

// Names of what is read again, in logs and metrics.
const (
	fileConfig   = "config"
	filePassword = "_password"
)

// followConfig lets the configuration change while the service runs.
func (s *Service) followConfig() {
	s.config = reload.New(s.cfg, reload.Options[config.Config]{
		Load:  s.live.Load,
		Paths: []string{cmp.Or(s.live.File, config.DefaultPath)},
		Failed: func(err error) {
			s.metrics.Reload(fileConfig, false)
			s.log.Error("the changed configuration is not used; the one before it stays", zap.Error(err))
		},
	})
	if s.live.Load == nil {
		return
	}
	s.config.Subscribe(s.apply)
	s.follow = append(s.follow, s.config.Run)
}

// apply applies a changed configuration. What cannot change while the service runs is
// named in the log until the configuration is as at the start again.
func (s *Service) apply(before, after config.Config) {
	s.metrics.Reload(fileConfig, true)
	// A level that was set with the endpoint stays until the configuration changes it.
	if before.Log.Level != after.Log.Level {
		s.live.Level.SetLevel(after.Log.Level.Level)
	}
	if before.Log.Level != after.Log.Level || before.Features != after.Features {
		s.log.Info("the configuration has changed", zap.Stringer("log_level", after.Log.Level),
			zap.Bool("new_checkout", after.Features.NewCheckout), zap.Bool("experimental_ui", after.Features.ExperimentalUI))
	}
	if keys := config.NeedsRestart(s.cfg, after); len(keys) > 0 {
		s.log.Warn("these settings have changed, but only a restart applies them", zap.Strings("keys", keys))
	}
}

// features returns which features are on now.
func (s *Service) features() httpapi.Features {
	f := s.config.Get().Features
	return httpapi.Features{Receipt: f.NewCheckout, Page: f.ExperimentalUI}
}

// followPassword returns a function for the password in a file, which can change while the
// service runs, or nil if there is no file. After a change it calls renew, which must
// replace connections that were opened with the old password. A file that is empty or
// missing for a moment changes nothing.
func (s *Service) followPassword(name, path string, renew func()) func() string {
	if path == "" {
		return nil
	}
	initial, err := config.ReadPassword(path)
	if err != nil {
		initial = "" // Load has read it before; the next connection tries again
	}
	password := reload.New(initial, reload.Options[string]{
		Load:  func() (string, error) { return config.ReadPassword(path) },
		Paths: []string{path},
		Failed: func(err error) {
			s.metrics.Reload(name+filePassword, false)
			s.log.Warn("the password file cannot be read; the last password stays", zap.String("for", name), zap.Error(err))
		},
	})
	password.Subscribe(func(before, after string) {
		s.metrics.Reload(name+filePassword, true)
		if before != after {
			s.log.Info("the password has changed", zap.String("for", name))
			renew()
		}
	})
	s.follow = append(s.follow, password.Run)
	return func() string {
		password.Refresh() // the file can be newer than what was noticed
		return password.Get()
	}
}
