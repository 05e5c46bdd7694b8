#!/usr/bin/env bash
# Does the installed platform work? Objects, an engine round trip, a prediction from each service, a metric, an alert.
set -euo pipefail
# shellcheck source=scripts/platform.sh
. "$(dirname "$0")/scripts/platform.sh"

usage() {
  cat <<END
Usage: ./validate_bootstrap.sh --environment development|production [options]

Changes nothing. Ends with 0 when everything works, 1 when something does not, 2 when it could not look.

  --environment NAME    a folder of manifests/overlays
  --component NAME      a component that was installed with it; may be repeated
  --platform NAME       rhoai-2x, rhoai-3x or vanilla-kubernetes; default: what the cluster is
  --engine-url URL      default: a port-forward to the Service coordination-engine
  --detector-url URL    default: a port-forward to the Service of anomaly-detector's predictor
  --forecaster-url URL  likewise for predictive-analytics
  --prometheus-url URL  default: the route of thanos-querier, or a port-forward to monitoring/prometheus-k8s
  --token-file FILE     bearer token; default: the token of this login
Needs curl and python3.
END
}

ENVIRONMENT='' PLATFORM='' ENGINE='' DETECTOR='' FORECASTER='' PROMETHEUS='' TOKEN_FILE='' COMPONENTS=()
while [ $# -gt 0 ]; do
  case $1 in
    --environment | --component | --platform | --engine-url | --detector-url | --forecaster-url | --prometheus-url | --token-file)
      [ $# -ge 2 ] || die "$1 needs a value; see --help"
      case $1 in
        --environment) ENVIRONMENT=$2 ;;
        --component) known_component "$2" && COMPONENTS+=("$2") ;;
        --platform) PLATFORM=$2 ;;
        --engine-url) ENGINE=$2 ;;
        --detector-url) DETECTOR=$2 ;;
        --forecaster-url) FORECASTER=$2 ;;
        --prometheus-url) PROMETHEUS=$2 ;;
        --token-file) TOKEN_FILE=$2 ;;
      esac
      shift 2
      ;;
    -h | --help) usage && exit 0 ;;
    *) die "unknown argument $1; see --help" ;;
  esac
done
[ -n "$ENVIRONMENT" ] || die "--environment is missing: development or production"
[ -d "$ROOT/manifests/overlays/$ENVIRONMENT" ] || die "no environment $ENVIRONMENT; there are: $(cd "$ROOT/manifests/overlays" && echo */ | tr -d /)"
for tool in curl python3; do command -v "$tool" >/dev/null || die "$tool is not on PATH"; done
NAMESPACE=$(namespace_of "$ENVIRONMENT")
FORWARDS=()

token() {
  if [ -n "$TOKEN_FILE" ]; then cat "$TOKEN_FILE"; else "$KUBECTL" whoami -t 2>/dev/null || true; fi
}

ask() { # method url [body] -> body on stdout; fails with the status on stderr
  local arguments=(-sS -k --max-time 30 -X "$1" -o "$WORK/answer" -w '%{http_code}' -H 'Content-Type: application/json') status
  [ ! -s "$WORK/token" ] || arguments+=(-H "@$WORK/authorization")
  [ $# -lt 3 ] || arguments+=(--data-binary "$3")
  status=$(curl "${arguments[@]}" "$2" 2>"$WORK/curl") || { tail -1 "$WORK/curl" >&2 && return 1; }
  cat "$WORK/answer"
  case $status in 2??) ;; *) echo "HTTP $status: $(head -c 200 "$WORK/answer")" >&2 && return 1 ;; esac
}

forward() { # service namespace port scheme -> URL
  "$KUBECTL" port-forward -n "$2" "service/$1" ":$3" >"$WORK/forward-$1" 2>&1 &
  FORWARDS+=($!)
  local port=''
  for _ in $(seq 50); do
    port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\).*/\1/p' "$WORK/forward-$1")
    [ -z "$port" ] || break
    sleep 0.2
  done
  [ -n "$port" ] || { head -c 200 "$WORK/forward-$1" >&2 && return 1; }
  URL="$4://127.0.0.1:$port"
}

field() { # expression over the JSON d on stdin
  python3 -c "import json, sys; d = json.load(sys.stdin); print($1)"
}

check_objects() {
  local file kind name answer before=$FAILED files=()
  for file in "$WORK"/objects/*.yaml; do
    grep -qx 'kind: Job' "$file" || files+=("$file") # hooks are removed when they are done
  done
  if { for file in "${files[@]}"; do echo ---; cat "$file"; done; } | "$KUBECTL" get -f - -o name >/dev/null 2>&1; then
    row ok "objects" "all ${#files[@]} of the overlay are there" && return
  fi
  for file in "${files[@]}"; do # one by one: which is missing, and why?
    answer=$("$KUBECTL" get -f "$file" -o name 2>&1 >/dev/null) && continue
    kind=$(sed -n 's/^kind: *//p' "$file")
    name=$(sed -n 's/^  name: *//p' "$file" | head -1)
    row FAIL "$kind $name" "$(tail -1 <<<"$answer" | cut -c1-200)" "./bootstrap.sh --environment $ENVIRONMENT"
  done
  [ "$FAILED" -gt "$before" ] || row warn "objects" "there one by one, but not all at once" "run this again"
}

