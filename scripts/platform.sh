# shellcheck shell=bash
# What bootstrap.sh, validate_bootstrap.sh and teardown.sh share: arguments' checks, rendering, layers, tables. Sourced.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# In the order in which they are installed; teardown goes the other way.
LAYERS=(cluster namespace access storage pipelines serving engine workbench monitoring schedules)

layer_of() { # kind -> layer
  case $1 in
    CustomResourceDefinition | ClusterRole | AlertingRule) echo cluster ;;
    Namespace) echo namespace ;;
    ServiceAccount | Role | RoleBinding | ClusterRoleBinding | NetworkPolicy | PeerAuthentication | AuthorizationPolicy) echo access ;;
    PersistentVolumeClaim | ObjectBucketClaim | ConfigMap | Secret | ExternalSecret | SecretStore) echo storage ;;
    DataSciencePipelinesApplication | Pipeline | PipelineVersion) echo pipelines ;;
    ServingRuntime | InferenceService | TriggerAuthentication | ScaledObject) echo serving ;;
    Service | Deployment | PodDisruptionBudget | RemediationPolicy) echo engine ;;
    Notebook) echo workbench ;;
    ServiceMonitor | PodMonitor | PrometheusRule | AlertmanagerConfig | Grafana*) echo monitoring ;;
    Job | CronJob) echo schedules ;;
    *) echo engine ;; # whatever else an overlay adds comes with the engine
  esac
}

die() {
  echo "${0##*/}: $*" >&2
  exit 2
}

namespace_of() { # environment -> namespace
  case $1 in
    development) echo self-healing-platform-dev ;;
    production) echo self-healing-platform ;;
    *) sed -n 's/^namespace: *//p' "$ROOT/manifests/overlays/$1/kustomization.yaml" ;;
  esac
}

need_kubectl() { # sets KUBECTL
  if command -v oc >/dev/null; then KUBECTL=oc; elif command -v kubectl >/dev/null; then KUBECTL=kubectl; else
    die "neither oc nor kubectl is on PATH; install the OpenShift client, or kubectl"
  fi
  KUBECTL=${CLUSTERHEAL_KUBECTL:-$KUBECTL}
  "$KUBECTL" get --raw /version >/dev/null 2>"$WORK/reach" ||
    die "no API server answers ($(tail -1 "$WORK/reach")); log in, or set KUBECONFIG"
}

served() { # does the server know this resource? e.g. notebooks.kubeflow.org
  [ -f "$WORK/resources" ] || "$KUBECTL" api-resources -o name >"$WORK/resources" 2>/dev/null || true
  grep -qx -- "$1" "$WORK/resources"
}

find_platform() { # rhoai-2x, rhoai-3x or vanilla-kubernetes, from what the cluster has
  if ! served datascienceclusters.datasciencecluster.opendatahub.io; then
    echo vanilla-kubernetes
    return
  fi
  local version
  version=$("$KUBECTL" get datascienceclusters -o 'jsonpath={.items[0].status.release.version}' 2>/dev/null || true)
  case $version in 2.*) echo rhoai-2x ;; *) echo rhoai-3x ;; esac
}

# kube-prometheus ships NetworkPolicies that let only its own parts in; cluster/kube-prometheus adds the platform.
# shellcheck disable=SC2034 # for those who source this
PROMETHEUS_FIX="kubectl apply -k manifests/cluster/kube-prometheus"
prometheus_closed() { # are they there, and nothing that lets the platform in?
  local policies
  policies=$("$KUBECTL" get networkpolicies -n monitoring -o name 2>/dev/null || true)
  grep -q '/prometheus-k8s$' <<<"$policies" && ! grep -q '/clusterheal$' <<<"$policies"
}

# Render the overlay as it is in Git, with the platform's component and those that were asked for. A copy beside the overlay keeps
# its relative paths true; it is removed when the script ends.
render() { # environment platform component... -> $WORK/manifests.yaml
  local environment=$1 platform=$2 copy extra=''
  shift 2
  copy="$ROOT/manifests/overlays/.bootstrap-$environment-$$"
  COPIES+=("$copy")
  cp -r "$ROOT/manifests/overlays/$environment" "$copy"
  for component in "$@"; do
    grep -q "^ *- ../../components/$component\b" "$copy/kustomization.yaml" || extra+="  - ../../components/$component\n"
  done
  sed -i -E "s#^( *- ../../components/)(rhoai-2x|rhoai-3x|vanilla-kubernetes)( .*)?\$#$extra\\1$platform#" "$copy/kustomization.yaml"
  grep -q "components/$platform\$" "$copy/kustomization.yaml" ||
    die "manifests/overlays/$environment/kustomization.yaml names no platform; add ../../components/$platform to its components"
  "$KUBECTL" kustomize "$copy" >"$WORK/manifests.yaml" || die "the overlay $environment does not build with: $platform $*"
}

split_layers() { # $WORK/manifests.yaml -> $WORK/layers/<layer>.yaml
  mkdir -p "$WORK/layers" "$WORK/objects"
  awk -v folder="$WORK/objects" 'BEGIN { n = 1 } /^---$/ { n++; next } { print > sprintf("%s/%04d.yaml", folder, n) }' "$WORK/manifests.yaml"
  local file kind layer
  for file in "$WORK"/objects/*.yaml; do
    kind=$(sed -n 's/^kind: *//p' "$file")
    layer=$(layer_of "$kind")
    { echo ---; cat "$file"; } >>"$WORK/layers/$layer.yaml"
  done
}

known_layer() {
  local layer
  for layer in "${LAYERS[@]}"; do [ "$layer" = "$1" ] && return; done
  die "no layer $1; there are: ${LAYERS[*]}"
}

known_component() {
  [ -f "$ROOT/manifests/components/$1/kustomization.yaml" ] ||
    die "no component $1; there are: $(cd "$ROOT/manifests/components" && echo */ | tr -d /)"
}

ROWS=()
FAILED=0
WARNED=0
row() { # ok|warn|FAIL what said [fix]
  ROWS+=("$1|$2|$3${4:+; fix: $4}")
  printf '%-5s %-34s %s\n' "$1" "$2" "$3"
  [ -z "${4:-}" ] || printf '      %-34s fix: %s\n' '' "$4"
  case $1 in FAIL) FAILED=$((FAILED + 1)) ;; warn) WARNED=$((WARNED + 1)) ;; esac
}

workspace() { # a private folder in $WORK; it and the overlay's copies go when the script ends
  WORK=$(mktemp -d)
  COPIES=()
  trap 'rm -rf "$WORK" "${COPIES[@]}"' EXIT
  trap 'exit 130' INT TERM
}
