#!/bin/sh
# Usage: build_cpp.sh FOLDER [PYTHON] [CMAKE-OPTION...]
# Build the C++ client into FOLDER on Debian or Ubuntu, and first bring what it needs: compiler and
# libraries from the system's packages (as root only), ONNX Runtime by onnxruntime_sdk.sh. Nothing
# is done twice: a second call compiles what changed.
set -eu
folder=${1:?usage: build_cpp.sh FOLDER [PYTHON] [CMAKE-OPTION...]}
python=${2:-python3}
[ $# -lt 2 ] && shift 1 || shift 2
here=$(cd "$(dirname "$0")" && pwd)
packages='cmake g++ ninja-build pkg-config nlohmann-json3-dev libpng-dev'

missing=
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' \
        || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "the C++ client needs packages; run: sudo apt-get install$missing" >&2
        exit 1
    fi
    apt-get -qq update
    apt-get -qq install --yes --no-install-recommends $missing
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
sdk=$(dirname "$folder")/onnxruntime-sdk
# An SDK without this header is older than plugins, so it is made anew.
[ -e "$sdk/include/onnxruntime/onnxruntime_ep_c_api.h" ] \
    || sh "$here/onnxruntime_sdk.sh" "$sdk" "$python"
cmake -S "$here/../runtimes/cpp" -B "$folder" -G Ninja -DONNXRUNTIME_ROOT="$sdk" \
    -DMINIT2I_STRICT=ON -DMINIT2I_EXAMPLES=ON -DMINIT2I_FUZZ=ON -DMINIT2I_TEST_PLUGIN=ON "$@"
cmake --build "$folder"
