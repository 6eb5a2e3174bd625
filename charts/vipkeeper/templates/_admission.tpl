{{/*
Who a courier is. Its pod's token says which node the pod is on; a courier that is no pod has a client certificate
(user `vipkeeper:node:NAME`, group `vipkeeper:nodes`), or a token that was bound to its Node.
*/}}
{{- define "vipkeeper.admission.courier" -}}
- name: is-a-courier
  expression: >-
    request.userInfo.username == {{ printf "system:serviceaccount:%s:%s-courier" .Release.Namespace (include "vipkeeper.fullname" .) | toJson }}
    || request.userInfo.username.startsWith('vipkeeper:node:')
    || (has(request.userInfo.groups) && 'vipkeeper:nodes' in request.userInfo.groups)
{{- end }}

{{- define "vipkeeper.admission.node" -}}
- name: node
  expression: >-
    request.userInfo.username.startsWith('vipkeeper:node:')
    ? request.userInfo.username.substring(15)
    : request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')
{{- end }}

{{- define "vipkeeper.admission.knownNode" -}}
- expression: variables.node != ''
  message: >-
    the token of a courier must say which node it is on, or it could speak for all of them. The token of a pod does so by
    itself; elsewhere use a client certificate of the user `vipkeeper:node:NAME`, or a token from
    `kubectl create token --bound-object-kind Node --bound-object-name NAME`
  reason: Forbidden
{{- end }}

{{/* A binding of the policy named in the first argument, which refuses what breaks it. */}}
{{- define "vipkeeper.admission.binding" -}}
{{- $name := printf "%s-%s" (include "vipkeeper.fullname" (last .)) (first .) -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels:
    {{- include "vipkeeper.labels" (last .) | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
{{- end }}

{{- define "vipkeeper.admission.controller" -}}
- name: is-the-controller
  expression: >-
    request.userInfo.username == {{ printf "system:serviceaccount:%s:%s-controller" .Release.Namespace (include "vipkeeper.fullname" .) | toJson }}
{{- end }}
