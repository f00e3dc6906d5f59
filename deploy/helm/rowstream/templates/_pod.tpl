{{/* The pod of both modes; they differ in the `data` volume and in how they are spread. */}}
{{- define "rowstream.pod" -}}
metadata:
  labels:
    {{- include "rowstream.labels" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # worker.yaml is read at start only. Connector files are watched, so they have no checksum here.
    checksum/worker: {{ include "rowstream.worker" . | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "rowstream.serviceAccountName" . }}
  automountServiceAccountToken: false
  # The variables that Kubernetes makes of a Service named rowstream begin like our own.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add (int .Values.worker.stopTimeoutSeconds) 10 }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: { type: RuntimeDefault }
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.mode "kafka" }}
  topologySpreadConstraints:
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "rowstream.selectorLabels" $ | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  tolerations:
    # Tasks move within seconds by themselves; a replacement pod should not take Kubernetes' five minutes.
    {{- range list "node.kubernetes.io/not-ready" "node.kubernetes.io/unreachable" }}
    - { key: {{ . }}, operator: Exists, effect: NoExecute, tolerationSeconds: 30 }
    {{- end }}
    {{- with .Values.tolerations }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- else }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: rowstream
      image: {{ include "rowstream.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [run, --config, /etc/rowstream/worker/worker.yaml]
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: { drop: [ALL] }
      env:
        - { name: ROWSTREAM_LOG_FORMAT, value: {{ .Values.worker.logFormat | quote }} }
        - { name: ROWSTREAM_LOG_LEVEL, value: {{ .Values.worker.logLevel | quote }} }
        - { name: POD_NAME, valueFrom: { fieldRef: { fieldPath: metadata.name } } }
        - { name: POD_IP, valueFrom: { fieldRef: { fieldPath: status.podIP } } }
        {{- range .Values.secrets.env }}
        - { name: {{ .name }}, valueFrom: { secretKeyRef: { name: {{ .secret }}, key: {{ .key }} } } }
        {{- end }}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      {{- with .Values.secrets.envFrom }}
      envFrom:
        {{- range . }}
        - secretRef: { name: {{ . }} }
        {{- end }}
      {{- end }}
      ports:
        - { name: admin, containerPort: 8083 }
      startupProbe:
        httpGet: { path: /livez, port: admin }
        timeoutSeconds: {{ .Values.livenessProbe.timeoutSeconds }}
        {{- toYaml .Values.startupProbe | nindent 8 }}
      livenessProbe:
        httpGet: { path: /livez, port: admin }
        {{- toYaml .Values.livenessProbe | nindent 8 }}
      readinessProbe:
        httpGet: { path: /readyz, port: admin }
        {{- toYaml .Values.readinessProbe | nindent 8 }}
      {{- with .Values.resources }}
      resources: {{- toYaml . | nindent 8 }}
      {{- end }}
      volumeMounts:
        - { name: worker, mountPath: /etc/rowstream/worker, readOnly: true }
        # The whole directory: a file mounted by subPath would never change.
        - { name: connectors, mountPath: /etc/rowstream/connectors.d, readOnly: true }
        - { name: data, mountPath: /var/lib/rowstream }
        {{- range $i, $file := .Values.secrets.files }}
        - { name: secret-{{ $i }}, mountPath: {{ $file.mountPath }}, readOnly: true }
        {{- end }}
  volumes:
    - { name: worker, configMap: { name: {{ include "rowstream.fullname" . }}-worker } }
    - { name: connectors, configMap: { name: {{ include "rowstream.connectorsConfigMap" . }} } }
    {{- if eq .Values.mode "kafka" }}
    - { name: data, emptyDir: { sizeLimit: {{ .Values.kafka.scratchSize }} } }
    {{- else if .Values.embedded.volume.existingClaim }}
    - { name: data, persistentVolumeClaim: { claimName: {{ .Values.embedded.volume.existingClaim }} } }
    {{- end }}
    {{- range $i, $file := .Values.secrets.files }}
    - { name: secret-{{ $i }}, secret: { secretName: {{ $file.secret }}, defaultMode: 0440 } }
    {{- end }}
{{- end }}
