#!/usr/bin/env bash
# Install the platform on a cluster, layer by layer. Runs again at any time: what is there already stays as it is.
set -euo pipefail
# shellcheck source=scripts/platform.sh
. "$(dirname "$0")/scripts/platform.sh"

MANAGER=clusterheal-bootstrap
UNPINNED='@sha256:0\{64\}'

usage() {
  cat <<END
Usage: ./bootstrap.sh --environment development|production [options]

Checks what the cluster lacks and names the fix, then applies the environment's overlay layer by layer, waits until each is
ready, and ends with a summary. A run that was stopped is repeated from the start: applied layers are not changed.

  --environment NAME   a folder of manifests/overlays
  --dry-run            check, and let the server check every object, without changing anything
  --component NAME     also a component of manifests/components, e.g. remediation-enforce; may be repeated
  --layer NAME         only this layer; may be repeated: ${LAYERS[*]}
  --platform NAME      rhoai-2x, rhoai-3x or vanilla-kubernetes; default: what the cluster is
  --skip-checks        apply although a check failed
  --timeout SECONDS    how long to wait for a layer (default 600)

The cluster layer needs an administrator: ./bootstrap.sh --environment NAME --layer cluster. Everything else needs rights in the namespace.
END
}

ENVIRONMENT='' DRY_RUN='' SKIP_CHECKS='' PLATFORM='' TIMEOUT=600 COMPONENTS=() ONLY=()
while [ $# -gt 0 ]; do
  case $1 in
    --environment | --component | --layer | --platform | --timeout)
      [ $# -ge 2 ] || die "$1 needs a value; see --help"
      case $1 in
        --environment) ENVIRONMENT=$2 ;;
        --component) known_component "$2" && COMPONENTS+=("$2") ;;
        --layer) known_layer "$2" && ONLY+=("$2") ;;
        --platform) PLATFORM=$2 ;;
        --timeout) TIMEOUT=$2 ;;
      esac
      shift 2
      ;;
    --dry-run) DRY_RUN=1 && shift ;;
    --skip-checks) SKIP_CHECKS=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
[ -n "$ENVIRONMENT" ] || die "--environment is missing: development or production"
[ -d "$ROOT/manifests/overlays/$ENVIRONMENT" ] || die "no environment $ENVIRONMENT; there are: $(cd "$ROOT/manifests/overlays" && echo */ | tr -d /)"
case $PLATFORM in '' | rhoai-2x | rhoai-3x | vanilla-kubernetes) ;; *) die "no platform $PLATFORM; expected rhoai-2x, rhoai-3x or vanilla-kubernetes" ;; esac
case $TIMEOUT in '' | *[!0-9]*) die "--timeout takes whole seconds, got $TIMEOUT" ;; esac
NAMESPACE=$(namespace_of "$ENVIRONMENT")

may() { # create RESOURCE of GROUP [in NAMESPACE]?
  local review
  review=$(printf '{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": {"verb": "create", "group": "%s", "resource": "%s", "namespace": "%s"}}}' "$2" "$1" "${3:-}")
  [ "$("$KUBECTL" create --validate=false -f - -o 'jsonpath={.status.allowed}' <<<"$review" 2>/dev/null)" = true ]
}
wanted() { # is this layer to be installed?
  [ ${#ONLY[@]} -eq 0 ] && return
  local layer
  for layer in "${ONLY[@]}"; do [ "$layer" = "$1" ] && return; done
  return 1
}
uses() { grep -q "$1" "$WORK/manifests.yaml"; }

check_versions() {
  local version minor
  version=$("$KUBECTL" get --raw /version)
  minor=$(sed -n 's/.*"minor": *"\([0-9]*\).*/\1/p' <<<"$version")
  if [ "${minor:-0}" -ge 29 ]; then row ok "Kubernetes 1.$minor" "1.29 or later"; else
    row FAIL "Kubernetes 1.${minor:-?}" "1.29 or later is needed" "upgrade the cluster (OpenShift 4.18 or later)"
  fi
  if served clusterversions.config.openshift.io; then
    version=$("$KUBECTL" get clusterversion version -o 'jsonpath={.status.desired.version}' 2>/dev/null || true)
    case $version in
      4.1[0-7].* | 4.[0-9].*) row FAIL "OpenShift $version" "4.18 or later is needed" "upgrade the cluster" ;;
      '') row warn OpenShift "its version may not be read" "let an administrator check that it is 4.18 or later" ;;
      *) row ok "OpenShift $version" "4.18 or later" ;;
    esac
  fi
}

