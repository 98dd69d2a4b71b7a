#!/bin/sh
# Usage: onnxruntime_sdk.sh FOLDER [SOURCE]
# Make FOLDER with ONNX Runtime's C++ headers (include/) and library (lib/). SOURCE is one of
#   - a Python that has onnxruntime (default: python3), so that both languages run the same engine,
#   - a wheel of onnxruntime, or of a package that has the same files (onnxruntime-gpu),
#   - a release archive of ONNX Runtime (.tgz, .tar.gz or .zip), or the folder unpacked from it.
# Wheels and Pythons have no headers. Those of Debian's libonnxruntime-dev are taken: its signature
# is checked by apt, whose lists for the newer Debian are separate from the system's, and it is
# unpacked, not installed. Nothing is written but FOLDER.
set -eu
folder=${1:?usage: onnxruntime_sdk.sh FOLDER [SOURCE]}
source=${2:-python3}
# Plugins need headers of 1.22 or later. Of Debian's suites forky is the first with such, 1.23;
# trixie's are 1.21. Headers newer than the library are fine: the client asks it for its version.
suite=forky
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
# kMinOrtApi in engine/ort_api.hpp.
least=19

fail() {
    echo "$1" >&2
    exit 1
}

partial="$folder.partial-$$"
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$partial/lib" "$partial/unpacked"
partial=$(cd "$partial" && pwd)

unpack() {
    case $1 in
    *.tgz | *.tar.gz) tar -xzf "$1" -C "$partial/unpacked" ;;
    *) python3 -m zipfile -e "$1" "$partial/unpacked" ;;
    esac || fail "$1: cannot be unpacked; download it again"
}

# The folder with the library in it.
case $source in
*.tgz | *.tar.gz | *.zip | *.whl)
    [ -f "$source" ] || fail "$source: no such file"
    unpack "$source"
    place=$partial/unpacked depth=3
    ;;
*)
    if [ -d "$source" ]; then
        place=$source depth=2
    else
        command -v "$source" >/dev/null || fail \
            "$source: expected a Python, a wheel, a release archive of ONNX Runtime or its folder"
        place=$("$source" -c 'import importlib.util as u, pathlib as p
spec = u.find_spec("onnxruntime")
print(p.Path(spec.origin).parent / "capi" if spec else "")') || fail "$source: is not a Python"
        depth=1
        [ -n "$place" ] || fail "onnxruntime is not installed in $source; run: \
$source -m pip install onnxruntime"
    fi
    ;;
esac

# 1.19.2 of libonnxruntime.so.1.19.2; the links beside it have shorter names.
library=$(find "$place" -maxdepth $depth -name 'libonnxruntime.so.*.*.*' -type f | sort | tail -n 1)
[ -n "$library" ] || fail "$source: has no libonnxruntime.so; wheels have it from 1.19 on"
version=${library##*/libonnxruntime.so.}
case $version in
1.[0-9]* | 1.[0-9][0-9]*) minor=$(echo "$version" | cut -d . -f 2) ;;
*) minor=0 ;;
esac
[ "$minor" -ge "$least" ] || fail \
    "$source: is onnxruntime $version, but 1.$least or later (1.x) is needed"
# The machine that the library is for, at byte 18 of an ELF file: 62 x86-64, 183 aarch64.
machine=$(od -A n -t u2 -j 18 -N 2 "$library" | tr -d ' ')
case $(uname -m):$machine in
x86_64:62 | aarch64:183) ;;
x86_64:* | aarch64:*) fail "$source: its library is for another processor than $(uname -m)" ;;
esac

headers=$(find "$place" -name onnxruntime_cxx_api.h | head -n 1)
if [ -n "$headers" ]; then
    cp -R "$(dirname "$headers")" "$partial/include"
else
    [ -e "$keyring" ] || fail "$source has no headers, and $keyring, with which Debian's are \
checked, is missing; run: apt-get install debian-archive-keyring, or use a release archive"
    mkdir -p "$partial/apt/lists/partial" "$partial/apt/archives/partial"
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
    dpkg-deb -x "$partial"/libonnxruntime-dev_*.deb "$partial/debian"
    mv "$partial/debian/usr/include" "$partial/include"
fi

# The libraries of a GPU release are loaded from the same folder.
for file in "$(dirname "$library")"/libonnxruntime*.so*; do
    [ -L "$file" ] || cp "$file" "$partial/lib/"
done
# The name that programs ask for at run time, and the one for the linker.
ln -s "${library##*/}" "$partial/lib/libonnxruntime.so.1"
ln -s "${library##*/}" "$partial/lib/libonnxruntime.so"
echo "$source" > "$partial/source"
rm -rf "$partial/apt" "$partial/unpacked" "$partial/debian" "$partial"/*.deb "$folder"
mv "$partial" "$folder"
