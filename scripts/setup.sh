#!/usr/bin/env bash
# Set the project up on a Debian or Ubuntu machine: Debian packages, virtual environment, locked dependencies.
# Quick when nothing changed. Usage: scripts/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=$(grep -E '^torch==' constraints.txt)
STAMP=.venv/.installed
PYTHON=${PYTHON:-python3}

need_debian_packages() {
  local missing=()
  command -v prometheus >/dev/null && command -v promtool >/dev/null || missing+=(prometheus)
  command -v prometheus-alertmanager >/dev/null || missing+=(prometheus-alertmanager)
  # Debian's python3 comes without what makes a virtual environment; another Python brings its own
  [ "$PYTHON" != python3 ] || [ -x .venv/bin/python ] || python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -eq 0 ] && return
  local as_root=()
  if ! command -v apt-get >/dev/null; then
    echo "setup: ${missing[*]} absent and there is no apt-get; install Prometheus and Alertmanager so that" >&2
    echo "  prometheus, promtool and prometheus-alertmanager are on PATH, and a Python with venv" >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      echo "setup: ${missing[*]} absent and this user may not install them. Ask an administrator to run:" >&2
      echo "  apt-get install --no-install-recommends ${missing[*]}" >&2
      exit 1
    fi
  fi
  echo "setup: installing ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

need_python() {
  "$PYTHON" - 2>/dev/null <<'EOF' || { echo "setup: Python >= 3.11 with venv is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
import ensurepip, sys, venv
sys.exit(sys.version_info < (3, 11))
EOF
}

need_dependencies() {
  local wanted
  wanted=$(cat pyproject.toml constraints.txt | sha256sum)
  [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$wanted" ] && [ -x .venv/bin/clusterheal ] && return
  echo "setup: installing the locked dependencies into .venv (a few minutes the first time)"
  [ -x .venv/bin/python ] || "$PYTHON" -m venv .venv
  .venv/bin/python -m pip install -q --upgrade pip
  .venv/bin/python -m pip install -q "$TORCH" # first and exact: a range would pull another build
  .venv/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
  printf '%s' "$wanted" > "$STAMP"
}

need_debian_packages
need_python
need_dependencies