check_operators() {
  local kind resource fix version
  "$KUBECTL" api-versions >"$WORK/versions" 2>/dev/null || true
  while read -r kind resource fix; do
    uses "^kind: $kind\$" || continue
    version=$(awk -v kind="$kind" '/^apiVersion:/ { version = $2 } $0 == "kind: " kind { print version; exit }' "$WORK/manifests.yaml")
    if ! served "$resource"; then row FAIL "$kind" "$resource is not known to the server" "$fix"
    elif ! grep -qx -- "$version" "$WORK/versions"; then row FAIL "$kind" "$resource is served, but not as $version" "upgrade its operator"
    else row ok "$kind" "$resource is served as $version"; fi
  done <<'END'
DataSciencePipelinesApplication datasciencepipelinesapplications.datasciencepipelinesapplications.opendatahub.io install OpenShift AI with the component datasciencepipelines Managed
Notebook notebooks.kubeflow.org install OpenShift AI with the component workbenches Managed
InferenceService inferenceservices.serving.kserve.io install OpenShift AI with the component kserve Managed, or KServe 0.16 or later
ServingRuntime servingruntimes.serving.kserve.io install OpenShift AI with the component kserve Managed, or KServe 0.16 or later
PrometheusRule prometheusrules.monitoring.coreos.com install the Prometheus operator (OpenShift has it)
AlertmanagerConfig alertmanagerconfigs.monitoring.coreos.com install the Prometheus operator (OpenShift has it)
ExternalSecret externalsecrets.external-secrets.io install the External Secrets Operator, or take the component external-secrets out and create the secrets
ObjectBucketClaim objectbucketclaims.objectbucket.io install OpenShift Data Foundation, or give a bucket of your own
PeerAuthentication peerauthentications.security.istio.io install OpenShift Service Mesh, or take the component istio out
GrafanaDashboard grafanadashboards.grafana.integreatly.org install the Grafana operator, or take the component grafana out
END
}

check_kserve() { # plain Kubernetes only: OpenShift AI brings a KServe that fits
  [ "$PLATFORM" = vanilla-kubernetes ] && served inferenceservices.serving.kserve.io || return 0
  local where image version
  read -r where image < <("$KUBECTL" get deployments --all-namespaces -l control-plane=kserve-controller-manager -o \
    'jsonpath={range .items[*]}{.metadata.namespace} {.spec.template.spec.containers[?(@.name=="manager")].image}{"\n"}{end}' 2>/dev/null) || true
  version=$(sed -n 's/.*:v\([0-9]*\.[0-9]*\).*/\1/p' <<<"${image:-}")
  case $version in
    '') row warn KServe "its version cannot be told (${image:-no controller found})" "check that it is 0.16 or later" ;;
    0.[0-9] | 0.1[0-5]) row FAIL "KServe $version" "0.16 or later is needed: before, the mode Standard was called RawDeployment" "upgrade KServe" ;;
    *) row ok "KServe $version" "0.16 or later" ;;
  esac
  if [ -n "${where:-}" ] && "$KUBECTL" get configmap inferenceservice-config -n "$where" -o 'jsonpath={.data.service}' 2>/dev/null |
    grep -Eq '"serviceClusterIPNone" *: *true'; then
    row FAIL "KServe's Services" "serviceClusterIPNone is true: predictors' addresses, which have no port, would not answer" \
      "$KUBECTL patch configmap inferenceservice-config -n $where --type merge -p '{\"data\": {\"service\": \"{\\\"serviceClusterIPNone\\\": false}\"}}'"
  fi
}

check_network() {
  local port
  if [ "$PLATFORM" = vanilla-kubernetes ]; then
    if prometheus_closed; then
      row warn "network policies of monitoring" "kube-prometheus' own admit nobody else, where the cluster enforces them" "$PROMETHEUS_FIX"
    fi
  fi
  uses '^  name: kubernetes-api$' || return 0
  port=$("$KUBECTL" get endpointslices kubernetes -n default -o 'jsonpath={.ports[0].port}' 2>/dev/null || true)
  case $port in
    6443 | '') ;;
    *) row FAIL "network policy kubernetes-api" "it allows port 6443; this API server answers on $port" "patch the port in the overlay" ;;
  esac
}

