#!/usr/bin/env bash
# Remove the platform from a cluster. Asks first; data (volumes, incidents, the namespace itself) stay unless told otherwise.
set -euo pipefail
# shellcheck source=scripts/platform.sh
. "$(dirname "$0")/scripts/platform.sh"

usage() {
  cat <<END
Usage: ./teardown.sh --environment development|production [options]

Removes what bootstrap.sh installed, in the opposite order. Volumes, buckets, secrets, incidents, policies and the namespace stay.

  --environment NAME   a folder of manifests/overlays
  --component NAME     a component that was installed with it; may be repeated
  --platform NAME      rhoai-2x, rhoai-3x or vanilla-kubernetes; default: what the cluster is
  --delete-data        also volumes, buckets, incidents and policies, and the namespace
  --cluster            also the cluster layer: CRDs (with every incident of every environment) and ClusterRoles
  --dry-run            say what would be removed
  --yes                do not ask
END
}

ENVIRONMENT='' PLATFORM='' DELETE_DATA='' CLUSTER='' DRY_RUN='' YES='' COMPONENTS=()
while [ $# -gt 0 ]; do
  case $1 in
    --environment | --component | --platform)
      [ $# -ge 2 ] || die "$1 needs a value; see --help"
      case $1 in
        --environment) ENVIRONMENT=$2 ;;
        --component) known_component "$2" && COMPONENTS+=("$2") ;;
        --platform) PLATFORM=$2 ;;
      esac
      shift 2
      ;;
    --delete-data) DELETE_DATA=1 && shift ;;
    --cluster) CLUSTER=1 && shift ;;
    --dry-run) DRY_RUN=1 && shift ;;
    --yes) YES=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
[ -n "$ENVIRONMENT" ] || die "--environment is missing: development or production"
[ -d "$ROOT/manifests/overlays/$ENVIRONMENT" ] || die "no environment $ENVIRONMENT; there are: $(cd "$ROOT/manifests/overlays" && echo */ | tr -d /)"
NAMESPACE=$(namespace_of "$ENVIRONMENT")

keeps() { # is this kind data?
  case $1 in PersistentVolumeClaim | ObjectBucketClaim | Secret | ExternalSecret | Namespace | RemediationPolicy) return 0 ;; *) return 1 ;; esac
}

workspace
need_kubectl
[ -n "$PLATFORM" ] || PLATFORM=$(find_platform)
render "$ENVIRONMENT" "$PLATFORM" ${COMPONENTS[@]+"${COMPONENTS[@]}"}
split_layers
: >"$WORK/remove.yaml"
: >"$WORK/kept"
for ((i = ${#LAYERS[@]} - 1; i >= 0; i--)); do
  for file in "$WORK"/objects/*.yaml; do
    kind=$(sed -n 's/^kind: *//p' "$file")
    [ "$(layer_of "$kind")" = "${LAYERS[$i]}" ] || continue
    if [ -z "$DELETE_DATA" ] && keeps "$kind"; then sed -n "s/^  name: */$kind /p" "$file" | head -1 >>"$WORK/kept"; else
      { echo ---; cat "$file"; } >>"$WORK/remove.yaml"
    fi
  done
done
if [ -n "$CLUSTER" ]; then
  folder="$ROOT/manifests/cluster"
  [ "$PLATFORM" != vanilla-kubernetes ] || folder="$folder/vanilla-kubernetes"
  { echo ---; "$KUBECTL" kustomize "$folder"; } >>"$WORK/remove.yaml"
fi

echo "from $("$KUBECTL" config view --minify -o 'jsonpath={.clusters[0].cluster.server}' 2>/dev/null || echo 'the cluster'), namespace $NAMESPACE, this removes"
grep '^kind:' "$WORK/remove.yaml" | sort | uniq -c
[ ! -s "$WORK/kept" ] || { echo "and keeps"; sed 's/^/  /' "$WORK/kept"; }
if [ -n "$DRY_RUN" ]; then echo "dry run: nothing was removed" && exit 0; fi
if [ -z "$YES" ]; then
  read -r -p "Type the namespace's name to go on: " answer || true
  [ "${answer:-}" = "$NAMESPACE" ] || { echo "nothing was removed" && exit 1; }
fi
status=0
if [ -n "$DELETE_DATA" ] && served incidents.clusterheal.io; then
  "$KUBECTL" delete incidents,remediationpolicies --all -n "$NAMESPACE" --ignore-not-found || status=1
fi
"$KUBECTL" delete --ignore-not-found --wait=true --timeout=300s -f "$WORK/remove.yaml" 2>"$WORK/errors" || true
# A kind whose definition is gone has no objects left.
if grep -v -e 'no matches for kind' -e 'ensure CRDs are installed first' -e "doesn't have a resource type" -e '^Warning:' -e '^ *$' "$WORK/errors" >"$WORK/real"; then
  cat "$WORK/real" >&2
  status=1
fi
if [ "$status" -eq 0 ]; then echo "removed"; else echo "not everything could be removed; run this again" >&2; fi
exit "$status"
