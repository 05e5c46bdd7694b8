#!/usr/bin/env bash
# What every image installs, and what the tests run: one extra of this project and its locked dependencies, nothing else.
# Usage: install.sh VENV EXTRA [SOURCE]
#   VENV    where the virtual environment is made
#   EXTRA   engine, serving, serving-gpu, pipelines or workbench
#   SOURCE  the project's folder, or a wheel of it; default: the folder above this script
set -euo pipefail
[ $# -ge 2 ] || { echo "usage: $0 VENV EXTRA [SOURCE]" >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
venv=$1 extra=$2 source=${3:-$root}
locked() { grep -E "^$1==" "$root/constraints.txt"; }

python3 -m venv "$venv"
pip=("$venv/bin/python" -m pip install --no-cache-dir --disable-pip-version-check --quiet)
"${pip[@]}" --upgrade pip # as scripts/setup.sh does: the bases' is old, and takes many minutes over the larger extras
case $extra in
  pipelines | workbench) # torch first and exact: a range would pull another build
    "${pip[@]}" "$(locked torch)" ;;
esac
"${pip[@]}" -c "$root/constraints.txt" "${source}[${extra%-gpu}]"
if [ "$extra" = serving-gpu ]; then # both builds have the same files
  "$venv/bin/python" -m pip uninstall --yes --quiet onnxruntime
  "${pip[@]}" -c "$root/constraints.txt" -c "$root/images/constraints-gpu.txt" "onnxruntime-gpu[cuda,cudnn]"
fi
"$venv/bin/python" -m pip check
# Nothing installs packages in a running image, but for the workbench's people.
[ "$extra" = workbench ] || "$venv/bin/python" -m pip uninstall --yes --quiet pip setuptools
