package config

// Service describes the app to slipway's own chart, which deploys it if the repository has
// no chart.
type Service struct {
	Kind     string         `json:"kind,omitzero" yaml:"kind" jsonschema:"enum=Deployment,enum=StatefulSet,enum=DaemonSet,enum=CronJob,enum=Job" jsonschema_description:"The kind of the workload."`
	Port     *int           `json:"port,omitzero" yaml:"port" jsonschema:"minimum=0,maximum=65535" jsonschema_description:"The port on which the app answers requests, or 0 if it answers none. Default: the lowest of the ports that the image declares as exposed."`
	Health   string         `json:"health,omitzero" yaml:"health" jsonschema:"pattern=^/" jsonschema_description:"The path on that port that answers with a status of 2xx or 3xx while the app is healthy. By default the probes only open a connection."`
	GRPC     bool           `json:"grpc,omitzero" yaml:"grpc" jsonschema_description:"The port speaks gRPC and implements its health protocol."`
	Metrics  int            `json:"metrics,omitzero" yaml:"metrics" jsonschema:"minimum=1,maximum=65535" jsonschema_description:"The port with metrics for Prometheus at /metrics. By default Prometheus is not told to read any."`
	Schedule string         `json:"schedule,omitzero" yaml:"schedule" jsonschema:"minLength=1" jsonschema_description:"The times of the runs of a CronJob, for example 0 3 * * *."`
	Values   map[string]any `json:"values,omitzero" yaml:"values" jsonschema_description:"Values of the chart for all environments. The values files and set of an environment override them. Never put secrets here."`
}