check_rights() {
  if wanted cluster; then
    if may customresourcedefinitions apiextensions.k8s.io && may clusterroles rbac.authorization.k8s.io; then row ok "rights: cluster layer" "CRDs and ClusterRoles"; else
      row FAIL "rights: cluster layer" "this account may not create CRDs and ClusterRoles" \
        "an administrator runs ./bootstrap.sh --environment $ENVIRONMENT --layer cluster; you run the other layers by --layer"
    fi
  fi
  if wanted namespace && ! "$KUBECTL" get namespace "$NAMESPACE" >/dev/null 2>&1 && ! may namespaces ''; then
    row FAIL "rights: namespace layer" "$NAMESPACE is not there, and this account may not create it" \
      "an administrator runs ./bootstrap.sh --environment $ENVIRONMENT --layer namespace"
  fi
  if wanted access && uses '^kind: ClusterRoleBinding' && ! may clusterrolebindings rbac.authorization.k8s.io; then
    row FAIL "rights: access layer" "this account may not bind cluster roles, which the engine reads the cluster by" \
      "an administrator runs ./bootstrap.sh --environment $ENVIRONMENT --layer access; you run the other layers by --layer"
  fi
  local resource group missing=()
  while read -r resource group; do
    may "$resource" "$group" "$NAMESPACE" || missing+=("$resource")
  done <<'END'
serviceaccounts
configmaps
services
persistentvolumeclaims
deployments apps
roles rbac.authorization.k8s.io
rolebindings rbac.authorization.k8s.io
END
  if [ ${#missing[@]} -eq 0 ]; then row ok "rights: $NAMESPACE" "may create what is needed"; else
    row FAIL "rights: $NAMESPACE" "may not create ${missing[*]}" "$KUBECTL create rolebinding bootstrap-admin -n $NAMESPACE --clusterrole=admin --user=<you>"
  fi
}

check_storage() {
  local class
  while read -r class; do
    if "$KUBECTL" get storageclass "$class" >/dev/null 2>&1; then row ok "storage class $class" "there"; else
      row FAIL "storage class $class" "not there: volumes would stay Pending" \
        "install it, or name another one in the overlay ($("$KUBECTL" get storageclass -o name 2>/dev/null | sed 's#.*/##' | tr '\n' ' ' || true))"
    fi
  done < <(sed -n 's/^ *storageClassName: *//p' "$WORK/manifests.yaml" | grep -v -e null -e '""' | sort -u)
}

check_monitoring() {
  [ "$PLATFORM" != vanilla-kubernetes ] || return 0
  local config
  config=$("$KUBECTL" get configmap cluster-monitoring-config -n openshift-monitoring -o 'jsonpath={.data.config\.yaml}' 2>/dev/null || true)
  if grep -q 'enableUserWorkload: *true' <<<"$config"; then row ok "user workload monitoring" "enabled"; else
    row FAIL "user workload monitoring" "enableUserWorkload: true is not set in cluster-monitoring-config (or may not be read)" \
      "$KUBECTL edit configmap cluster-monitoring-config -n openshift-monitoring"
  fi
  config=$("$KUBECTL" get configmap user-workload-monitoring-config -n openshift-user-workload-monitoring -o 'jsonpath={.data.config\.yaml}' 2>/dev/null || true)
  if grep -q 'enableAlertmanagerConfig: *true' <<<"$config"; then row ok "Alertmanager for users" "enabled"; else
    row warn "Alertmanager for users" "alertmanager {enabled, enableAlertmanagerConfig} is not set: the webhook gets no alerts" \
      "$KUBECTL edit configmap user-workload-monitoring-config -n openshift-user-workload-monitoring"
  fi
}

check_gpus() {
  uses 'nvidia.com/' || return 0
  local resource=nvidia.com/gpu found
  found=$("$KUBECTL" get nodes -o 'jsonpath={range .items[*]}{.status.allocatable.nvidia\.com/gpu}{"\n"}{end}' 2>/dev/null | grep -c '[1-9]' || true)
  if [ "${found:-0}" -gt 0 ]; then row ok "GPU nodes" "$found with $resource"; else
    row FAIL "GPU nodes" "no node offers $resource" "install the NVIDIA GPU operator and add a GPU node, or take the component nvidia-gpu out"
  fi
}

check_quota() {
  local name used
  # shellcheck disable=SC2016 # the dollars are the template's
  while IFS=' ' read -r name used; do
    [ -n "$name" ] && row warn "quota $name" "$used" "make room, or raise it: pods that do not fit are not created"
  done < <("$KUBECTL" get resourcequota -n "$NAMESPACE" -o \
    'go-template={{range .items}}{{$q := .}}{{range $k, $v := .status.hard}}{{if eq (index $q.status.used $k) $v}}{{$q.metadata.name}} {{$k}} is used up at {{$v}}{{"\n"}}{{end}}{{end}}{{end}}' 2>/dev/null || true)
}

check_images() {
  local image
  while read -r image; do
    row FAIL "image ${image##*/}" "its digest is the placeholder" "build and push the images, then put name and digest into manifests/components/images"
  done < <(sed -n 's/^ *image: *//p' "$WORK/manifests.yaml" | grep "$UNPINNED" | sort -u)
}

SECRETS_FIX='manifests/README.md, section "Made outside these manifests", has the commands'
missing_secrets() { # those that are made outside Git, are needed, and are not there
  local name external
  external=$(awk '/^---/ { kind = "" } /^kind:/ { kind = $2 } /^  name:/ && kind == "ExternalSecret" { print $2 }' "$WORK/manifests.yaml")
  for name in engine-alert-token model-storage workbench-token storage-config; do
    case $name in
      storage-config) [ "$PLATFORM" = vanilla-kubernetes ] || continue ;; # OpenShift AI makes it of model-storage
      *) uses "[nN]ame: $name\$" || continue ;;
    esac
    grep -qx "$name" <<<"$external" || "$KUBECTL" get secret "$name" -n "$NAMESPACE" >/dev/null 2>&1 || echo "$name"
  done
}
check_secrets() {
  local name
  for name in $(missing_secrets); do row warn "secret $name" "not there: pods that need it would wait for it" "$SECRETS_FIX"; done
}
need_secrets() { # before the first layer whose pods would wait in vain
  [ -z "$DRY_RUN$SKIP_CHECKS" ] || return 0
  local missing
  missing=$(missing_secrets | tr '\n' ' ')
  [ -z "$missing" ] || { row FAIL "secrets" "not there: ${missing% }" "make them, now that $NAMESPACE is there: $SECRETS_FIX" && return 1; }
}

