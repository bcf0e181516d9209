// Package rollout follows the rollout of objects that were applied to a cluster. It
// returns within a fraction of a second after everything is ready. If a rollout will not
// become ready, it returns early and reports the cause.
//
// [Track] uses watches only and never polls. Workloads are Deployments, StatefulSets,
// DaemonSets, ReplicaSets, Jobs and bare Pods. Only pods of the new revision of a
// workload are considered. All other objects are evaluated with kstatus
// (https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus). Objects without a
// status, for example ConfigMaps, Secrets and Roles, are ready at once and are not read.
//
// # Permissions
//
// In every namespace with a tracked workload, the user needs the following permissions:
//
//	apps    deployments statefulsets daemonsets replicasets   get list watch
//	batch   jobs                                              get list watch
//	""      pods                                              get list watch
//	""      events                                            list watch
//	""      pods/log                                          get
//
// Only the permissions for the kinds that are tracked are used, and a Deployment also needs
// those for replicasets. Tracked objects are listed and watched with the field selector
// metadata.name, so a Role can restrict these permissions with resourceNames. If events or
// pods/log are forbidden, Track still works, but it adds a warning to the result and
// reports fewer details. Services of type LoadBalancer, PersistentVolumeClaims,
// CustomResourceDefinitions and custom resources need list and watch of their kind. If that
// is forbidden, Track assumes that the object is ready and adds a warning to the result.
package rollout
