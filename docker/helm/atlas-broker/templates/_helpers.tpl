{{/* --- names and labels --- */}}

{{- define "atlas-broker.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* The prefix of all names; short enough for the longest suffix. */}}
{{- define "atlas-broker.fullname" -}}
{{- $name := include "atlas-broker.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "atlas-broker.serviceAccountName" -}}
{{- $default := ternary (include "atlas-broker.fullname" .) "default" .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default $default -}}
{{- end }}

{{/* Of one component's pods: (list $ "api"). */}}
{{- define "atlas-broker.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ include "atlas-broker.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Of an object of a component: (list $ "api"). */}}
{{- define "atlas-broker.labels" -}}
{{- $root := index . 0 -}}
{{ include "atlas-broker.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* name, namespace and labels of an object: (list $ "api"), or (list $ "api" "api-tls") where the name differs. */}}
{{- define "atlas-broker.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "atlas-broker.fullname" $root }}-{{ last . }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "atlas-broker.labels" (list $root (index . 1)) | nindent 2 }}
{{- end }}

{{/* --- what pods are made of --- */}}

{{/* (list $ .Values.image.api) */}}
{{- define "atlas-broker.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* The worker Deployments by name, each with its queues; JSON. The demo has one worker, beside its emulated Atlas. */}}
{{- define "atlas-broker.pools" -}}
{{- $all := list "instances" "bindings" "maintenance" -}}
{{- $pools := dict -}}
{{- if .Values.demo.enabled -}}
{{- $fixed := dict "replicas" 1 "autoscaling" (dict "type" "none") "podDisruptionBudget" (dict "enabled" false) "queues" $all -}}
{{- $_ := set $pools "all" (merge $fixed (deepCopy .Values.workers.all)) -}}
{{- else if eq .Values.workers.layout "all" -}}
{{- $_ := set $pools "all" (merge (dict "queues" $all) (deepCopy .Values.workers.all)) -}}
{{- else -}}
{{- range $queue := $all -}}
{{- $_ := set $pools $queue (merge (dict "queues" (list $queue)) (deepCopy (index $.Values.workers $queue))) -}}
{{- end -}}
{{- end -}}
{{- toJson $pools -}}
{{- end }}

{{/* Annotations that change, and so roll the pods, when what the chart makes for them changes: (list $ annotations). */}}
{{- define "atlas-broker.podAnnotations" -}}
{{- $root := index . 0 -}}
checksum/settings: {{ include (print $root.Template.BasePath "/settings/configmap.yaml") $root | sha256sum }}
{{- if $root.Values.config.files }}
checksum/config: {{ toJson $root.Values.config.files | sha256sum }}
{{- end }}
{{- if or $root.Values.secrets.broker.data $root.Values.atlas.data }}
checksum/secrets: {{ toJson (list $root.Values.secrets.broker.data $root.Values.atlas.data) | sha256sum }}
{{- end }}
{{- with index . 1 }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* What the specifications of all pods begin with: (list $ "api" .Values.api). */}}
{{- define "atlas-broker.podSpec" -}}
{{- $root := index . 0 -}}
{{- $part := index . 2 -}}
serviceAccountName: {{ include "atlas-broker.serviceAccountName" $root }}
automountServiceAccountToken: false
# Otherwise Kubernetes sets FLOWER_PORT=tcp://… for a Service of that name, and Flower reads that as its port.
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $root.Values.podSecurityContext | nindent 2 }}
{{- with $root.Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{- toYaml . | nindent 4 }}
    labelSelector:
      matchLabels:
        {{- include "atlas-broker.selector" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
{{- end }}
{{- range $field := list "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $part $field }}
{{ toYaml (dict $field .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The end of each container of ours: resources, confinement and mounts. (list $ part) */}}
{{- define "atlas-broker.containerEnd" -}}
{{- $root := index . 0 -}}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
resources:
  {{- toYaml (index . 1).resources | nindent 2 }}
securityContext:
  {{- toYaml $root.Values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  - name: secrets
    mountPath: {{ include "atlas-broker.secretsPath" $root }}
    readOnly: true
  {{- if and (include "atlas-broker.configMap" $root) (not (has "flower" .)) }}
  - name: config
    mountPath: /app
    readOnly: true
  {{- end }}
  {{- if and $root.Values.api.tls.enabled (has "api" .) }}
  - name: tls
    mountPath: /etc/atlas-broker/tls
    readOnly: true
  {{- end }}
  {{- with $root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* The volumes of the pods of a process: (list $ "api"). */}}
{{- define "atlas-broker.volumes" -}}
{{- $root := index . 0 -}}
{{- $process := index . 1 -}}
- name: tmp
  emptyDir:
    sizeLimit: 64Mi
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range $name, $keys := include "atlas-broker.secretKeys" . | fromJson }}
      - secret:
          name: {{ $name }}
          items:
            {{- range $keys }}
            - key: {{ . }}
              path: {{ . }}
            {{- end }}
      {{- end }}
{{- with include "atlas-broker.configMap" $root }}
{{- if ne $process "flower" }}
- name: config
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
{{- if and $root.Values.api.tls.enabled (eq $process "api") }}
- name: tls
  secret:
    secretName: {{ $root.Values.api.tls.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with $root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* --- settings and secrets --- */}}

{{- define "atlas-broker.secretsPath" -}}
/etc/atlas-broker/secrets
{{- end }}

{{/* The ConfigMap with the files of BROKER_CONFIG, if there is one. */}}
{{- define "atlas-broker.configMap" -}}
{{- if .Values.config.files -}}
{{- include "atlas-broker.fullname" . }}-config
{{- else -}}
{{- .Values.config.existingConfigMap -}}
{{- end -}}
{{- end }}

{{/* The keys that workers need of the Secret for Atlas. */}}
{{- define "atlas-broker.atlasKeys" -}}
{{- $credentials := dict
    "apiKey" (list "MONGODB_ATLAS_PUBLIC_API_KEY" "MONGODB_ATLAS_PRIVATE_API_KEY")
    "serviceAccount" (list "MONGODB_ATLAS_CLIENT_ID" "MONGODB_ATLAS_CLIENT_SECRET")
    "secretsFile" (list "secret.json") -}}
{{- $keys := index $credentials .Values.atlas.credentials -}}
{{- toJson (ternary (append $keys "BROKER_WORKER_KEYS") $keys .Values.atlas.workerKeys) -}}
{{- end }}

{{/* Which keys of which Secrets a process reads, and no others: (list $ "api"); JSON, keys by the Secret's name. */}}
{{- define "atlas-broker.secretKeys" -}}
{{- $root := index . 0 -}}
{{- $process := index . 1 -}}
{{- $full := include "atlas-broker.fullname" $root -}}
{{- $broker := $root.Values.secrets.broker.existingSecret | default (printf "%s-secrets" $full) -}}
{{- $connections := index $root.Values.secrets.connections $process | default $broker -}}
{{- $urls := ternary (list) (list "BROKER_MONGO_URI") (eq $process "flower") | concat (list "BROKER_REDIS_URL") -}}
{{- $users := ternary (list) (list "BROKER_USERS") (eq $process "workers") -}}
{{- $keys := ternary (list) (list "BROKER_ENCRYPTION_KEYS") (eq $process "flower") -}}
{{- $found := dict $connections $urls -}}
{{- $_ := set $found $broker (concat (index $found $broker | default list) $users $keys) -}}
{{- if eq $process "workers" -}}
{{- $atlas := $root.Values.atlas.existingSecret | default (printf "%s-atlas" $full) -}}
{{- $atlasKeys := include "atlas-broker.atlasKeys" $root | fromJsonArray -}}
{{- $_ := set $found $atlas (concat (index $found $atlas | default list) $atlasKeys) -}}
{{- end -}}
{{- toJson $found -}}
{{- end }}

{{/* The environment of a process: (list $ "workers" variables…). Secrets are files. */}}
{{- define "atlas-broker.env" -}}
{{- $root := index . 0 -}}
{{- if ne (index . 1) "flower" -}}
envFrom:
  - configMapRef:
      name: {{ include "atlas-broker.fullname" $root }}-settings
{{ end -}}
env:
  {{- range include "atlas-broker.secretKeys" . | fromJson }}
  {{- range . }}
  - name: {{ ternary "BROKER_SECRETS" (printf "%s_FILE" .) (eq . "secret.json") }}
    value: {{ include "atlas-broker.secretsPath" $root }}/{{ . }}
  {{- end }}
  {{- end }}
  {{- with concat $root.Values.extraEnv (index . 2) }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* How long a request may wait for its job. */}}
{{- define "atlas-broker.syncWait" -}}
{{- $wait := index .Values.settings "BROKER_SYNC_WAIT_SECONDS" -}}
{{- kindIs "invalid" $wait | ternary 50 $wait | float64 | ceil | int -}}
{{- end }}

{{/* --- the API's address --- */}}

{{- define "atlas-broker.scheme" -}}
{{- ternary "https" "http" .Values.api.tls.enabled -}}
{{- end }}

{{- define "atlas-broker.port" -}}
{{- .Values.api.service.port | default (ternary 443 80 .Values.api.tls.enabled) -}}
{{- end }}

{{/* Without a port that the scheme implies. */}}
{{- define "atlas-broker.url" -}}
{{- $scheme := include "atlas-broker.scheme" . -}}
{{- $port := include "atlas-broker.port" . | int -}}
{{- $scheme }}://{{ include "atlas-broker.fullname" . }}-api.{{ .Release.Namespace }}.svc
{{- if ne $port (ternary 443 80 (eq $scheme "https")) }}:{{ $port }}{{ end -}}
{{- end }}

{{/* --- objects that several parts have --- */}}

{{/* (list $ "workers-bindings" pool) */}}
{{- define "atlas-broker.horizontalPodAutoscaler" -}}
{{- $scaling := (index . 2).autoscaling -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  {{- include "atlas-broker.metadata" (list (index . 0) (index . 1)) | nindent 2 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "atlas-broker.fullname" (index . 0) }}-{{ index . 1 }}
  minReplicas: {{ $scaling.minReplicas }}
  maxReplicas: {{ $scaling.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $scaling.cpuUtilization }}
{{- end }}

{{/* (list $ "workers-bindings" pool) */}}
{{- define "atlas-broker.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "atlas-broker.metadata" (list (index . 0) (index . 1)) | nindent 2 }}
spec:
  maxUnavailable: {{ (index . 2).podDisruptionBudget.maxUnavailable }}
  # A node can be drained also while no pod is ready, since MongoDB or Redis is away.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "atlas-broker.selector" (list (index . 0) (index . 1)) | nindent 6 }}
{{- end }}

{{/* A rule of egress: (list destination protocols…). */}}
{{- define "atlas-broker.egress" -}}
{{- $destination := index . 0 -}}
{{- $protocols := index . 1 -}}
- ports:
    {{- range $port := $destination.ports }}
    {{- range $protocols }}
    - protocol: {{ . }}
      port: {{ $port }}
    {{- end }}
    {{- end }}
  {{- with $destination.to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* Where a worker may go. */}}
{{- define "atlas-broker.workerEgress" -}}
{{- $policy := .Values.networkPolicy -}}
{{ include "atlas-broker.egress" (list $policy.dns (list "UDP" "TCP")) }}
{{- range list $policy.mongodb $policy.redis $policy.atlas $policy.clusters }}
{{ include "atlas-broker.egress" (list . (list "TCP")) }}
{{- end }}
{{- with $policy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}