apply() { # layer file
  local flags=(--server-side "--field-manager=$MANAGER" --force-conflicts=false)
  [ -z "$DRY_RUN" ] || flags+=(--dry-run=server)
  "$KUBECTL" apply "${flags[@]}" -f "$2" >"$WORK/apply" 2>&1 && return
  if [ "$1" = schedules ] && [ -z "$DRY_RUN" ] && grep -q immutable "$WORK/apply"; then # a Job's pods cannot be changed
    "$KUBECTL" delete --ignore-not-found -f "$2" >/dev/null && "$KUBECTL" apply "${flags[@]}" -f "$2" >"$WORK/apply" 2>&1 && return
  fi
  if [ -n "$DRY_RUN" ] && ! grep -v -e 'NotFound' -e 'no matches for kind' -e 'ensure CRDs are installed' -e 'serverside-applied' -e '^ *$' "$WORK/apply" | grep -qi error; then
    return 3 # needs what an earlier layer would have made
  fi
  return 1
}

wait_for() { # layer
  local kind name
  case $1 in
    cluster) "$KUBECTL" wait --for=condition=Established --timeout="${TIMEOUT}s" crd/incidents.clusterheal.io crd/remediationpolicies.clusterheal.io ;;
    pipelines)
      served datasciencepipelinesapplications.datasciencepipelinesapplications.opendatahub.io || return 0
      "$KUBECTL" wait --for=condition=Ready --timeout="${TIMEOUT}s" -n "$NAMESPACE" datasciencepipelinesapplications/dspa ;;
    engine)
      while read -r kind name; do
        [ "$kind" = Deployment ] || continue
        "$KUBECTL" rollout status "deployment/$name" -n "$NAMESPACE" --timeout="${TIMEOUT}s" || return 1
      done < <(awk '/^kind:/ { kind = $2 } /^  name:/ && !seen[NR] { print kind, $2 }' "$WORK/layers/engine.yaml") ;;
    *) ;;
  esac
}

