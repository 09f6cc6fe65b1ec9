{{/* The emulated Atlas, as a sidecar: the broker speaks plain HTTP with its own machine only. */}}
{{- define "atlas-broker.emulator" -}}
{{- $full := include "atlas-broker.fullname" . -}}
- name: emulator
  image: {{ include "atlas-broker.image" (list . .Values.image.emulator) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args:
    - --host=127.0.0.1
    - --port=8081
    - --mongo=mongodb://emulator:$(CLUSTER_PASSWORD)@{{ $full }}-demo-cluster:27017/?authSource=admin
    - --project=000000000000000000000001
    - --public-key=emulator
    - --private-key=$(PRIVATE_KEY)
    - --cluster=cluster-dev
    - --apply-seconds=3
  env:
    - name: CLUSTER_PASSWORD
      valueFrom: {secretKeyRef: {name: {{ $full }}-demo, key: password}}
    - name: PRIVATE_KEY
      valueFrom: {secretKeyRef: {name: {{ $full }}-atlas, key: MONGODB_ATLAS_PRIVATE_API_KEY}}
  # Any answer shows that it runs: without credentials it answers 401, as Atlas does.
  startupProbe:
    exec:
      command:
        - python
        - -c
        - "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8081, timeout=4); c.request('GET', '/'); c.getresponse()"
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: 60
  resources:
    {{- toYaml .Values.demo.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
{{- end }}

{{/* Deployment, Service and policy of a server that keeps nothing: (list $ name image port paths container clients). */}}
{{- define "atlas-broker.demoServer" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "atlas-broker.metadata" (list $root $name) | nindent 2 }}
spec:
  replicas: 1
  strategy:
    type: Recreate
  selector:
    matchLabels:
      {{- include "atlas-broker.selector" (list $root $name) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "atlas-broker.labels" (list $root $name) | nindent 8 }}
    spec:
      serviceAccountName: {{ include "atlas-broker.serviceAccountName" $root }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- merge (dict "runAsUser" 999 "runAsGroup" 999 "fsGroup" 999) $root.Values.podSecurityContext | toYaml | nindent 8 }}
      containers:
        - name: {{ $name }}
          image: {{ index . 2 }}
          ports:
            - name: {{ $name | trunc 15 | trimSuffix "-" }}
              containerPort: {{ index . 3 }}
          {{- index . 5 | nindent 10 }}
          resources:
            {{- toYaml $root.Values.demo.resources | nindent 12 }}
          securityContext:
            {{- toYaml $root.Values.securityContext | nindent 12 }}
          volumeMounts:
            {{- range $number, $path := index . 4 }}
            - name: writable-{{ $number }}
              mountPath: {{ $path }}
            {{- end }}
      volumes:
        {{- range $number, $path := index . 4 }}
        - name: writable-{{ $number }}
          emptyDir: {}
        {{- end }}
---
# Headless, also before the pod is ready: a member of a replica set must find itself by this name.
apiVersion: v1
kind: Service
metadata:
  {{- include "atlas-broker.metadata" (list $root $name) | nindent 2 }}
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  ipFamilyPolicy: {{ $root.Values.ipFamilyPolicy }}
  {{- with $root.Values.ipFamilies }}
  ipFamilies: {{ toJson . }}
  {{- end }}
  selector:
    {{- include "atlas-broker.selector" (list $root $name) | nindent 4 }}
  ports:
    - name: {{ $name | trunc 15 | trimSuffix "-" }}
      port: {{ index . 3 }}
      targetPort: {{ index . 3 }}
{{- if $root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "atlas-broker.metadata" (list $root $name) | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "atlas-broker.selector" (list $root $name) | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        # The release's own pods; with the credentials of a binding also applications may come to the cluster.
        - podSelector:
            matchLabels:
              app.kubernetes.io/instance: {{ $root.Release.Name }}
        {{- with index . 6 }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - protocol: TCP
          port: {{ index . 3 }}
{{- end }}
{{- end }}
