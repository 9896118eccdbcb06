{{/*
What was chosen over the profile, what that comes to, and what the installation notes of itself.
*/}}
{{- define "meshctl.settings" -}}
{{- $profile := .Values.profile | default "default" -}}
{{- $small := ne $profile "default" -}}
{{- $chosen := dict -}}
{{- range $key := list "image" "imagePullPolicy" "replicas" "gatewayReplicas" "ingress" "egress" "ingressType" "gatewaySecrets" "gatewayDeployments" "injector" "validator" "failurePolicy" "cpu" "memory" "memoryLimit" "tags" "trustDomain" "mtls" "logLevel" "caKeyType" "caSigner" "caSignerRoots" "caSignerName" -}}
{{- $value := index $.Values $key -}}
{{- if not (kindIs "invalid" $value) -}}
{{- if ne (toString $value) "" -}}
{{- $_ := set $chosen $key (toString $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $values := dict "mtls" (eq $profile "demo" | ternary "strict" "permissive") "logLevel" (get (dict "default" "info" "demo" "debug" "minimal" "warn") $profile) -}}
{{- range $key := list "trustDomain" "mtls" "logLevel" "caKeyType" "caSigner" "caSignerName" -}}
{{- if hasKey $chosen $key -}}
{{- $_ := set $values $key (get $chosen $key) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $chosen "caSigner" -}}
{{- if hasKey $chosen "caKeyType" -}}
{{- fail "caKeyType is for a root of its own, and goes not with caSigner" -}}
{{- end -}}
{{- $_ := set $values "caSignerRoot" "/var/run/secrets/signer/root-cert.pem" -}}
{{- $_ := set $values "caSignerToken" "/var/run/secrets/signer/istio-token" -}}
{{- else if or (hasKey $chosen "caSignerRoots") (hasKey $chosen "caSignerName") -}}
{{- fail "caSignerRoots and caSignerName are for a signer: set caSigner" -}}
{{- end -}}
{{- $s := dict
  "revision" (toString (.Values.revision | default "default"))
  "image" (get $chosen "image" | default (printf "meshctl:%s" .Chart.AppVersion))
  "imagePullPolicy" (get $chosen "imagePullPolicy" | default "IfNotPresent")
  "replicas" (get $chosen "replicas" | default ($small | ternary "1" "2"))
  "gatewayReplicas" (get $chosen "gatewayReplicas" | default ($small | ternary "1" "2"))
  "ingress" (get $chosen "ingress" | default (eq $profile "minimal" | ternary "false" "true"))
  "egress" (get $chosen "egress" | default (eq $profile "demo" | ternary "true" "false"))
  "ingressType" (get $chosen "ingressType" | default "LoadBalancer")
  "gatewaySecrets" (get $chosen "gatewaySecrets" | default "true")
  "gatewayDeployments" (get $chosen "gatewayDeployments" | default "true")
  "injector" (get $chosen "injector" | default "true")
  "validator" (get $chosen "validator" | default "true")
  "failurePolicy" (get $chosen "failurePolicy" | default "Fail")
  "cpu" (get $chosen "cpu" | default "100m")
  "memory" (get $chosen "memory" | default "128Mi")
  "memoryLimit" (get $chosen "memoryLimit" | default "1Gi")
  "tags" (without (splitList "," (get $chosen "tags") | uniq | sortAlpha) "")
  "signerRoots" (get $chosen "caSignerRoots" | default "istio-ca-root-cert")
  "values" $values -}}
{{- $_ := set $s "suffix" (eq $s.revision "default" | ternary "" (printf "-%s" $s.revision)) -}}
{{- $noted := merge (dict "image" $s.image "imagePullPolicy" $s.imagePullPolicy) $values -}}
{{- $_ := set $s "note" (toPrettyJson (dict "version" .Chart.AppVersion "profile" $profile "chosen" $chosen "values" $noted)) -}}
{{- toJson $s -}}
{{- end -}}
