#!/usr/bin/env bash
# All that a short loan of one GPU can tell about attar, in at most nine minutes and without a network:
#
#   make gpu-bundle                               # before, where there is a network: fills .gpu/
#   bash benchmarks/gpu.sh FOLDER [--small]       # on the machine; --small runs every part on a CPU
#
# Needs Python 3.11 or newer (PYTHON=… names it), torch 2.6 or newer and what else attar needs, but for what .gpu/ holds.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python3}"
fail() {
  echo "benchmarks/gpu.sh: error: $1" >&2
  exit 2
}
command -v "$python" >/dev/null || fail "there is no $python here; PYTHON=... names another"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  fail "attar needs Python 3.11 or newer; PYTHON=... names another than $python"
export PYTHONPATH="$root:$root/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONDONTWRITEBYTECODE=1
exec "$python" -m benchmarks.gpu "$@"
