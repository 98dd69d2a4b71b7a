#!/bin/sh
# Usage: onnxruntime_sdk.sh FOLDER [PYTHON]
# Make FOLDER with ONNX Runtime's C++ headers and library. The headers are Debian's
# libonnxruntime-dev, unpacked and not installed; its signature is checked by apt, whose lists for
# the newer Debian are kept apart from the system's. The library is the one of the onnxruntime
# package in PYTHON, so that both languages run the same engine.
set -eu
folder=${1:?usage: onnxruntime_sdk.sh FOLDER [PYTHON]}
python=${2:-python3}
# Plugins need headers of 1.22 or later. Of Debian's suites forky is the first to have such, 1.23;
# trixie's are 1.21. It still moves, and headers newer than the library would not run with it.
suite=forky
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

library=$("$python" -c 'import importlib.util as u, pathlib as p
spec = u.find_spec("onnxruntime")
found = sorted(p.Path(spec.origin).parent.glob("capi/libonnxruntime.so.*")) if spec else []
print(found[-1] if found else "")')
if [ -z "$library" ]; then
    echo "onnxruntime is not installed in $python; run: $python -m pip install 'minit2i-deploy[cpu]'" >&2
    exit 1
fi
if [ ! -e "$keyring" ]; then
    echo "$keyring is missing; run: apt-get install debian-archive-keyring" >&2
    exit 1
fi

partial="$folder.partial-$$"
trap 'rm -rf "$partial"' EXIT
mkdir -p "$partial/apt/lists/partial" "$partial/apt/archives/partial" "$partial/lib"
partial=$(cd "$partial" && pwd)
cat > "$partial/apt/$suite.sources" <<END
Types: deb
URIs: http://deb.debian.org/debian
Suites: $suite
Components: main
Signed-By: $keyring
END
apt() {
    # The sandbox user could not write here.
    apt-get -qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$partial/apt" \
        -o Dir::State::Lists="$partial/apt/lists" -o Dir::Cache="$partial/apt" \
        -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}
apt update
(cd "$partial" && apt download libonnxruntime-dev)
dpkg-deb -x "$partial"/libonnxruntime-dev_*.deb "$partial/unpacked"
mv "$partial/unpacked/usr/include" "$partial/include"
headers=$(sed -n 's/^#define ORT_API_VERSION \([0-9]*\).*/\1/p' \
    "$partial/include/onnxruntime/onnxruntime_c_api.h")
: "${headers:?is not told by onnxruntime_c_api.h of Debian $suite; use an older suite}"
minor=$(basename "$library" | cut -d . -f 4)
if [ "$headers" -gt "$minor" ]; then
    echo "the headers of Debian $suite are 1.$headers, but onnxruntime in $python is 1.$minor;" \
        "run: $python -m pip install --upgrade onnxruntime" >&2
    exit 1
fi

# The name that programs ask for at run time is in the library; the other is for the linker.
name=$(basename "$library")
cp "$library" "$partial/lib/$name"
ln -s "$name" "$partial/lib/libonnxruntime.so.1"
ln -s "$name" "$partial/lib/libonnxruntime.so"
rm -rf "$partial/apt" "$partial/unpacked" "$partial"/*.deb "$folder"
mv "$partial" "$folder"