condition() { # resource name type -> row
  local status
  status=$("$KUBECTL" get "$1" "$2" -n "$NAMESPACE" -o "jsonpath={.status.conditions[?(@.type==\"$3\")].status}" 2>/dev/null || true)
  if [ "$status" = True ]; then row ok "$1 $2" "$3"; else
    row FAIL "$1 $2" "$3 is ${status:-unknown}" "$KUBECTL describe $1 $2 -n $NAMESPACE"
  fi
}

check_health() {
  local kind name
  while read -r kind name; do
    case $kind in
      Deployment) condition deployment "$name" Available ;;
      InferenceService) condition inferenceservice "$name" Ready ;;
      DataSciencePipelinesApplication) condition datasciencepipelinesapplication "$name" Ready ;;
      *) ;;
    esac
  done < <(awk '/^kind:/ { kind = $2; fresh = 1 } /^  name:/ && fresh { print kind, $2; fresh = 0 }' "$WORK/manifests.yaml")
}

check_engine() {
  local body answer
  if [ -z "$ENGINE" ]; then
    local scheme=http
    [ "$PLATFORM" = vanilla-kubernetes ] || scheme=https
    forward coordination-engine "$NAMESPACE" 8090 "$scheme" 2>"$WORK/why" || {
      row FAIL "engine" "no port-forward: $(cat "$WORK/why")" "$KUBECTL logs deployment/coordination-engine -n $NAMESPACE" && return
    }
    ENGINE=$URL
  fi
  if answer=$(ask GET "$ENGINE/readyz" 2>"$WORK/why"); then row ok "engine ready" "leading: $(field 'd["leading"]' <<<"$answer")"; else
    row FAIL "engine ready" "$(cat "$WORK/why")" "$KUBECTL logs deployment/coordination-engine -n $NAMESPACE" && return
  fi
  body="{\"target\": {\"kind\": \"Deployment\", \"namespace\": \"$NAMESPACE\", \"name\": \"coordination-engine\"}, \"action\": \"restart\", \"dry_run\": true}"
  if answer=$(ask POST "$ENGINE/api/v1/remediate" "$body" 2>"$WORK/why"); then
    row ok "engine round trip" "a dry run of a restart, judged by $(field 'len(d["guards"])' <<<"$answer") guards"
  else
    row FAIL "engine round trip" "$(cat "$WORK/why")" "a token with the right to act: manifests/README.md, Security"
  fi
}

check_sources() { # what the engine itself says that it cannot read; without alerts or silences it does not act
  local answer what why fix
  [ -n "$ENGINE" ] || return 0
  if ! answer=$(ask GET "$ENGINE/api/v1/status" 2>"$WORK/why"); then
    row FAIL "engine sources" "$(cat "$WORK/why")" "a token with the right to read: manifests/README.md, Security" && return
  fi
  field '"\n".join(f"{what} {why}" for what, why in sorted(d["unreadable"].items()))' <<<"$answer" >"$WORK/unreadable"
  if ! grep -q . "$WORK/unreadable"; then row ok "engine sources" "it can read all that it looks at" && return; fi
  while read -r what why; do
    case $what in
      alerts | silences)
        fix="is the address right, and may the engine ask there? manifests/README.md, Troubleshooting"
        if [ "$PLATFORM" = vanilla-kubernetes ] && prometheus_closed; then fix=$PROMETHEUS_FIX; fi ;;
      *) fix="an administrator applies manifests/cluster, and the overlay binds it: manifests/README.md, Structure" ;;
    esac
    row FAIL "engine reads $what" "$(cut -c1-200 <<<"$why")" "$fix"
  done <"$WORK/unreadable"
}