install() { # layer
  local file="$WORK/layers/$1.yaml" count status=0
  [ -s "$file" ] || return 0
  count=$(grep -c '^kind:' "$file")
  apply "$1" "$file" || status=$?
  if [ "$status" -eq 3 ]; then
    row warn "layer $1" "cannot be checked before the layers above it are there: $(grep -i -m1 -e notfound -e 'no matches' "$WORK/apply" | cut -c1-140)"
    return 0
  elif [ "$status" -ne 0 ]; then
    local fix="mend it and run this again; layers above are in place"
    ! grep -q 'conflict with' "$WORK/apply" ||
      fix="change it by what wrote it, or take it over once: $KUBECTL apply --server-side --field-manager=$MANAGER --force-conflicts -k manifests/overlays/$ENVIRONMENT"
    row FAIL "layer $1" "$(grep -i -m1 -e error -e conflict "$WORK/apply" | cut -c1-300)" "$fix"
    return 1
  fi
  if [ -n "$DRY_RUN" ]; then row ok "layer $1" "$count objects pass the server's checks" && return 0; fi
  if wait_for "$1" >"$WORK/wait" 2>&1; then row ok "layer $1" "$count objects applied and ready"; else
    row FAIL "layer $1" "not ready after $TIMEOUT s: $(tail -1 "$WORK/wait" | cut -c1-200)" "$KUBECTL get events -n $NAMESPACE --sort-by=.lastTimestamp"
    return 1
  fi
}

workspace
need_kubectl
[ -n "$PLATFORM" ] || PLATFORM=$(find_platform)
echo "environment $ENVIRONMENT, namespace $NAMESPACE, platform $PLATFORM${DRY_RUN:+, dry run: nothing is changed}"
render "$ENVIRONMENT" "$PLATFORM" ${COMPONENTS[@]+"${COMPONENTS[@]}"}
split_layers
cluster="$ROOT/manifests/cluster"
[ "$PLATFORM" != vanilla-kubernetes ] || cluster="$cluster/vanilla-kubernetes"
{ echo ---; "$KUBECTL" kustomize "$cluster"; } >>"$WORK/layers/cluster.yaml"

echo; echo "Checks"
check_versions; check_operators; check_kserve; check_rights; check_storage; check_monitoring; check_network; check_gpus; check_quota; check_images; check_secrets
if [ "$FAILED" -gt 0 ] && [ -z "$SKIP_CHECKS" ]; then
  echo; echo "$FAILED checks failed; nothing was changed. Mend them, or go on with --skip-checks."
  exit 1
fi
checks_failed=$FAILED

echo; echo "Layers"
for layer in "${LAYERS[@]}"; do
  wanted "$layer" || continue
  case $layer in pipelines | serving | engine | workbench) need_secrets || break ;; esac
  install "$layer" || break
done

echo
if [ "$FAILED" -gt "$checks_failed" ]; then
  echo "stopped: a layer failed; the layers before it stay. Run the same command again after mending it."
  exit 1
fi
skipped=""
[ "$checks_failed" -eq 0 ] || skipped=", $checks_failed failed checks were skipped"
echo "done: $((${#ROWS[@]} - FAILED - WARNED)) ok, $WARNED to look at$skipped."
[ -z "$DRY_RUN" ] || exit 0
if [ "$PLATFORM" = vanilla-kubernetes ]; then settings="kubectl apply -k manifests/kubeflow"; else
  settings="$KUBECTL apply -k manifests/pipelines/$ENVIRONMENT, compiled with your image: clusterheal pipeline compile --image"
fi
cat <<END
Next: $settings
then run the pipeline "train" once, so that there are models to serve, and ./validate_bootstrap.sh --environment $ENVIRONMENT
The engine observes only, until the component remediation-enforce is added and a RemediationPolicy lets it act.
END
