{{/*
The Pod of a node's agent: keeper and courier. (dict "root" ROOT "witnessOnly" BOOLEAN "static" BOOLEAN)

The keeper has the power and no credentials, the courier has the credentials and no power:

    keeper    uid 0, the few capabilities below, the state folder. No token is mounted, so it can speak to no API server
    courier   uid 65532, no capability, no folder of the node. Its token is projected into it alone

They talk through a socket in the emptyDir `socket`. `fsGroup` makes that folder setgid for the group 65532, so that the
keeper's socket (0660) is open to the courier, and the courier cannot replace it, for it has the folder read-only.

A static Pod may name no ServiceAccount, ConfigMap or Secret: there the courier reads a kubeconfig of the node.
*/}}
{{- define "vipkeeper.agent.podSpec" -}}
{{- $root := .root -}}
{{- $agent := .root.Values.agent -}}
{{- $workloads := $agent.workloads -}}
{{- $runsPrograms := and $workloads.programs (not .witnessOnly) -}}
{{- $seesUnits := and $workloads.enabled (not .witnessOnly) -}}
{{- $hooksConfigMap := ternary "" $workloads.hooksConfigMap .static -}}
{{- $hasHooks := and (or $hooksConfigMap $workloads.hooksHostPath) (not .witnessOnly) -}}
{{- $ocfRoot := ternary "" $workloads.ocfRootHostPath .witnessOnly -}}
{{- $mountFolders := ternary list $workloads.mountFolders .witnessOnly -}}
{{- $filePaths := ternary list $agent.checks.filePaths .witnessOnly -}}
{{- $fence := ternary "" $agent.fence .witnessOnly -}}
{{- $seesProcesses := and (or $agent.checks.processes $agent.checks.processPaths) (not .witnessOnly) -}}
# Addresses are bound, announced and fenced in the node's own network.
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- if or $seesProcesses $fence }}
# To see the node's processes, and to end the node: reboot(2) of a namespace of the container would end only that.
hostPID: true
{{- end }}
{{- if not .static }}
serviceAccountName: {{ include "vipkeeper.fullname" $root }}-courier
{{- end }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- if not .static }}
{{- include "vipkeeper.pullSecrets" $root }}
{{- end }}
securityContext:
  fsGroup: 65532
