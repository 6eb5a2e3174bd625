{{/*
What all templates share. `.` is the root everywhere, except where an argument list is told.
*/}}

{{/* The beginning of every object's name: the release's, with the chart's unless that is part of it. */}}
{{- define "vipkeeper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels of everything. */}}
{{- define "vipkeeper.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "_" | trunc 63 | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: {{ .Chart.Name }}
{{- end }}

{{/* (list COMPONENT ROOT): labels of everything that belongs to `controller` or `node-agent`. */}}
{{- define "vipkeeper.componentLabels" -}}
{{ include "vipkeeper.labels" (last .) }}
app.kubernetes.io/component: {{ first . }}
{{- end }}

{{/* (list COMPONENT ROOT): what selects its Pods, and so can never change. */}}
{{- define "vipkeeper.selectorLabels" -}}
app.kubernetes.io/name: {{ (last .).Chart.Name }}
app.kubernetes.io/instance: {{ (last .).Release.Name }}
app.kubernetes.io/component: {{ first . }}
{{- end }}

{{/* (list IMAGE ROOT): the image's whole name. */}}
{{- define "vipkeeper.image" -}}
{{- $image := first . -}}
{{- $root := last . -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{/* Environment of whoever talks to the API server past the Service network. */}}
{{- define "vipkeeper.apiServerEnvironment" -}}
{{- if .Values.apiServer.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .Values.apiServer.host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .Values.apiServer.port | quote }}
{{- end }}
{{- end }}

{{/* Secrets to pull images with. */}}
{{- define "vipkeeper.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- toYaml . | nindent 0 }}
{{- end }}
{{- end }}