check_prediction() { # model url
  local model=$1 url=$2 metadata answer
  if [ -z "$url" ]; then
    local service=$model-models port=8080 scheme=http
    [ "$PLATFORM" = vanilla-kubernetes ] || { service=$model-predictor && port=8443 && scheme=https; }
    forward "$service" "$NAMESPACE" "$port" "$scheme" 2>"$WORK/why" || {
      row FAIL "$model" "no port-forward: $(cat "$WORK/why")" "run the pipeline train, so that there is a model to serve" && return
    }
    url=$URL
  fi
  ask GET "$url/v2/models/$model/ready" >/dev/null 2>"$WORK/why" || {
    row FAIL "$model" "not ready: $(cat "$WORK/why")" "$KUBECTL describe inferenceservice $model -n $NAMESPACE" && return
  }
  metadata=$(ask GET "$url/v2/models/$model" 2>"$WORK/why") || { row FAIL "$model" "no metadata: $(cat "$WORK/why")" && return; }
  if ! python3 - "$WORK/infer" 3<<<"$metadata" <<'PYTHON' 2>"$WORK/why"; then
import json, math, os, sys, time

described = json.load(os.fdopen(3))
sizes = lambda t: [1 if n < 0 else n for n in t["shape"]]
filler = {"FP32": 0.5, "INT64": time.time_ns() // 60_000_000_000 * 60_000_000_000, "BYTES": "validate/bootstrap"}
inputs = [
    {"name": t["name"], "datatype": t["datatype"], "shape": sizes(t), "data": [filler[t["datatype"]]] * math.prod(sizes(t))}
    for t in described["inputs"]
]
contract = described.get("properties", described.get("parameters", {}))["contract_sha256"]
json.dump({"inputs": inputs, "parameters": {"contract_sha256": contract}}, open(sys.argv[1], "w"))
PYTHON
    row FAIL "$model" "its metadata do not describe a request: $(tail -1 "$WORK/why")" && return
  fi
  if answer=$(ask POST "$url/v2/models/$model/infer" "@$WORK/infer" 2>"$WORK/why") &&
    answer=$(field '", ".join(o["name"] for o in d["outputs"])' <<<"$answer" 2>"$WORK/why"); then
    row ok "$model" "answers with $answer"
  else
    row FAIL "$model" "no prediction: $(tail -1 "$WORK/why")" "$KUBECTL logs -l serving.kserve.io/inferenceservice=$model -n $NAMESPACE"
  fi
}

find_prometheus() {
  [ -z "$PROMETHEUS" ] || return 0
  if served routes.route.openshift.io; then
    local host
    host=$("$KUBECTL" get route thanos-querier -n openshift-monitoring -o 'jsonpath={.spec.host}' 2>"$WORK/why") || return 1
    PROMETHEUS=https://$host
  else
    forward prometheus-k8s monitoring 9090 http 2>"$WORK/why" || return 1
    PROMETHEUS=$URL
  fi
}

check_monitoring() {
  local answer count
  find_prometheus || { row FAIL "Prometheus" "not found: $(tail -1 "$WORK/why")" "--prometheus-url" && return; }
  if answer=$(curl -sS -k --max-time 30 ${AUTHORIZED[@]+"${AUTHORIZED[@]}"} -G "$PROMETHEUS/api/v1/query" \
    --data-urlencode "query=count({__name__=~\"clusterheal_.+\", namespace=\"$NAMESPACE\"} or {__name__=~\"clusterheal_.+\", namespace=\"\"})" 2>"$WORK/why") &&
    count=$(field '(d["data"]["result"] or [{"value": [0, "0"]}])[0]["value"][1]' <<<"$answer" 2>"$WORK/why"); then
    if [ "$count" != 0 ]; then row ok "metrics" "$count series of clusterheal_* are scraped"; else
      row FAIL "metrics" "no series of clusterheal_* in $NAMESPACE" "is user workload monitoring on, and the ServiceMonitor there?"
    fi
  else
    row FAIL "metrics" "$(tail -1 "$WORK/why")" "--prometheus-url, and a token that may read metrics"
  fi
  if answer=$(curl -sS -k --max-time 30 ${AUTHORIZED[@]+"${AUTHORIZED[@]}"} "$PROMETHEUS/api/v1/rules?type=alert" 2>"$WORK/why") &&
    count=$(field 'sum(r["name"] == "CoordinationEngineDown" for g in d["data"]["groups"] for r in g["rules"])' <<<"$answer" 2>"$WORK/why"); then
    if [ "$count" != 0 ]; then row ok "alerts" "CoordinationEngineDown is loaded"; else
      row FAIL "alerts" "CoordinationEngineDown is not among the loaded rules" "$KUBECTL describe prometheusrules -n $NAMESPACE"
    fi
  else
    row FAIL "alerts" "$(tail -1 "$WORK/why")" "--prometheus-url, and a token that may read rules"
  fi
}

workspace
trap 'kill "${FORWARDS[@]}" 2>/dev/null || true; rm -rf "$WORK" "${COPIES[@]}"' EXIT
need_kubectl
[ -n "$PLATFORM" ] || PLATFORM=$(find_platform)
token >"$WORK/token"
AUTHORIZED=()
if [ -s "$WORK/token" ]; then
  (umask 077 && printf 'Authorization: Bearer %s\n' "$(cat "$WORK/token")" >"$WORK/authorization")
  AUTHORIZED=(-H "@$WORK/authorization")
fi
echo "environment $ENVIRONMENT, namespace $NAMESPACE, platform $PLATFORM"
render "$ENVIRONMENT" "$PLATFORM" ${COMPONENTS[@]+"${COMPONENTS[@]}"}
split_layers
check_objects
check_health
check_engine
check_sources
check_prediction anomaly-detector "$DETECTOR"
check_prediction predictive-analytics "$FORECASTER"
check_monitoring
echo
if [ "$FAILED" -gt 0 ]; then echo "$FAILED of ${#ROWS[@]} checks failed" && exit 1; fi
echo "${#ROWS[@]} checks, none failed, $WARNED to look at"
