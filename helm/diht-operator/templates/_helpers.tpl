{{/* Names, labels, image, rules: what several templates share. */}}

{{- define "diht-operator.fullname" -}}
{{- $name := .Values.nameOverride | default .Chart.Name -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "diht-operator.selector" -}}
app.kubernetes.io/name: diht-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "diht-operator.labels" -}}
{{ include "diht-operator.selector" . }}
app.kubernetes.io/part-of: diht
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "diht-operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "diht-operator.fullname" .) -}}
{{- else -}}
{{- required "serviceAccount.name: name the service account that is there, or set serviceAccount.create=true" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "diht-operator.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* `helm upgrade --reuse-values` omits the defaults of values that are new in this version. */}}
{{- define "diht-operator.needs-values" -}}
{{- if not .Values.tests -}}
{{- fail "the values of an older version were reused as they were and lack new ones (tests): helm upgrade --reset-then-reuse-values keeps yours and adds the new defaults" -}}
{{- end -}}
{{- end -}}

{{/* spec.pods of the run of `helm test`, as JSON; its image is empty if no program is to run. */}}
{{- define "diht-operator.test-pods" -}}
{{- $repository := .Values.tests.image.repository | default (.Values.image.repository | replace "diht-operator" "diht-recipe") -}}
{{- $image := printf "%s:%s" $repository (.Values.tests.image.tag | default .Chart.AppVersion) -}}
{{- with .Values.tests.image.digest -}}{{- $image = printf "%s@%s" $repository . -}}{{- end -}}
{{- $secrets := list -}}
{{- range .Values.imagePullSecrets -}}{{- $secrets = append $secrets .name -}}{{- end -}}
{{- $image = .Values.tests.program | ternary $image "" -}}
{{- merge (dict "image" $image) (deepCopy .Values.tests.pods) (dict "imagePullPolicy" .Values.image.pullPolicy "imagePullSecrets" $secrets) | toJson -}}
{{- end -}}

{{- define "diht-operator.subject" -}}
kind: ServiceAccount
name: {{ include "diht-operator.serviceAccount" . }}
namespace: {{ .Release.Namespace }}
{{- end -}}

{{/* A kind of the Prometheus operator that the cluster does not serve: the error comes before anything is installed. */}}
{{- define "diht-operator.needs-monitoring" -}}
{{- if not (.context.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind)) -}}
{{- fail (printf "%s=true needs the kind %s of monitoring.coreos.com/v1, which this cluster does not serve: install the Prometheus operator first, or set %s=false (with helm template: --api-versions monitoring.coreos.com/v1/%s)" .value .kind .value .kind) -}}
{{- end -}}
{{- end -}}

{{/* What the operator may do, and why; the same rules in both scopes, and in manifests/base/rbac.yaml (a test compares them). */}}
{{- define "diht-operator.rules" -}}
# Runs: watch them; read one that a watch missed; delete those whose ttlSecondsAfterFinished is over.
- apiGroups: [diht.dev]
  resources: [dihtruns]
  verbs: [get, list, watch, delete]
# Runs: report through the status subresource, and never touch a spec.
- apiGroups: [diht.dev]
  resources: [dihtruns/status]
  verbs: [patch]
# Attempts: one Job each, created, watched, and deleted when it is withdrawn. Never changed.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [create, get, list, watch, delete]
# Attempts: the headless Service through which the pods of a gang find each other.
- apiGroups: [""]
  resources: [services]
  verbs: [create, get, delete]
# Pods: the state of an attempt and why it failed. The Job controller creates and deletes them; those that have lost
# their Job (`kubectl delete job --cascade=orphan`) only the operator deletes.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, delete]
{{- if .Values.rbac.podStatus }}
# Elastic gangs that resize in place: pod 0 is told with which nodes to go on (an annotation); a pod whose node is lost is said to
# have failed, or its Job would never replace it.
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
{{- end }}
# Logs: progress lines, and the end of the log of a pod that failed.
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
# Events: report what happens to a run; find out why a pod does not start if nothing else says it (quota, a missing Secret).
- apiGroups: [""]
  resources: [events]
  verbs: [create, list]
{{- if .Values.rbac.kueue }}
# Kueue, if it is installed: why an attempt waits in its queue; the place of a stage whose restarts keep it.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [create, get, list, watch, delete]
# The reservation of a stage that Kueue evicted is given back, and its place is left at its end.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads/status]
  verbs: [patch]
{{- end }}
{{- if .Values.rbac.podGroups }}
# Gangs that Kubernetes itself schedules, where it can.
- apiGroups: [scheduling.k8s.io]
  resources: [podgroups]
  verbs: [create, get, patch, delete]
{{- end }}
{{- end -}}

{{/* What it may do in all namespaces where its rights to create and delete are bound to its tenants' namespaces. */}}
{{- define "diht-operator.watch-rules" -}}
# Runs, Jobs and pods: one watch each for all namespaces.
- apiGroups: [diht.dev]
  resources: [dihtruns]
  verbs: [get, list, watch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
# A run in a namespace that is no tenant's is told what is missing.
- apiGroups: [diht.dev]
  resources: [dihtruns/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- if .Values.rbac.kueue }}
- apiGroups: [kueue.x-k8s.io]
  resources: [workloads]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* What it reads of objects without a namespace; only in cluster scope. */}}
{{- define "diht-operator.cluster-rules" -}}
{{- if .Values.rbac.kueue }}
# The nodes that belong to a quota.
- apiGroups: [kueue.x-k8s.io]
  resources: [resourceflavors]
  verbs: [get]
# Priorities in a queue, and those of pods, which count there too.
- apiGroups: [kueue.x-k8s.io]
  resources: [workloadpriorityclasses]
  verbs: [get]
- apiGroups: [scheduling.k8s.io]
  resources: [priorityclasses]
  verbs: [get]
{{- end }}
{{- if .Values.nodeHealth.faults }}
# Taints and conditions that node monitors set.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
{{- end -}}
