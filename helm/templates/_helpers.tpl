{{- define "flywheel.labels" -}}
app.kubernetes.io/name: flywheel
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "flywheel.selector" -}}
app.kubernetes.io/name: flywheel
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flywheel.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "flywheel.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "flywheel.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "flywheel.existingSecret" -}}
{{- required "existingSecret: name the Secret with master.key and database-url (values.yaml says what is in it)" .Values.existingSecret }}
{{- end }}

{{- /* Keys of existingSecret that services read. */}}
{{- define "flywheel.secretItems" -}}
- { key: master.key, path: master.key }
- { key: database-url, path: database-url }
{{- if .Values.kafka.sasl.mechanism }}
- { key: kafka-password, path: kafka-password }
{{- end }}
{{- if .Values.s3.credentialsFromSecret }}
- { key: s3-access-key-id, path: s3-access-key-id }
- { key: s3-secret-access-key, path: s3-secret-access-key }
{{- end }}
{{- end }}

{{- /* Where services find each other and the parts of the platform. */}}
{{- define "flywheel.settings" -}}
- { name: FLYWHEEL_LOG_FORMAT, value: json }
- { name: FLYWHEEL_CONFIG, value: /etc/flywheel/settings/flywheel.toml }
- { name: FLYWHEEL_BUS__KIND, value: kafka }
- name: FLYWHEEL_BUS__KAFKA__BOOTSTRAP_SERVERS
  value: {{ required "kafka.bootstrapServers: say where Kafka is, such as kafka-0:9093,kafka-1:9093" .Values.kafka.bootstrapServers | quote }}
- name: FLYWHEEL_BUS__PARTITIONS
  value: {{ required "kafka.partitions: say how many partitions topics have, for good" .Values.kafka.partitions | quote }}
- { name: FLYWHEEL_BUS__KAFKA__TLS__ENABLED, value: {{ .Values.kafka.tls | quote }} }
{{- with .Values.kafka.sasl }}
{{- if .mechanism }}
- { name: FLYWHEEL_BUS__KAFKA__SASL__MECHANISM, value: {{ .mechanism | quote }} }
- { name: FLYWHEEL_BUS__KAFKA__SASL__USERNAME, value: {{ .username | quote }} }
- { name: FLYWHEEL_BUS__KAFKA__SASL__PASSWORD_FILE, value: /etc/flywheel/secrets/kafka-password }
{{- end }}
{{- end }}
- { name: FLYWHEEL_DATABASE__KIND, value: postgresql }
- { name: FLYWHEEL_DATABASE__URL_FILE, value: /etc/flywheel/secrets/database-url }
- { name: FLYWHEEL_KEYS__MASTER_KEY_FILE, value: /etc/flywheel/secrets/master.key }
- { name: FLYWHEEL_ARTIFACTS__KIND, value: s3 }
- name: FLYWHEEL_ARTIFACTS__S3__BUCKET
  value: {{ required "s3.bucket: name the bucket, which must exist" .Values.s3.bucket | quote }}
{{- with .Values.s3 }}
{{- if .endpoint }}
- { name: FLYWHEEL_ARTIFACTS__S3__ENDPOINT, value: {{ .endpoint | quote }} }
{{- end }}
{{- if .region }}
- { name: FLYWHEEL_ARTIFACTS__S3__REGION, value: {{ .region | quote }} }
{{- end }}
{{- if .credentialsFromSecret }}
- { name: FLYWHEEL_ARTIFACTS__S3__ACCESS_KEY_ID_FILE, value: /etc/flywheel/secrets/s3-access-key-id }
- { name: FLYWHEEL_ARTIFACTS__S3__SECRET_ACCESS_KEY_FILE, value: /etc/flywheel/secrets/s3-secret-access-key }
{{- end }}
{{- end }}
- { name: FLYWHEEL_ADMIN__LISTEN, value: "0.0.0.0:7800" }
- { name: FLYWHEEL_ADMIN_PLAIN_TEXT, value: "true" }
{{- if .Values.doors.registry.tls.existingSecret }}
- { name: FLYWHEEL_REGISTRY__ADDRESS, value: {{ printf "https://%s-registry:7803" .Release.Name | quote }} }
- { name: FLYWHEEL_REGISTRY__CA_FILE, value: /etc/flywheel/registry/ca.crt }
{{- else }}
- { name: FLYWHEEL_REGISTRY__ADDRESS, value: {{ printf "http://%s-registry:7803" .Release.Name | quote }} }
{{- end }}
{{- end }}

{{- /* The door of a service: (dict "name" "ingest" "port" 7801 "values" .Values). */}}
{{- define "flywheel.door" -}}
{{- $tls := (index .values.doors .name).tls }}
{{- $key := printf "FLYWHEEL_%s__HTTP__" (upper .name) -}}
- { name: {{ $key }}LISTEN, value: {{ printf "0.0.0.0:%v" .port | quote }} }
{{- if $tls.existingSecret }}
- { name: {{ $key }}TLS__CERTIFICATE_FILE, value: /etc/flywheel/door/tls.crt }
- { name: {{ $key }}TLS__KEY_FILE, value: /etc/flywheel/door/tls.key }
{{- else if $tls.terminated }}
- { name: {{ $key }}TLS_TERMINATED, value: "true" }
{{- else }}
{{- fail (printf "doors.%s.tls: name an existingSecret with tls.crt, tls.key and ca.crt, or say terminated=true because something in front of the door speaks TLS" .name) }}
{{- end }}
{{- end }}
