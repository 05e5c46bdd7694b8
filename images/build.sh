#!/usr/bin/env bash
# Build the images, or some of them. Usage: images/build.sh REGISTRY TAG [IMAGE...]
# Needs podman (or docker as CONTAINER_ENGINE) and bases that are pinned in images/bases.env, and prints each image's digest once pushed:
# that goes into manifests/components/images. PUSH=no only builds.
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 REGISTRY TAG [engine|model-server|model-server-gpu|pipeline|workbench ...]" >&2; exit 2; }
cd "$(dirname "$0")/.."
registry=$1 tag=$2
shift 2
images=("$@")
[ ${#images[@]} -gt 0 ] || images=(engine model-server model-server-gpu pipeline workbench)
engine=${CONTAINER_ENGINE:-podman}

# shellcheck source=images/bases.env disable=SC1091
. images/bases.env
for base in "$BUILD_BASE" "$RUNTIME_BASE"; do
  if ! [[ $base =~ ^[^@[:space:]]+@sha256:[0-9a-f]{64}$ ]] || [[ $base =~ @sha256:0{64}$ ]]; then
    echo "build: images/bases.env does not pin $base by digest; its comment says how" >&2
    exit 1
  fi
done
if [ "$tag" = latest ]; then
  echo "build: give a version as the tag; 'latest' is nobody's version" >&2
  exit 1
fi
command -v "$engine" >/dev/null || { echo "build: $engine is not installed; set CONTAINER_ENGINE" >&2; exit 1; }

commit=$(git rev-parse HEAD)
for image in "${images[@]}"; do
  file=images/${image%-gpu}.Containerfile
  [ -f "$file" ] || { echo "build: no image $image" >&2; exit 2; }
  extra=()
  [ "$image" = model-server-gpu ] && extra=(--build-arg EXTRA=serving-gpu)
  name=$registry/$image:$tag
  "$engine" build --file "$file" --tag "$name" --build-arg "BUILD_BASE=$BUILD_BASE" --build-arg "RUNTIME_BASE=$RUNTIME_BASE" \
    --build-arg "VERSION=$tag" \
    --build-arg "GIT_COMMIT=$commit" "${extra[@]}" .
  echo "$name: $(($("$engine" image inspect --format '{{.Size}}' "$name") >> 20)) MiB" # for the table in images/README.md
  if [ "${PUSH:-yes}" = yes ]; then
    "$engine" push "$name"
    echo "$registry/$image@$("$engine" image inspect --format '{{index .RepoDigests 0}}' "$name" | sed 's/.*@//')"
  fi
done