terminationGracePeriodSeconds: {{ $agent.terminationGracePeriodSeconds }}
{{- with ternary "system-node-critical" $agent.priorityClassName .static }}
priorityClassName: {{ . }}
{{- end }}
containers:
- name: keeper
  image: {{ include "vipkeeper.image" (list $agent.image $root) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/opt/vipkeeper/bin/vipkeeper-keeper]
  args:
  - --node=$(NODE_NAME)
  - --state-dir=/var/lib/vipkeeper
  - --socket=/run/vipkeeper/keeper.sock
  - --metrics=[{{ $agent.keeper.metrics.address }}]:{{ $agent.keeper.metrics.port }}
  - --health=127.0.0.1:{{ $agent.keeper.health.port }}
  - --log-level={{ $root.Values.logLevel }}
  {{- if $hasHooks }}
  - --hooks-dir=/etc/vipkeeper/hooks
  {{- end }}
  {{- if $ocfRoot }}
  - --ocf-root=/usr/lib/ocf
  {{- end }}
  {{- if ne $agent.keeper.fenceBackend "auto" }}
  - --fence-backend={{ $agent.keeper.fenceBackend }}
  {{- end }}
  {{- if $fence }}
  - --fence={{ $fence }}
  {{- end }}
  {{- if .witnessOnly }}
  - --witness-only
  {{- end }}
  env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  - name: NODE_IP
    valueFrom: {fieldRef: {fieldPath: status.hostIP}}
  securityContext:
    runAsUser: 0 # a process of another user would have none of these capabilities
    runAsGroup: 0
    readOnlyRootFilesystem: true
    {{- if $runsPrograms }}
    # Only a privileged container has the node's cgroups, in which services run, and mounts that reach the node.
    privileged: true
    {{- else }}
    privileged: false
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
      add:
      - NET_ADMIN # bind addresses, attach the fence
      - NET_RAW # send and receive ARP, NDP and ICMP
      - BPF # load the fence, or remove one that was loaded before it became nftables
      {{- if $agent.keeper.realTime }}
      - SYS_NICE # real time, so that heartbeats are on time on a busy node
      - IPC_LOCK # locked memory, for the same
      {{- end }}
      {{- if and $agent.checks.processPaths (not .witnessOnly) }}
      - SYS_PTRACE # see which files other processes run
      {{- end }}
      {{- if $fence }}
      - SYS_BOOT # restart the node
      {{- end }}
    seccompProfile:
      {{- toYaml $agent.keeper.seccompProfile | nindent 6 }}
    {{- end }}
  startupProbe:
    httpGet: {host: 127.0.0.1, path: /healthz, port: {{ $agent.keeper.health.port }}}
    periodSeconds: 2
    failureThreshold: 30
  livenessProbe:
    httpGet: {host: 127.0.0.1, path: /healthz, port: {{ $agent.keeper.health.port }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: {host: 127.0.0.1, path: /readyz, port: {{ $agent.keeper.health.port }}}
    periodSeconds: 5
    timeoutSeconds: 3
  resources:
    {{- if $runsPrograms }}
    {{- omit $agent.keeper.resources "limits" | toYaml | nindent 4 }}
    {{- else }}
    {{- toYaml $agent.keeper.resources | nindent 4 }}
    {{- end }}
  volumeMounts:
  - {name: state, mountPath: /var/lib/vipkeeper}
  - {name: socket, mountPath: /run/vipkeeper}
  - {name: keeper-tmp, mountPath: /tmp}
  {{- if $hasHooks }}
  - {name: hooks, mountPath: /etc/vipkeeper/hooks, readOnly: true}
  {{- end }}
  {{- if $ocfRoot }}
  - {name: ocf, mountPath: /usr/lib/ocf, readOnly: true}
  {{- end }}
  {{- if $seesUnits }}
  # The folders, for systemd makes the sockets in them anew when it executes itself.
  - {name: systemd, mountPath: /run/systemd, readOnly: true}
  - {name: dbus, mountPath: /run/dbus, readOnly: true}
  {{- end }}
  {{- range $index, $path := $filePaths }}
  - {name: files-{{ $index }}, mountPath: {{ $path | quote }}, readOnly: true, mountPropagation: HostToContainer}
  {{- end }}
  {{- range $index, $path := $mountFolders }}
  - {name: mounts-{{ $index }}, mountPath: {{ $path | quote }}, mountPropagation: Bidirectional}
  {{- end }}
- name: courier
  image: {{ include "vipkeeper.image" (list $agent.image $root) | quote }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [/opt/vipkeeper/bin/vipkeeper-courier]
  args:
  - --node=$(NODE_NAME)
  - --socket=/run/vipkeeper/keeper.sock
  {{- if .static }}
  - --namespace={{ $root.Release.Namespace }}
  - --kubeconfig=/etc/vipkeeper/courier/kubeconfig
  {{- else }}
  - --namespace=$(NAMESPACE)
  {{- end }}
  - --metrics=[{{ $agent.courier.metrics.address }}]:{{ $agent.courier.metrics.port }}
  - --health=127.0.0.1:{{ $agent.courier.health.port }}
  - --log-level={{ $root.Values.logLevel }}
  env:
  - name: NODE_NAME
    valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  - name: NODE_IP
    valueFrom: {fieldRef: {fieldPath: status.hostIP}}
  {{- if not .static }}
  - name: NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  {{- include "vipkeeper.apiServerEnvironment" $root | nindent 2 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    privileged: false
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  startupProbe:
    httpGet: {host: 127.0.0.1, path: /healthz, port: {{ $agent.courier.health.port }}}
    periodSeconds: 2
    failureThreshold: 30
  livenessProbe:
    httpGet: {host: 127.0.0.1, path: /healthz, port: {{ $agent.courier.health.port }}}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 3
  readinessProbe:
    httpGet: {host: 127.0.0.1, path: /readyz, port: {{ $agent.courier.health.port }}}
    periodSeconds: 5
    timeoutSeconds: 3
  resources:
    {{- toYaml $agent.courier.resources | nindent 4 }}
  volumeMounts:
  - {name: socket, mountPath: /run/vipkeeper, readOnly: true}
  - {name: courier-tmp, mountPath: /tmp}
  {{- if .static }}
  - {name: kubeconfig, mountPath: /etc/vipkeeper/courier, readOnly: true}
  {{- else }}
  - {name: token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
  {{- end }}
volumes:
- name: state
  hostPath: {path: {{ $agent.stateDir | quote }}, type: DirectoryOrCreate}
- name: socket
  emptyDir: {sizeLimit: 1Mi}
- name: keeper-tmp
  emptyDir: {sizeLimit: 64Mi}
- name: courier-tmp
  emptyDir: {sizeLimit: 16Mi}
{{- if .static }}
- name: kubeconfig
  hostPath: {path: {{ $agent.staticPod.kubeconfigDir | quote }}, type: Directory}
{{- else }}
- name: token
  projected:
    sources:
    - serviceAccountToken: {path: token, expirationSeconds: 3607}
    - configMap:
        name: kube-root-ca.crt
        items: [{key: ca.crt, path: ca.crt}]
    - downwardAPI:
        items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]
{{- end }}
{{- if $hasHooks }}
- name: hooks
  {{- if $hooksConfigMap }}
  configMap: {name: {{ $hooksConfigMap | quote }}, defaultMode: 0555}
  {{- else }}
  hostPath: {path: {{ $workloads.hooksHostPath | quote }}, type: Directory}
  {{- end }}
{{- end }}
{{- if $ocfRoot }}
- name: ocf
  hostPath: {path: {{ $ocfRoot | quote }}, type: Directory}
{{- end }}
{{- if $seesUnits }}
- name: systemd
  hostPath: {path: /run/systemd, type: Directory}
- name: dbus
  hostPath: {path: /run/dbus, type: Directory}
{{- end }}
{{- range $index, $path := $filePaths }}
- name: files-{{ $index }}
  hostPath: {path: {{ $path | quote }}, type: Directory}
{{- end }}
{{- range $index, $path := $mountFolders }}
- name: mounts-{{ $index }}
  hostPath: {path: {{ $path | quote }}, type: Directory}
{{- end }}
{{- end }}

{{/* A DaemonSet of agents. (dict "root" ROOT "witnessOnly" BOOLEAN) */}}
{{- define "vipkeeper.agent.daemonSet" -}}
{{- $root := .root -}}
{{- $agent := .root.Values.agent -}}
{{- $component := ternary "node-agent-witness" "node-agent" .witnessOnly -}}
{{- $updateStrategy := ternary $agent.witnessOnly.updateStrategy $agent.updateStrategy .witnessOnly -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "vipkeeper.fullname" $root }}-agent{{ if .witnessOnly }}-witness{{ end }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "vipkeeper.componentLabels" (list $component $root) | nindent 4 }}
spec:
  revisionHistoryLimit: 3
  minReadySeconds: {{ $agent.minReadySeconds }}
  updateStrategy:
    type: {{ $updateStrategy.type }}
    {{- if eq $updateStrategy.type "RollingUpdate" }}
    rollingUpdate:
      {{- $updateStrategy.rollingUpdate | default (dict "maxUnavailable" 1) | toYaml | nindent 6 }}
    {{- end }}
  selector:
    matchLabels:
      {{- include "vipkeeper.selectorLabels" (list $component $root) | nindent 6 }}
  template:
    metadata:
      labels:
        {{- with $agent.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "vipkeeper.componentLabels" (list $component $root) | nindent 8 }}
      annotations:
        kubectl.kubernetes.io/default-container: keeper
        {{- with $agent.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      {{- include "vipkeeper.agent.podSpec" (dict "root" $root "witnessOnly" .witnessOnly "static" false) | nindent 6 }}
      {{- with ternary (merge dict $agent.witnessOnly.nodeSelector (dict "kubernetes.io/os" "linux")) $agent.nodeSelector .witnessOnly }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with ternary (concat $agent.tolerations $agent.witnessOnly.tolerations) $agent.tolerations .witnessOnly }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      affinity:
        {{- $own := ternary dict $agent.affinity .witnessOnly }}
        {{- with omit $own "nodeAffinity" }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- $ofNodes := $own.nodeAffinity | default dict }}
        {{- $required := $ofNodes.requiredDuringSchedulingIgnoredDuringExecution | default dict }}
        nodeAffinity:
          {{- with $ofNodes.preferredDuringSchedulingIgnoredDuringExecution }}
          preferredDuringSchedulingIgnoredDuringExecution:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          requiredDuringSchedulingIgnoredDuringExecution:
            # One of the terms has to hold: a node is left out where all labels of a witness are there.
            nodeSelectorTerms:
            {{- if $required.nodeSelectorTerms }}
            {{- range compact $required.nodeSelectorTerms }}
            {{- $absent := dict "key" "vipkeeper.io/agent" "operator" "DoesNotExist" }}
            - {{- merge (dict "matchExpressions" (append (.matchExpressions | default list) $absent)) . | toYaml | nindent 14 }}
            {{- end }}
            {{- else if or .witnessOnly (not $agent.witnessOnly.enabled) }}
            - matchExpressions:
              - {key: vipkeeper.io/agent, operator: DoesNotExist}
            {{- else }}
            {{- range $label, $value := $agent.witnessOnly.nodeSelector }}
            - matchExpressions:
              - {key: vipkeeper.io/agent, operator: DoesNotExist}
              - {key: {{ $label | quote }}, operator: NotIn, values: [{{ $value | quote }}]}
            {{- end }}
            {{- end }}
{{- end }}
