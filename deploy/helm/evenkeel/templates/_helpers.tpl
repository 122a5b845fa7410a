{{- define "evenkeel.name" -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "evenkeel.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "evenkeel.labels" -}}
{{ include "evenkeel.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "evenkeel.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "evenkeel.scheme" -}}
{{ if .Values.security.insecure }}http{{ else }}https{{ end }}
{{- end }}

{{/* Every broker as NODE_ID=HOST:PORT. */}}
{{- define "evenkeel.brokerList" -}}
{{- range $node := until (int .Values.broker.replicas) }}{{ if $node }},{{ end }}{{ $node }}={{ include "evenkeel.name" $ }}-broker-{{ $node }}.{{ include "evenkeel.name" $ }}-broker.{{ $.Release.Namespace }}.svc.{{ $.Values.clusterDomain }}:26501{{ end }}
{{- end }}

{{/* The chart's own settings and those of the values, as TOML; given (list own theirs). */}}
{{- define "evenkeel.settings" -}}
{{- $merged := mergeOverwrite (deepCopy (index . 0)) (index . 1) }}
{{- range $section, $keys := $merged }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{- if kindIs "string" $value }}
{{ $key }} = {{ $value | toJson }}
{{- else if kindIs "bool" $value }}
{{ $key }} = {{ $value }}
{{- else }}
{{ $key }} = {{ int64 $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "evenkeel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "evenkeel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: { drop: [ALL] }
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{/* A probe of one group of the health; given (list context group). */}}
{{- define "evenkeel.probe" -}}
httpGet:
  path: /actuator/health/{{ index . 1 }}
  port: monitoring
  scheme: {{ include "evenkeel.scheme" (index . 0) | upper }}
{{- end }}

{{/* Certificate, key and tokens of one kind of process; given (list context kind keys). */}}
{{- define "evenkeel.secretVolume" -}}
- name: security
  secret:
    secretName: {{ (index . 0).Values.security.existingSecret }}
    # Read by the group alone.
    defaultMode: 0440
    items:
      {{- range index . 2 }}
      - { key: {{ . }}, path: {{ . | replace (printf "%s." (index $ 1)) "tls." }} }
      {{- end }}
{{- end }}
