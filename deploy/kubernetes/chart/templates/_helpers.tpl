{{- define "outboxd.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "outboxd.image" -}}
{{ .Values.relay.image.repository }}:{{ .Values.relay.image.tag | default .Chart.AppVersion }}
{{- end }}

{{/* stream.name is OUTBOXD_STREAM__NAME. */}}
{{- define "outboxd.variable" -}}
OUTBOXD_{{ . | replace "." "__" | upper }}
{{- end }}

{{- define "outboxd.env" -}}
- name: NATS_CLIENT_ID
  valueFrom: { fieldRef: { fieldPath: metadata.name } }
{{- range $setting, $value := .Values.relay.settings }}
- name: {{ include "outboxd.variable" $setting }}
  {{- if kindIs "slice" $value }}
  value: {{ join "," $value | quote }}
  {{- else if kindIs "string" $value }}
  value: {{ quote $value }}
  {{- else }}{{/* as JSON, since a large number would else be written with an exponent */}}
  value: {{ toJson $value | quote }}
  {{- end }}
{{- end }}
{{- range $setting, $key := .Values.relay.secret.files }}
- name: {{ include "outboxd.variable" $setting }}
  value: /run/secrets/outboxd/{{ $key }}
{{- end }}
- name: OUTBOXD_SHUTDOWN__GRACE
  value: {{ printf "%ds" (int .Values.relay.graceSeconds) }}
{{- end }}

{{- define "outboxd.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.user }}
runAsGroup: {{ .Values.user }}
fsGroup: {{ .Values.user }}
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "outboxd.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}
