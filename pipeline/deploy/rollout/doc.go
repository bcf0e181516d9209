// Package rollout watches what Kubernetes makes of objects that were applied:
// it says within a fraction of a second when everything is ready, and says
// early and with the true cause when it will not be.
//
// [Track] judges from watches alone, never by polling. Workloads are
// Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs and bare Pods; of
// their pods only those of the new revision count. Every other object is
// judged by kstatus, and objects without a notion of status (ConfigMaps,
// Secrets, Roles, ...) are ready at once and are not read at all.
//
// # Permissions
//
// In every namespace that holds a tracked workload, the user needs:
//
//	apps    deployments statefulsets daemonsets replicasets   get list watch
//	batch   jobs                                              get list watch
//	""      pods                                              get list watch
//	""      events                                            list watch
//	""      pods/log                                          get
//
// of which only the kinds that are tracked are asked for; replicasets also
// where there are only Deployments. list and watch of the tracked objects
// themselves carry the field selector metadata.name, so a Role may name them
// in resourceNames. Without events or pods/log tracking goes on, with less to
// tell and a warning. Services of type LoadBalancer, PersistentVolumeClaims,
// CustomResourceDefinitions and custom resources need list and watch of their
// kind; where these are forbidden the object is taken as ready, with a warning.
package rollout
