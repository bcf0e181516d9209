package config

import "time"

// Default returns the configuration of an empty file. It is the only place that
// defines defaults: the JSON schema, docs/configuration.md and the help of flags are
// generated from it, and tests compare the stages with it. A setting that is absent
// from it has no fixed default, and its description explains what happens if it is
// not set.
func Default() Config {
	return Config{
		App: App{Dir: ".", Platforms: []string{"linux/amd64", "linux/arm64"}},
		Image: Image{
			Base: "scratch", Entrypoint: "/server", User: "65534:65534",
			Compression: "gzip", Format: "oci",
			HealthCheck: HealthCheck{
				Interval: Duration(30 * time.Second), Timeout: Duration(5 * time.Second),
				StartPeriod: Duration(10 * time.Second), Retries: 3,
			},
		},
		Lint: Lint{Version: "v2.15.0", Timeout: Duration(5 * time.Minute)},
		Test: Test{Packages: []string{"./..."}, Race: new(true), Timeout: Duration(10 * time.Minute)},
		Scan: Scan{
			Severities: []string{"HIGH", "CRITICAL"}, Secrets: new(true), Reachability: new(true), MaxAge: Duration(24 * time.Hour),
			Databases: []string{"mirror.gcr.io/aquasec/trivy-db:2", "ghcr.io/aquasecurity/trivy-db:2", "public.ecr.aws/aquasecurity/trivy-db:2"},
		},
		Sign:     Sign{Attestations: []string{"sbom", "provenance", "scan"}, Formats: []string{"tag"}},
		Deploy:   Deploy{ImageValues: ImageValues{PullSecrets: "imagePullSecrets"}, Service: Service{Kind: "Deployment"}},
		Registry: Registry{Uploads: 5, Downloads: 10},
	}
}

// DefaultPorts returns the ports that an image exposes if image.ports is not set and the
// program listens on a port. They belong to [Default], which cannot hold them because they
// depend on the program.
func DefaultPorts() []int { return []int{8080, 9090} }

// DefaultEnvironment returns the defaults of an environment. They belong to
// [Default], which cannot hold them because each environment has a name.
func DefaultEnvironment() Environment {
	return Environment{
		PodSecurity: "restricted", Timeout: Duration(5 * time.Minute),
		Rollback: new(true), RollbackTimeout: Duration(5 * time.Minute), LockTimeout: Duration(10 * time.Minute),
		Restarts: 2, Readiness: Duration(30 * time.Second), History: 10,
	}
}

// DefaultKeyless returns the defaults of keyless signing, which are those of the
// public Sigstore instance. They belong to [Default], which cannot hold them because
// their presence would enable keyless signing.
func DefaultKeyless() Keyless {
	return Keyless{Fulcio: "https://fulcio.sigstore.dev", Audience: "sigstore"}
}
