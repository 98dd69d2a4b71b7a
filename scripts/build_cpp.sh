#!/bin/sh
# Usage: build_cpp.sh FOLDER [SOURCE] [CMAKE-OPTION...]
# Build the C++ client into FOLDER with the ONNX Runtime of SOURCE: a Python that has onnxruntime
# (default: python3), a wheel of it, or a release archive or its folder. On Debian and Ubuntu the
# compiler and libraries are first installed from the system's packages, as root only. Everything
# is checked before anything is installed. A second call compiles only what changed.
set -eu
folder=${1:?usage: build_cpp.sh FOLDER [SOURCE] [CMAKE-OPTION...]}
source=${2:-python3}
[ $# -lt 2 ] && shift 1 || shift 2
here=$(cd "$(dirname "$0")" && pwd)
packages='cmake g++ ninja-build pkg-config nlohmann-json3-dev libpng-dev'

missing=
if command -v dpkg-query >/dev/null; then
    for package in $packages; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
            || missing="$missing $package"
    done
    if [ -n "$missing" ] && [ "$(id -u)" != 0 ]; then
        echo "the C++ client needs packages; run: sudo apt-get install$missing" >&2
        exit 1
    fi
else
    for program in cmake c++ ninja; do
        command -v "$program" >/dev/null || missing="$missing $program"
    done
    if [ -n "$missing" ]; then
        echo "the C++ client needs$missing, and the headers of libpng and nlohmann-json" >&2
        exit 1
    fi
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
sdk=$(dirname "$folder")/onnxruntime-sdk
# Another source than last time: made anew. Sanitized and plain builds side by side share one.
if [ ! -e "$sdk/source" ] || [ "$(cat "$sdk/source")" != "$source" ]; then
    sh "$here/onnxruntime_sdk.sh" "$sdk" "$source"
fi
if [ -n "$missing" ]; then
    # Another apt may be running.
    apt-get -qq -o DPkg::Lock::Timeout=300 update
    apt-get -qq -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends $missing
fi

cmake -S "$here/../runtimes/cpp" -B "$folder" -G Ninja -DONNXRUNTIME_ROOT="$sdk" "$@"
cmake --build "$folder"
